"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL whole beside transformers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models.vision import qwen_vision
from jaxreward.models.vlm import decode, prompts, qwen_vl
from jaxreward.training import mesh as meshes
from jaxreward.training import sharding
from tests.models import tower_peers as peers

LENGTH, NEW = 44, 6
# Of the files on the hub.
COUNTS = {
  "qwen2_vl_2b": 2_208_985_600, "qwen2_vl_7b": 8_291_375_616,
  "qwen2.5_vl_3b": 3_754_622_976, "qwen2.5_vl_7b": 8_292_166_656,
  "qwen3_vl_2b": 2_127_532_032, "qwen3_vl_4b": 4_437_815_808,
  "qwen3_vl_8b": 8_767_123_696,
}  # fmt: skip


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2.5_vl", "qwen3_vl"])
def family(request, tmp_path_factory):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  from tests.models.vlm import vl_peers

  return vl_peers.build(request.param, tmp_path_factory.mktemp("family"))


@pytest.mark.turns(3)
@pytest.mark.parity
def test_logits_gradients_and_answers_equal_the_peers(family):
  """Over two images of two sizes in a row, and a video in the next."""
  import torch

  from tests.models.vlm import vl_peers

  model, params, peer = family.model, family.params, family.peer
  packed = prompts.pack(
    model, family.rows, family.shown, length=LENGTH, frames=5, patches=80
  )
  mask = packed.mask

  def loss(params):
    logits = qwen_vl.logits(params, qwen_vl.states(model, params, packed))
    return jnp.where(mask[..., None], jnp.sin(logits), 0).sum(), logits

  def everything(params):
    slopes, logits = jax.grad(loss, has_aux=True)(params)
    prefix = decode.prefill(model, params, packed)
    drawn = decode.generate(
      model, params, prefix, jax.random.key(0), np.arange(2), length=NEW,
      stops=(vl_peers.STOP,), samples=2,
    )  # fmt: skip
    given = decode.log_probs(model, params, prefix, drawn.tokens)
    return slopes, logits, drawn, given

  slopes, logits, drawn, given = jax.jit(everything)(params)
  theirs = peer(
    **vl_peers.inputs(model, packed.tokens, mask, family.shown)
  ).logits
  peers.close(np.asarray(logits)[mask], peers.numpy(theirs)[mask])
  peer.zero_grad()
  theirs[torch.tensor(mask)].sin().sum().backward()
  grads = {n: peers.numpy(p.grad) for n, p in peer.named_parameters()}
  rules = qwen_vl.rules_of(model, nested=True)
  peers.close_trees(slopes, peers.from_public(grads, rules, params))

  for i, size in enumerate(mask.sum(1)):
    row, shown = packed.tokens[i : i + 1, :size], family.shown[i : i + 1]
    with torch.no_grad():
      answer = peer.generate(
        **vl_peers.inputs(model, row, row > -1, shown),
        do_sample=False, max_new_tokens=NEW,
      )[0, size:]  # fmt: skip
    for tokens, taken in zip(drawn.tokens[i], drawn.mask[i], strict=True):
      assert tokens[taken].tolist() == answer.tolist()
  gap = np.where(drawn.mask, drawn.log_probs - given, 0)
  np.testing.assert_allclose(gap, 0, atol=2e-5)


@pytest.mark.parity
def test_weights_go_back_to_the_bit_and_into_transformers(family, tmp_path):
  record = json.loads((family.folder / "config.json").read_text())
  model, params = family.model, family.params
  rules = qwen_vl.rules_of(model, nested=model.vision.model == "qwen3_vl")
  peers.same_after_round_trip(params, rules, family.folder)
  qwen_vl.save(tmp_path, model, params, record)
  again = type(family.peer).from_pretrained(tmp_path).state_dict()
  for name, tensor in family.peer.state_dict().items():
    np.testing.assert_array_equal(peers.numpy(again[name]), peers.numpy(tensor))


