"""Forward-process objectives: references, stationary points, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import objectives
from jaxreward.errors import UserError
from tests.differences import numeric_gradient

SHAPE = (2, 3)


def case(seed=0, b=4):
  rng = np.random.default_rng(seed)
  x0 = rng.normal(0, 1, (b, *SHAPE))
  noise = rng.normal(0, 1, (b, *SHAPE))
  t = rng.uniform(0.2, 0.95, b)
  x_t = (1 - t)[:, None, None] * x0 + t[:, None, None] * noise
  u = noise - x0
  v_old = u + rng.normal(0, 0.5, u.shape)
  v = v_old + rng.normal(0, 0.3, u.shape)
  advantage = rng.normal(0, 2, b)
  return dict(v=v, v_old=v_old, x0=x0, x_t=x_t, t=t, advantage=advantage), u


def f32(arrays):
  return {k: np.asarray(a, np.float32) for k, a in arrays.items()}


def mask_of(arrays):
  return np.ones(len(arrays["t"]), bool)


def reference_nft(c, v, v_weight, beta, adv_clip, adaptive):
  """Sum over samples; the weights see `v_weight`, as a constant would."""
  total = 0.0
  for i in range(len(c["t"])):

    def error(w, sign, i=i):
      implicit = c["v_old"][i] + sign * beta * (w - c["v_old"][i])
      return c["x_t"][i] - c["t"][i] * implicit - c["x0"][i]

    r = min(max(c["advantage"][i] / (2 * adv_clip) + 0.5, 0), 1)
    for share, sign in ((r, 1), (1 - r, -1)):
      weight = np.abs(error(v_weight[i], sign)).mean() if adaptive else 1.0
      term = np.mean(error(v[i], sign) ** 2) / max(weight, 1e-5)
      total += adv_clip / beta * share * term
  return total


@pytest.mark.parametrize(
  ("beta", "adaptive", "adv_clip"),
  [(1.0, True, 5.0), (0.1, True, 1.0), (0.1, False, 5.0)],
)
def test_nft_matches_float64_in_value_and_gradient(beta, adaptive, adv_clip):
  c, _ = case()
  arrays = f32(c)

  def loss(v):
    return objectives.diffusion_nft(
      **{**arrays, "v": v},
      mask=mask_of(c),
      beta=beta,
      adv_clip=adv_clip,
      adaptive_weight=adaptive,
    )[0].total

  reference = lambda v: reference_nft(c, v, c["v"], beta, adv_clip, adaptive)
  np.testing.assert_allclose(
    jax.jit(loss)(arrays["v"]), reference(c["v"]), rtol=1e-5
  )
  np.testing.assert_allclose(
    jax.jit(jax.grad(loss))(arrays["v"]),
    numeric_gradient(reference, c["v"]),
    rtol=1e-3,
    atol=1e-5,
  )


@functools.partial(jax.jit, static_argnames=("beta", "adaptive_weight"))
def nft_gradient(arrays, v, **kwargs):
  return jax.grad(
    lambda v: (
      objectives.diffusion_nft(
        **{**arrays, "v": v}, mask=mask_of(arrays), **kwargs
      )[0].total
    )
  )(v)


@pytest.mark.turns(2)
@pytest.mark.parametrize("adaptive", [True, False])
def test_nft_gradient_is_zero_at_the_old_policy_with_r_half(adaptive):
  arrays = f32(case()[0])
  arrays["advantage"] = np.zeros(4, np.float32)
  with jax.disable_jit():
    grad = nft_gradient(arrays, arrays["v_old"], adaptive_weight=adaptive)
  assert np.array_equal(grad, np.zeros_like(grad))
  # Fused multiply-adds leave the last bits of terms of order 1.
  fused = nft_gradient(arrays, arrays["v_old"], adaptive_weight=adaptive)
  np.testing.assert_allclose(fused, np.zeros_like(grad), atol=1e-6)


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_nft_with_r_one_is_flow_matching(beta):
  c, u = case()
  arrays = f32(c)
  arrays["advantage"] = np.full(4, 7.0, np.float32)  # beyond the clip: r = 1
  grad = nft_gradient(arrays, arrays["v_old"], beta=beta, adaptive_weight=False)
  # 5 / beta * d/dv t^2 mean (v+ - u)^2 = 10 t^2 mean-gradient of (v_old - u).
  t2 = c["t"][:, None, None] ** 2
  want = 10 * t2 * (c["v_old"] - u) / np.prod(SHAPE)
  np.testing.assert_allclose(grad, want, rtol=1e-4, atol=1e-5)
  weighted = nft_gradient(arrays, arrays["v_old"], beta=beta)
  cosine = np.sum(weighted * grad, axis=(1, 2)) / (
    np.linalg.norm(weighted, axis=(1, 2)) * np.linalg.norm(grad, axis=(1, 2))
  )
  np.testing.assert_allclose(cosine, np.ones(4), rtol=1e-5)


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_nft_minimiser(beta):
  c, u = case(3)
  arrays = f32(c)
  r = np.clip(c["advantage"] / 10 + 0.5, 0, 1)[:, None, None]
  best = c["v_old"] + (2 * r - 1) / beta * (u - c["v_old"])
  kwargs = dict(beta=beta, adaptive_weight=False)
  grad = nft_gradient(arrays, best.astype(np.float32), **kwargs)
  np.testing.assert_allclose(grad, np.zeros_like(grad), atol=2e-5)
  elsewhere = nft_gradient(arrays, (best + 0.1).astype(np.float32), **kwargs)
  assert np.max(np.abs(elsewhere)) > 1e-2
  # And descent from the old policy finds it.
  v = jnp.asarray(arrays["v_old"])
  t2 = arrays["t"][:, None, None] ** 2
  for _ in range(60):
    v = v - 0.05 * np.prod(SHAPE) / (beta * t2) * nft_gradient(
      arrays, v, **kwargs
    )
  np.testing.assert_allclose(v, best, atol=1e-3)


def test_nft_weight_has_a_floor():
  c, _ = case(1)
  arrays = f32(c)
  arrays["v"] = arrays["v_old"] = (arrays["x_t"] - arrays["x0"]) / arrays["t"][
    :, None, None
  ]
  mean, _ = objectives.diffusion_nft(**arrays, mask=mask_of(c))
  grad = nft_gradient(arrays, arrays["v"])
  assert 0 <= mean.total < 1e-4
  assert np.all(np.isfinite(grad))


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("mode", "want"),
  [
    ("all", [0, 0.3, 0.5, 0.6, 1.0]),
    ("positive_only", [0.5, 0.5, 0.5, 0.6, 1.0]),
    ("negative_only", [0, 0.3, 0.5, 0.5, 0.5]),
    ("one_only", [0.5, 0.5, 0.5, 0.6, 0.6]),
    ("binary", [0.4, 0.4, 0.5, 0.6, 0.6]),
  ],
)
def test_nft_advantage_modes(mode, want):
  arrays = f32(case(0, b=5)[0])
  for i, a in enumerate([-9.0, -2.0, 0.0, 1.0, 9.0]):
    arrays["advantage"][:] = a
    _, metrics = objectives.diffusion_nft(
      **arrays, mask=mask_of(arrays), adv_mode=mode
    )
    np.testing.assert_allclose(
      metrics["optimality"].value(), want[i], rtol=1e-6
    )


def test_nft_metrics_add_up():
  c, _ = case(2)
  mean, metrics = objectives.diffusion_nft(**f32(c), mask=mask_of(c))
  parts = metrics["loss_positive"].total + metrics["loss_negative"].total
  np.testing.assert_allclose(parts, mean.total, rtol=1e-6)
  np.testing.assert_allclose(
    metrics["velocity_shift"].value(),
    np.mean((c["v"] - c["v_old"]) ** 2),
    rtol=1e-5,
  )


WEIGHTINGS = {
  "uniform": lambda l, t: l,
  "t": lambda l, t: t * l,
  "t2": lambda l, t: t * t * l,
  "huber": lambda l, t: t * (np.sqrt(l + 1e-10) - 1e-5),
  "ghuber": lambda l, t: t * ((l + 1e-10) ** 0.25 - 1e-10**0.25) / 0.25,
}


def scaled(advantage, adv_clip=5.0, adv_max=1.0):
  """As in train_sd3_awm.py with advantage_max 1, its value in all recipes."""
  return np.clip(advantage, -adv_clip, adv_clip) / adv_clip * adv_max


@pytest.mark.turns(3)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("clip_range", [1e-4, 0.5, None])  # None: the default
@pytest.mark.parametrize("scale", [{}, {"adv_clip": 1.5, "adv_max": 3.0}])
def test_awm_matches_float64_in_value_and_gradient(
  weighting, clip_range, scale
):
  c, u = case(4)
  arrays = f32(c)
  weigh = WEIGHTINGS[weighting]
  loss_of = lambda v: np.mean((v - u) ** 2, axis=(1, 2))

  def reference(v):
    ratio = np.exp(
      weigh(loss_of(c["v_old"]), c["t"]) - weigh(loss_of(v), c["t"])
    )
    a = scaled(c["advantage"], **scale)
    clipped = np.clip(ratio, 1 - (clip_range or 1), 1 + (clip_range or 1))
    return np.sum(np.maximum(-a * ratio, -a * clipped))

  def loss(v):
    return objectives.awm(
      **{**arrays, "v": v},
      mask=mask_of(c),
      weighting=weighting,
      **({"clip_range": clip_range} if clip_range else {}),
      **scale,
    )[0].total

  np.testing.assert_allclose(
    jax.jit(loss)(arrays["v"]), reference(c["v"]), rtol=1e-4
  )
  np.testing.assert_allclose(
    jax.jit(jax.grad(loss))(arrays["v"]),
    numeric_gradient(reference, c["v"]),
    rtol=2e-3,
    atol=2e-5,
  )


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_awm_on_policy_gradient_is_a_grad_w(weighting):
  c, u = case(5)
  arrays = f32(c)
  grad = jax.grad(
    lambda v: (
      objectives.awm(
        **{**arrays, "v": v}, mask=mask_of(c), weighting=weighting
      )[0].total
    )
  )(arrays["v_old"])
  weigh = WEIGHTINGS[weighting]
  want = numeric_gradient(
    lambda v: np.sum(
      scaled(c["advantage"]) * weigh(np.mean((v - u) ** 2, axis=(1, 2)), c["t"])
    ),
    c["v_old"],
  )
  np.testing.assert_allclose(grad, want, rtol=1e-3, atol=1e-5)


def test_awm_ratio_is_one_on_policy():
  c, _ = case(6)
  arrays = f32(c)
  arrays["v"] = arrays["v_old"]
  _, metrics = objectives.awm(**arrays, mask=mask_of(c))
  assert metrics["ratio"].value() == 1.0
  assert metrics["velocity_shift"].value() == 0.0


@pytest.mark.parametrize(
  ("name", "argument"), [("diffusion_nft", "adv_mode"), ("awm", "weighting")]
)
def test_unknown_names_are_named(name, argument):
  arrays = f32(case()[0])
  function = objectives.REGISTRY[name]
  with pytest.raises(UserError, match="hubber"):
    function(**arrays, mask=mask_of(arrays), **{argument: "hubber"})
