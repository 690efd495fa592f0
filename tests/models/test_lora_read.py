"""Adapters in the layouts that people have, against what diffusers makes."""

import re

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxreward.errors import UserError
from jaxreward.models import convert, lora, lora_files, lora_names
from jaxreward.models.policies import flux, sd3, wan
from jaxreward.setup import adapters

RNG = np.random.default_rng(3)


def shapes_of(policy):
  """{layer of diffusers: shape of its weight}."""
  like = jax.eval_shape(policy.init, jax.random.key(0))
  public = convert.public_shapes(like, policy.layout)
  found = {n.removesuffix(".weight"): s for n, s in public.items()}
  return {
    n: s for n, s in found.items() if len(s) > 1 and n + ".weight" in public
  }


def kind_of(policy):
  return policy.public_config["_class_name"]


def foreign(policy):
  """{layer as the authors name it: (in, out)} and its layers in diffusers."""
  shapes = shapes_of(policy)
  return {
    name: (shapes[alias.layers[0]][1:], sum(shapes[n][0] for n in alias.layers))
    for name, alias in lora_names.originals(kind_of(policy), shapes).items()
  }


def pair(ins, out, rank):
  a = RNG.standard_normal((rank, *ins), "f4")
  b = 0.1 * RNG.standard_normal((out, rank) + (1,) * (len(ins) - 1), "f4")
  return a / np.sqrt(np.prod(ins), dtype="f4"), b


def matrices(layers, *, ends, alphas=True, ranks=(1, 2, 3)):
  """Tensors of a file: ranks and alphas differ from layer to layer.

  Args:
    layers: {name: (in, out)}.
    ends: of the names of both matrices.
    alphas: whether there are any.
    ranks: taken in turn.
  """
  found = {}
  for i, (name, (ins, out)) in enumerate(layers.items()):
    rank = ranks[i % len(ranks)]
    a, b = pair(ins, out, rank)
    found |= {f"{name}.{ends[0]}.weight": a, f"{name}.{ends[1]}.weight": b}
    if alphas:
      found[f"{name}.alpha"] = np.float32(0.5 + i % 4)
  return found


KOHYA, PEFT = ("lora_down", "lora_up"), ("lora_A", "lora_B")


def write(path, tensors, metadata=None):
  safetensors.numpy.save_file(
    {k: np.ascontiguousarray(x) for k, x in tensors.items()}, path, metadata
  )
  return path


def of_ours(path, policy):
  """{layer of diffusers: (A, B)} of what is read, scaled."""
  tree = adapters.read(str(path), policy)
  return {
    n: (a, b) for n, a, b in lora_files._public_pairs(tree, policy.layout)
  }


def of_theirs(state):
  """The same of a state of diffusers."""
  found = {}
  for name, a in state.items():
    if name.endswith(".lora_A.weight"):
      layer = name.removesuffix(".lora_A.weight")
      b = state[f"{layer}.lora_B.weight"]
      found[layer.removeprefix("transformer.")] = (a, b)
  return found


def assert_same(ours, theirs):
  """Both do the same to a vector, layer by layer, and to no other layer."""
  assert set(ours) == set(theirs)
  for name, (a, b) in ours.items():
    a, b, their_a, their_b = (
      np.asarray(x, np.float64).reshape(len(x), -1)
      for x in (a, b, *theirs[name])
    )
    x = np.random.default_rng(0).standard_normal((a.shape[1], 2))
    got, want = b @ (a @ x), their_b @ (their_a @ x)
    size = np.abs(want).max()
    np.testing.assert_allclose(got, want, atol=1e-5 * size, err_msg=name)


def torch_state(path):
  import safetensors.torch

  return safetensors.torch.load_file(path)


class Lenient(dict):
  """A checkpoint in which what is no product may be missing."""

  def pop(self, name, *default):
    import torch

    return super().pop(name, torch.zeros(6))


def widest(monkeypatch):
  """FLUX of the published width, which diffusers takes as given."""
  size = dict(double=1, single=1, heads=24)
  monkeypatch.setitem(flux.SIZES, "wide", size)
  return flux.make_policy(size="wide", latent_side=8, words=5)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["flux", "sd3", "wan"])
