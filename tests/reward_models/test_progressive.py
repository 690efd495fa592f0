"""SoliReward's head through a tower's layers, and the tower that gives them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models.vlm import qwen_vl
from jaxreward.reward_models import (
  BACKBONES,
  HEADS,
  RewardModel,
  inputs,
  preference_losses,
)

D, S, N = 8, 3, 5
RNG = np.random.default_rng(0)
LAYERS = RNG.normal(size=(2, 3, S, N, D)).astype(np.float32)
LAST = RNG.normal(size=(2, 3, N, D)).astype(np.float32)
MASK = np.arange(N) < RNG.integers(2, N, (2, 3, 1))


def reference(params, layers, last, mask):
  """Score of one image in float64, head by head."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

  def dense(x, name):
    return x @ p[name]["kernel"] + p[name].get("bias", 0)

  def attention(name, q, x):
    x = x[mask].astype(np.float64)
    k, v = np.split(dense(x, f"{name}_kv"), 2, -1)
    q, out = dense(q, f"{name}_query"), []
    for h in np.split(np.arange(D), 2):
      weight = np.exp(k[:, h] @ q[h] / np.sqrt(len(h)))
      out.append(weight / weight.sum() @ v[:, h])
    return dense(np.concatenate(out), f"{name}_out")

  q = p["queries"][0]
  for i, x in enumerate(layers):
    q = attention(f"layer_{i}", q, x)
  q = q + attention("last", p["queries"][1], last)
  h = dense(q, "score_in")
  return dense(h / (1 + np.exp(-h)), "score_out")[0]


def test_a_pooled_score_is_that_of_the_mean_in_any_order():
  head = HEADS["pooled"]()
  features = {"states": LAST, "state_mask": MASK}
  params = head.init(jax.random.key(0), features)
  run = jax.jit(lambda p, f: head.outputs(p, f)["value"])
  start = run(params, features)
  first, second = start[..., 0], start[..., 1]
  loss = preference_losses.bradley_terry(np.stack([first, second], -1))
  assert float(loss.value()) == pytest.approx(np.log(2), rel=1e-6)
  params = jax.tree.map(lambda x: x + 0.1 * RNG.normal(size=x.shape), params)
  value = np.asarray(run(params, features))
  kernel, bias = (np.float64(params["head_out"][k]) for k in ("kernel", "bias"))
  for i in np.ndindex(value.shape):
    mean = np.float64(LAST[i][MASK[i]]).mean(0)
    assert value[i] == pytest.approx((mean @ kernel + bias)[0], abs=1e-5)
  turned = {name: x[:, :, ::-1] for name, x in features.items()}
  np.testing.assert_allclose(run(params, turned), value, atol=1e-5)


@pytest.mark.turns(2)
def test_the_head_is_the_authors_formula_and_ignores_padding():
  head = HEADS["progressive"](heads_of=2)
  features = {"layers": LAYERS, "states": LAST, "state_mask": MASK}
  params = head.init(jax.random.key(0), features)
  params = jax.tree.map(lambda x: x + 0.1 * RNG.normal(size=x.shape), params)
  assert "bias" not in params["score_out"]
  run = jax.jit(lambda f: head.outputs(params, f)["value"])
  value = np.asarray(run(features))
  for i in np.ndindex(2, 3):
    want = reference(params, LAYERS[i], LAST[i], MASK[i])
    assert value[i] == pytest.approx(want, rel=1e-4, abs=1e-5)
  hidden = np.where(MASK[..., None], 0, 9.0).astype(np.float32)
  other = {"layers": LAYERS + hidden[:, :, None], "states": LAST + hidden}
  np.testing.assert_allclose(run(features | other), value, rtol=1e-5)
  # Each layer counts: the query that asks the next depends on it.
  moved = LAYERS.copy()
  moved[:, :, 0] *= 2
  assert (np.abs(run(features | {"layers": moved}) - value) > 1e-6).all()


