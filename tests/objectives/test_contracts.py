"""What every objective promises, on one table of example arguments."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import objectives

B, SHAPE = 6, (2, 2, 3)
ROWS = {
  "log_prob", "old_log_prob", "advantage", "scores", "weight", "value",
  "signal_chosen", "signal_rejected", "group_gap", "group_share",
  "sample_log_ratio", "latent_score", "window", "share", "pull", "denoised_scores",
  "denoised_other_scores", "inverted_scores", "inverted_other_scores",
}  # fmt: skip
# Those on rows alone: test_groups.py has those on groups, test_differences.py those
# on pairs of rows.
ELSEWHERE = (
  "dgpo",
  "rank_dpo",
  "consistent_dpo",
  "crd",
  "seppo",
  "grao",
  "d3po",
  "prdp",
  "rebel",
)
NAMES = [name for name in objectives.REGISTRY if name not in ELSEWHERE]


def example(name, seed=0):
  """(keyword arrays, name of the trained array) for an objective."""
  rng = np.random.default_rng(seed)
  function = objectives.REGISTRY[name]
  arrays = {}
  for key, parameter in inspect.signature(function).parameters.items():
    if parameter.kind is parameter.KEYWORD_ONLY or key == "mask":
      continue
    if key in ROWS:
      arrays[key] = rng.normal(0, 1, B)
    elif key == "real":
      arrays[key] = rng.random(B) < 0.5
    elif key == "v_others":
      arrays[key] = rng.normal(0, 1, (B, 3, *SHAPE))
    elif key == "place_weight":
      arrays[key] = rng.uniform(0, 1, (B, *SHAPE[:2]))
    elif key in ("errors", "near_errors"):
      arrays[key] = rng.normal(0, 1, (B, 4))
    elif key in ("t", "near_t", "again_t", "beyond_again_t", "std", "dt"):
      arrays[key] = rng.uniform(0.2, 0.9, B)
    else:
      arrays[key] = rng.normal(0, 1, (B, *SHAPE))
  if "old_log_prob" in arrays:
    arrays["old_log_prob"] = arrays["log_prob"] + rng.normal(0, 2e-5, B)
  if "old_mean" in arrays:
    arrays["old_mean"] = arrays["mean"] + rng.normal(0, 1e-3, (B, *SHAPE))
  arrays = {
    k: v if v.dtype == bool else v.astype(np.float32) for k, v in arrays.items()
  }
  trained = next(
    k
    for k in (
      "x0_hat",
      "x_again",
      "v",
      "v_chosen",
      "v_inverted_chosen",
      "log_prob",
      "pull",
      "denoised_scores",
      "scores",
    )
    if k in arrays
  )
  return arrays, trained


@functools.partial(jax.jit, static_argnums=(0, 2))
def value_and_grad(name, arrays, trained, mask):
  def loss(x):
    mean, metrics = objectives.REGISTRY[name](
      **{**arrays, trained: x}, mask=mask
    )
    return mean.total, (mean, metrics)

  (_, aux), grad = jax.value_and_grad(loss, has_aux=True)(arrays[trained])
  return aux, grad


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", NAMES)
def test_forms(name):
  arrays, trained = example(name)
  (mean, metrics), grad = value_and_grad(
    name, arrays, trained, np.ones(B, bool)
  )
  assert np.any(grad)
  assert mean.weight == B
  for key, metric in {"loss": mean, **metrics}.items():
    for leaf in jax.tree.leaves(metric):
      assert leaf.dtype == jnp.float32, key
      assert leaf.shape == (), key
    assert np.isfinite(metric.value()), key


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", NAMES)
def test_padding_reaches_neither_value_nor_gradient(name):
  arrays, trained = example(name)
  mask = np.array([True, False, True, True, False, True])
  dirty = {k: v.copy() for k, v in arrays.items()}
  for array in dirty.values():
    array[~mask] = np.nan if array.dtype != bool else True
  dense = {k: v[mask] for k, v in arrays.items()}
  (clean, metrics), grad = value_and_grad(
    name, dense, trained, np.ones(4, bool)
  )
  (got, padded), padded_grad = value_and_grad(name, dirty, trained, mask)
  np.testing.assert_allclose(got.value(), clean.value(), rtol=2e-5)
  assert got.weight == clean.weight == 4
  np.testing.assert_allclose(padded_grad[mask], grad, rtol=1e-4, atol=1e-6)
  assert np.array_equal(padded_grad[~mask], np.zeros_like(padded_grad[~mask]))
  for key in metrics:
    np.testing.assert_allclose(
      padded[key].value(), metrics[key].value(), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("name", NAMES)
def test_all_masked_is_zero(name):
  arrays, trained = example(name)
  (mean, metrics), grad = value_and_grad(
    name, arrays, trained, np.zeros(B, bool)
  )
  assert (mean.total, mean.weight, mean.value()) == (0, 0, 0)
  assert all(metric.value() == 0 for metric in metrics.values())
  assert np.array_equal(grad, np.zeros_like(grad))


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", NAMES)
def test_pools_exactly_over_any_split_and_order(name):
  arrays, trained = example(name)
  ones = np.ones(B, bool)
  (whole, metrics), grad = value_and_grad(name, arrays, trained, ones)
  order = np.random.default_rng(1).permutation(B)
  totals, grads = None, np.zeros_like(grad)
  for rows in (order[:2], order[2:]):
    part = {k: v[rows] for k, v in arrays.items()}
    (mean, found), g = value_and_grad(name, part, trained, ones[rows])
    pair = {"loss": mean, **found}
    totals = pair if totals is None else {k: totals[k] + pair[k] for k in pair}
    grads[rows] = g
  for key, mean in {"loss": whole, **metrics}.items():
    np.testing.assert_allclose(
      totals[key].value(), mean.value(), rtol=2e-5, atol=1e-7
    )
  np.testing.assert_allclose(grads, grad, rtol=1e-4, atol=1e-7)


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", NAMES)
def test_only_the_trained_policy_gets_gradients(name):
  arrays, _ = example(name)
  constants = {
    "flow_dpo": ("v_ref_chosen", "v_ref_rejected"),
    "gap_dpo": ("v_ref_chosen", "signal_chosen", "signal_rejected"),
    "dynamic_dpo": ("v_ref_chosen", "signal_chosen", "signal_rejected"),
    "smoothed_dpo": ("v_ref_chosen", "signal_chosen", "signal_rejected"),
    "inpo": ("v_ref_inverted_chosen", "v_ref_inverted_rejected"),
    "masked_dpo": ("v_ref_chosen", "v_ref_rejected"),
    "single_dpo": ("v_reference", "advantage"),
    "hierarchical_dpo": ("v_ref_chosen", "signal_chosen", "group_share"),
    "diffusion_nft": ("v_old", "advantage"),
    "awm": ("v_old", "advantage"),
    "ac_flow": ("value", "advantage"),
    "grpo_guard": ("old_log_prob", "advantage", "old_mean"),
    "align_prop": (),
    "refl": (),
    "gspo": ("sample_log_ratio", "advantage"),
    "flow_matching": ("weight",),
    "contrastive_matching": (),
    "region_matching": ("place_weight", "share"),
    "srpo": (),
    "noised_reward": (),
    "consistency_reward": ("v_reference", "v_target_solved"),
    "consistency_proxy": ("v_reference", "v_target_solved"),
    "distribution_matching": ("v_fake_again", "x_again", "advantage"),
    "salient_matching": ("v_reference_again", "saliency", "advantage"),
    "continuous_matching": ("v_empty_again", "v_fake_beyond_again"),
    "score_implicit": (),
    "surrogate_matching": ("v_surrogate_again", "x_again"),
    "uncertain_reward": ("window",),
    "one_step_reward": ("window",),
    "reward_instruct": ("scores",),
  }.get(name, ("old_log_prob", "advantage"))
  for key in constants:
    _, grad = value_and_grad(name, arrays, key, np.ones(B, bool))
    assert np.array_equal(grad, np.zeros_like(grad)), key


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", NAMES)
def test_metrics_carry_no_gradient(name):
  arrays, trained = example(name)

  def metric_sum(x):
    _, metrics = objectives.REGISTRY[name](
      **{**arrays, trained: x}, mask=np.ones(B, bool)
    )
    return sum(jax.tree.leaves(metrics))

  grad = jax.jit(jax.grad(metric_sum))(arrays[trained])
  assert np.array_equal(grad, np.zeros_like(grad))


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", NAMES)
def test_low_precision_inputs_are_reduced_in_float32(name):
  arrays, _ = example(name)
  floats = {k: v for k, v in arrays.items() if v.dtype != bool}
  low = {k: jnp.asarray(v, jnp.bfloat16) for k, v in floats.items()}
  same = {k: v.astype(jnp.float32) for k, v in low.items()}
  low, same = arrays | low, arrays | same
  mask = np.ones(B, bool)
  got, _ = objectives.REGISTRY[name](**low, mask=mask)
  want, _ = objectives.REGISTRY[name](**same, mask=mask)
  assert got.total.dtype == jnp.float32
  # Divisors such as t, std and dt may stay in low precision.
  np.testing.assert_allclose(got.value(), want.value(), rtol=2e-2, atol=1e-5)


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", NAMES)
def test_compiles_once(name):
  traces = []

  @jax.jit
  def fn(arrays, mask):
    traces.append(1)
    return objectives.REGISTRY[name](**arrays, mask=mask)[0].total

  for seed in range(3):
    arrays, _ = example(name, seed)
    fn(arrays, np.ones(B, bool))
  assert len(traces) == 1