def test_fused_layers_are_split_as_whole_weights_are(
  peers, monkeypatch, tmp_path, name
):
  """Of all layers that the authors name; rows move, so bits are the same."""
  import torch
  from diffusers.loaders import single_file_utils as public

  policy = {
    "flux": lambda: widest(monkeypatch),
    "sd3": lambda: sd3.make_policy(size="tiny", latent_side=8, words=5),
    "wan": lambda: wan.make_policy(
      size="tiny", frames=2, latent_height=4, latent_width=4
    ),
  }[name]()
  convert_whole = {
    "flux": public.convert_flux_transformer_checkpoint_to_diffusers,
    "sd3": public.convert_sd3_transformer_checkpoint_to_diffusers,
    "wan": public.convert_wan_transformer_to_diffusers,
  }[name]
  layers = {n: x for n, x in foreign(policy).items() if "processor" not in n}
  tensors = matrices(layers, ends=PEFT, alphas=False, ranks=(2,))
  path = write(tmp_path / "x.safetensors", tensors)
  whole = Lenient()
  for layer, (_, out) in layers.items():
    b = tensors[f"{layer}.lora_B.weight"]
    whole |= {f"{layer}.weight": b, f"{layer}.bias": np.zeros(out)}
  whole = convert_whole(Lenient({k: torch.tensor(x) for k, x in whole.items()}))
  ours = of_ours(path, policy)
  assert set(ours) == set(shapes_of(policy))
  for layer, (_, b) in ours.items():
    np.testing.assert_array_equal(b, whole[f"{layer}.weight"], err_msg=layer)


def some(layers, pattern):
  return {n: x for n, x in layers.items() if re.search(pattern, n)}


def renamed(layers, rename):
  return {rename(n): x for n, x in layers.items()}


def layouts(policy):
  """{layout: tensors} of the files that diffusers reads of a model."""
  shapes = shapes_of(policy)
  public = {n: (s[1:], s[0]) for n, s in shapes.items()}
  theirs = foreign(policy)
  at = lambda prefix: lambda n: prefix + n
  kohya = lambda n: "lora_unet_" + lora_names.flat(n)
  make = lambda layers, rename, ends, alphas=True: matrices(
    renamed(layers, rename), ends=ends, alphas=alphas
  )
  found = {"ai-toolkit": make(public, at("transformer."), PEFT, alphas=False)}
  if policy.public_config["_class_name"] == "FluxTransformer2DModel":
    # Their converter drops other layers, and knows one width of `linear1`.
    blocks = some(theirs, r"_blocks\.\d+\.(?!processor|linear1)")
    attention = some(public, r"\.attn\.")
    found |= {
      "kohya": make(blocks, kohya, KOHYA),
      "comfy": make(blocks, at("diffusion_model."), KOHYA),
      "xlabs": make(
        some(theirs, "processor"), at(""), ("down", "up"), alphas=False
      ),
      "flat": make(
        attention, lambda n: "lora_transformer_" + lora_names.flat(n), KOHYA
      ),
      # Of `proj_out` the alpha would be that of every block's `proj_out` too.
      "alphas": make(some(public, "^(?!proj_out)"), at("transformer."), PEFT),
    }
  if policy.public_config["_class_name"].startswith("Qwen"):
    default = tuple(f"{end}.default" for end in PEFT)
    found |= {
      "kohya": make(public, kohya, KOHYA),
      "comfy": make(public, at("diffusion_model."), PEFT),
      "default": make(public, at(""), default, alphas=False),
      "bare": make(public, at(""), KOHYA),
    }
  if policy.public_config["_class_name"].startswith("ZImage"):
    blocks = some(public, r"(attention|feed_forward)\.")
    found |= {
      "kohya": make(blocks, kohya, KOHYA),
      "comfy": make(public, at("diffusion_model."), PEFT, alphas=False),
    }
  if policy.public_config["_class_name"].startswith("Wan"):
    blocks = some(theirs, r"^blocks")
    others = some(theirs, r"^(text|time|head)")
    found |= {
      "kohya": make(blocks, kohya, KOHYA),
      "comfy": make(blocks, at("diffusion_model."), PEFT)
      | make(others, at("diffusion_model."), PEFT, alphas=False),
      "distilled": make(blocks, at("diffusion_model."), KOHYA, alphas=False),
    }
  return found