def test_layers_of_frames_stand_in_a_row():
  """Of a tower that reads frames one by one, as its states do."""
  raw = {"joint": LAST.mean(2), "states": LAST, "layers": LAYERS}
  raw = jax.tree.map(jnp.asarray, raw | {"state_mask": MASK})
  out = inputs.over_frames(raw, 1, 3)
  for s in range(S):
    np.testing.assert_array_equal(
      out["layers"][:, 0, s], LAYERS[:, :, s].reshape(2, 3 * N, D)
    )
  np.testing.assert_array_equal(out["states"][:, 0], LAST.reshape(2, -1, D))
  np.testing.assert_array_equal(out["state_mask"][:, 0], MASK.reshape(2, -1))


@pytest.fixture(scope="module")
def model():
  return RewardModel(
    BACKBONES["qwen_vl"](size="tiny", length=12), HEADS["progressive"]()
  )


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_language_model_reads_frames_and_prompt_in_one_context(model):
  backbone = model.backbone
  params = backbone.init(jax.random.key(0))
  clips = RNG.random((2, 1, 2, 32, 32, 3)).astype(np.float32)
  tokens = backbone.read(["a red dot", "a much longer prompt than that"])
  assert tokens.shape == (2, 12) and (tokens[0] >= 0).sum() == 10
  assert tokens[1, -1] == tokens[0, 9] == 257  # cut, and ended
  run = jax.jit(backbone.features)
  out = run(params, clips, tokens)
  # 2 frames of 2 x 2 tokens and their marks, then the prompt.
  assert out["states"].shape == (2, 1, 2 * (4 + 2) + 12, 32)
  assert out["layers"].shape == (2, 1, 4, *out["states"].shape[2:])
  np.testing.assert_array_equal(out["state_mask"].sum((1, 2)), [22, 24])
  np.testing.assert_array_equal(out["layers"][:, :, -1], out["states"])
  at = np.asarray(out["state_mask"]).sum(-1)[:, 0] - 1
  np.testing.assert_array_equal(
    out["joint"][:, 0], np.asarray(out["states"])[np.arange(2), 0, at]
  )
  # Causal: the last frame is seen by itself and what follows alone.
  changed = clips.copy()
  changed[:, :, 1] = 0
  again = run(params, changed, tokens)
  first = np.s_[:, :, :, :6]
  np.testing.assert_array_equal(again["layers"][first], out["layers"][first])
  assert (np.abs(again["joint"] - out["joint"]).max(-1) > 1e-5).all()
  # No padding is read: another prompt's does not reach the first.
  other = np.asarray(tokens).copy()
  other[0, 10:] = -1
  np.testing.assert_array_equal(
    run(params, clips, other)["joint"], out["joint"]
  )


@pytest.mark.job
@pytest.mark.turns(3)
def test_what_the_tower_cannot_read_is_refused(model):
  make = BACKBONES["qwen_vl"]
  for options, words in (
    (dict(layers=(2, 5)), r"layers=\(2, 5\): .* 1 to 4"),
    (dict(image=40), "image=40: .* 16 pixels wide.* 32"),
    (dict(length=1), "length=1: the template"),
  ):
    with pytest.raises(UserError, match=words):
      make(size="tiny", **options)
  for options in (dict(context=True), dict(frames="attention")):
    with pytest.raises(UserError, match="frames of a clip together"):
      RewardModel(model.backbone, model.head, **options)
  with pytest.raises(UserError, match="heads_of=5 does not divide the 32"):
    RewardModel(model.backbone, HEADS["progressive"](heads_of=5)).param_shapes
  with pytest.raises(UserError, match="reads layers"):
    RewardModel(BACKBONES["clip"](size="tiny"), HEADS["progressive"]())
  assert qwen_vl.SIZES["qwen2_vl_2b"].language.depth == 28  # 7, 14, 21, 28