@pytest.mark.parity
def test_a_folder_whose_config_and_weights_disagree_is_refused(
  family, tmp_path
):
  record = json.loads((family.folder / "config.json").read_text())
  weights = (family.folder / "model.safetensors").read_bytes()
  (tmp_path / "model.safetensors").write_bytes(weights)

  def refuse(says, **changes):
    changed = {**record, **changes}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match=says):
      qwen_vl.load(tmp_path)

  text, vision = record["text_config"], record["vision_config"]
  refuse(
    "does not fit this model: it lacks .*layers.3.",
    text_config={**text, "num_hidden_layers": 4},
  )
  refuse("holds besides .*blocks.1", vision_config={**vision, "depth": 1})
  name = "hidden_size" if "embed_dim" in vision else "out_hidden_size"
  refuse("out_hidden_size=20; expected 48", vision_config={**vision, name: 20})
  refuse('describes a "llava"', model_type="llava")


def tiny(name="qwen2.5_vl", **more):
  from jaxreward.models.text.qwen import Qwen

  language = Qwen(
    24, 2, 4, 2, 20, 64, sections=(1, 1, 2), pad=60, head=8, tied=True
  )
  vision = qwen_vision.Vision(16, 1, 2, 8, 24, 4, 2, 2, 16, (0,))
  return qwen_vl.Model(language, vision, 61, pace=2.0)


def test_pictures_that_the_context_does_not_hold_are_refused():
  model = tiny()
  image = prompts.Shown(np.zeros((1, 16, 24, 3)))
  with pytest.raises(UserError, match=r"15 tokens, 12 .* of 2 pictures.* 14:"):
    prompts.pack(model, [[1, 60, 2, 60, 3]], [[image] * 2], length=14)
  packed = prompts.pack(model, [[1, 60, 2, 60, 3]], [[image] * 2], length=15)
  assert packed.mask.all()
  with pytest.raises(UserError, match="1 placeholders of images and there are"):
    prompts.pack(model, [[1, 60]], [[image] * 2], length=15)


def test_a_program_lays_rows_out_as_the_host_does():
  model, grid = tiny(), (2, 3)
  rows = [[1, 60, 2, 60, 3, 4], [60, 60, 5]]
  size = [[prompts.Size((1, *grid))] * 2] * 2
  want = prompts.lay_out(model, rows, size, length=16, stride=6)
  ids = np.array([[1, 60, 2, 60, 3, 4], [60, 60, 5, 0, 0, 0]])
  mask = np.array([[True] * 6, [True] * 3 + [False] * 3])
  got = prompts.spread(model, ids, mask, grid, 2)
  for name in ("tokens", "mask", "source", "places"):
    a, b = np.asarray(getattr(got, name)), np.asarray(getattr(want, name))
    np.testing.assert_array_equal(a[want.mask], b[want.mask], name)
    if name in ("mask", "source"):
      np.testing.assert_array_equal(a, b)


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes_have_the_published_count_and_rules(name):
  shapes = qwen_vl.shapes(qwen_vl.SIZES[name])
  assert peers.count(shapes) == COUNTS[name]
  mesh = meshes.make_mesh(2, 2, 2)
  specs = sharding.param_specs(shapes, qwen_vl.SHARDING_RULES, mesh)
  leaves = jax.tree.leaves(shapes), jax.tree.leaves(specs)
  for leaf, spec in zip(*leaves, strict=True):
    assert leaf.size < 10**6 or "fsdp" in str(spec), (leaf, spec)


def test_a_video_has_a_placeholder_for_each_part_with_a_grid():
  second = qwen_vl.SIZES["qwen2.5_vl_7b"]
  third = qwen_vl.SIZES["qwen3_vl_8b"]
  frames = np.zeros((5, 4, 4, 3))
  (whole,) = prompts.as_video(second, frames, 0.5)
  assert whole.frames.shape[0] == 6 and whole.seconds == 1.0
  assert prompts.video_mark(second, 5, 0.5).count(prompts.VIDEO) == 1
  assert len(prompts.as_video(third, frames, 0.5)) == 3
  mark = "<{} seconds><|vision_start|><|video_pad|><|vision_end|>".format
  assert prompts.video_mark(third, 5, 0.5) == "".join(
    map(mark, (0.2, 1.2, 2.2))
  )