@pytest.mark.parity
@pytest.mark.parametrize(
  "name", ["sd3", "flux", "qwen_image", "wan", "z_image", "flux2"]
)
@pytest.mark.turns(3)
def test_pipelines_draw_what_we_draw(peers, tmp_path, name):
  """Whatever the layout; ranks and alphas differ from layer to layer."""
  import test_lora_files as files

  of = files.drawn(name)
  model, nothing = of.model(), jax.tree.map(np.zeros_like, of.adapter)
  still = of.ours(nothing)
  for layout, tensors in layouts(of.plain).items():
    path = write(tmp_path / f"{layout}.safetensors", tensors)
    read = adapters.read(str(path), of.plain)
    got = of.ours(lora.pad(read, nothing, alpha=files.ALPHA))
    assert np.abs(got - still).max() > 0.01, layout
    want = of.loaded(files.PIPELINES[name][0], path, model)
    gap = np.abs(got - want).max() / np.abs(want).max()
    most = 5e-4 if name == "z_image" else 1e-4
    assert gap < most, f"{layout}: off by {gap:.1e}"


@pytest.mark.parity
def test_published_widths_of_flux_are_read_as_diffusers_reads_them(
  peers, monkeypatch, tmp_path
):
  from diffusers.loaders import lora_conversion_utils as public

  size = dict(double=19, single=38, heads=24)
  monkeypatch.setitem(flux.SIZES, "wide", size)
  policy = flux.make_policy(size="wide", latent_side=8, words=5)
  theirs = foreign(policy)
  blocks = some(theirs, r"_blocks\.\d+\.(?!processor)")
  kohya = renamed(blocks, lambda n: "lora_unet_" + lora_names.flat(n))
  fal = blocks | some(theirs, r"final_layer\.linear")
  fal = renamed(fal, lambda n: f"base_model.model.{n}")
  for tensors, convert_all in (
    (
      matrices(kohya, ends=KOHYA, ranks=(1,)),
      public._convert_kohya_flux_lora_to_diffusers,
    ),
    (
      matrices(fal, ends=PEFT, ranks=(1,), alphas=False),
      public._convert_fal_kontext_lora_to_diffusers,
    ),
  ):
    path = write(tmp_path / "x.safetensors", tensors)
    want = of_theirs(convert_all(torch_state(path)))
    assert_same(of_ours(path, policy), want)


@pytest.mark.parity
def test_what_peft_and_diffusers_save_is_read(peers, tmp_path):
  """Patterns of ranks and alphas, and scales by the root of the rank."""
  peft = pytest.importorskip("peft")
  import test_lora_files as files

  of = files.drawn("sd3")
  nothing = jax.tree.map(np.zeros_like, of.adapter)
  config = peft.LoraConfig(
    r=2, lora_alpha=3, use_rslora=True, init_lora_weights=False,
    target_modules=["to_q", "to_k", "proj_out", "pos_embed.proj", "net.2"],
    rank_pattern={"to_k": 1, r"transformer_blocks\.1\.attn\.to_q": 3},
    alpha_pattern={"proj_out": 1.5, "attn2.to_q": 7},
  )  # fmt: skip
  model = of.model()
  model.add_adapter(config)
  with peers.torch.no_grad():
    for name, x in model.named_parameters():
      if "lora_" in name:
        x.normal_(std=0.3)
  want = of.theirs(model)
  model.save_lora_adapter(tmp_path / "model")
  kind = type(files.pipeline_of(files.PIPELINES["sd3"][0], model))
  state = peft.get_peft_model_state_dict(model, adapter_name="default")
  kind.save_lora_weights(
    tmp_path / "pipe", transformer_lora_layers=state,
    transformer_lora_adapter_metadata=model.peft_config["default"].to_dict(),
  )  # fmt: skip
  wrapped = peft.get_peft_model(of.model(), config)
  wrapped.base_model.model.load_state_dict(model.state_dict())
  wrapped.save_pretrained(tmp_path / "peft")
  for folder in ("model", "pipe", "peft"):
    read = adapters.read(str(tmp_path / folder), of.plain)
    got = of.ours(lora.pad(read, nothing, alpha=files.ALPHA))
    peers.assert_near(got, want, 1e-4)


def small():
  return sd3.make_policy(size="tiny", latent_side=8, words=5, dtype="float32")


@pytest.mark.job
@pytest.mark.turns(3)
def test_what_we_write_is_read_back(tmp_path):
  """From each file, into weights and into adapters of a larger rank."""
  plain = small()
  wrap = lambda rank: lora.adapt_policy(plain, rank=rank, alpha=5.0)
  shapes = jax.eval_shape(wrap(3).init, jax.random.key(0))
  params = jax.tree.map(lambda s: RNG.standard_normal(s.shape, "f4"), shapes)
  base, adapter = lora.split(params)
  lora_files.save_adapter(tmp_path, adapter, plain.layout, alpha=5.0)
  want = lora.fuse(params, alpha=5.0)
  near = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
  for file in ("", "adapter_model.safetensors", lora_files.DIFFUSERS_FILE):
    tree = adapters.read(str(tmp_path / file), plain)
    jax.tree.map(near, lora.add(base, tree), want)
  fresh = lora.split(jax.eval_shape(wrap(4).init, jax.random.key(0)))[1]
  fresh = jax.tree.map(lambda s: np.ones(s.shape, "f4"), fresh)
  fresh = _of_layers(fresh, lambda x: dict(x, b=np.zeros_like(x["b"])))
  padded = lora.pad(tree, fresh, alpha=2.0)
  again = lora.fuse(lora.merge(base, padded), alpha=2.0)
  jax.tree.map(near, again, want)
  # The rank that the file lacks is as fresh, and learns.
  assert (padded["text_in"]["lora"]["a"][:, 3] == 1).all()


def _of_layers(tree, fn):
  if "a" in tree and "b" in tree:
    return fn(tree)
  return {name: _of_layers(child, fn) for name, child in tree.items()}


@pytest.mark.turns(2)
def test_layers_that_a_file_leaves_out_learn(tmp_path):
  plain = small()
  layer = "transformer.transformer_blocks.0.attn.to_q"
  tensors = matrices({layer: ((32,), 32)}, ends=PEFT, ranks=(2,))
  path = write(tmp_path / "x.safetensors", tensors)
  wrap = lora.adapt_policy(plain, rank=3, alpha=3.0, targets="image_q$")
  shapes = lora.split(jax.eval_shape(wrap.init, jax.random.key(0)))[1]
  fresh = jax.tree.map(lambda s: RNG.standard_normal(s.shape, "f4"), shapes)
  fresh = _of_layers(fresh, lambda x: dict(x, b=np.zeros_like(x["b"])))
  padded = lora.pad(adapters.read(str(path), plain), fresh, alpha=3.0)
  a, b = (padded["dual"]["image_q"]["lora"][k] for k in "ab")
  before = fresh["dual"]["image_q"]["lora"]["a"]
  np.testing.assert_array_equal(a[1], before[1])
  np.testing.assert_array_equal(a[0, :, 2], before[0, :, 2])
  np.testing.assert_array_equal(
    a[0, :, :2], tensors[f"{layer}.lora_A.weight"].T
  )
  assert not b[1].any() and b[0].any()
  narrow = lora.adapt_policy(plain, rank=3, alpha=3.0, targets="text_q$")
  other = lora.split(jax.eval_shape(narrow.init, jax.random.key(0)))[1]
  with pytest.raises(UserError, match=r"lora\.targets leaves out"):
    lora.pad(adapters.read(str(path), plain), other, alpha=3.0)
  with pytest.raises(UserError, match="set that to 2 or more"):
    low = jax.tree.map(lambda x: x[..., :1], fresh)
    lora.pad(adapters.read(str(path), plain), low, alpha=3.0)
