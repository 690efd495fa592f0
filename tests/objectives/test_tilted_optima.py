"""Other families on one Gaussian, to the tilted optimum or a root known beforehand.

The policy is N(m, 1) with m trained from 0, x = m + z, the reward r = x: with a KL of
weight beta to N(0, 1) the best policy is N(1 / beta, 1). A velocity is v = -m: of all
lines it is the one of flow matching on N(m, 1) at t = 1/2 (test_fixed_points.py).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import methods, objectives

ROWS = 40_000
RNG = np.random.default_rng(0)
Z, NOISE, OTHER = (RNG.normal(size=(3, ROWS, 1))).astype(np.float32)
U = NOISE - Z  # the target of flow matching
MASK = np.ones(ROWS, bool)
T = 0.5
BETA = 2.0


def wide(x):
  return jnp.broadcast_to(x, (ROWS, 1))


def slid(loss, rate, steps=80, start=0.0):
  """m after gradient descent on a loss of m."""
  body = lambda _, m: m - rate * jax.grad(loss)(m)
  run = jax.jit(lambda m: jax.lax.fori_loop(0, steps, body, m))
  return float(run(jnp.float32(start)))


def dpo(m):
  """Pairs answered by sigmoid of the rewards' difference: beta m = 1."""
  gap = Z - OTHER
  answer = RNG.random((ROWS, 1)) < 1 / (1 + np.exp(-gap))
  chosen, rejected = np.where(answer, Z, OTHER), np.where(answer, OTHER, Z)
  v, zero = wide(-m), np.zeros((ROWS, 1), np.float32)
  loss, _ = objectives.flow_dpo(
    v, v, zero, zero, NOISE - chosen, NOISE - rejected, MASK, beta=BETA
  )
  return loss.value()


def crd(m):
  """beta (l_old - l) is to differ in a group as x does: 2 beta m x = x."""
  group = lambda x: jnp.reshape(x, (-1, 4, 1))
  noise = np.repeat(group(NOISE)[:, :1], 4, 1)
  x = group(Z)
  v = jnp.broadcast_to(-m, x.shape)
  loss, _ = objectives.crd(
    v, jnp.zeros(x.shape), noise - x, x[..., 0], np.ones(x.shape[:2], bool),
    beta=BETA,
  )  # fmt: skip
  return loss.value()


def backprop(m):
  loss, _ = objectives.align_prop(m + Z[:, 0], MASK)
  return loss.value() + BETA * m**2 / 2  # the KL of N(m, 1) to N(0, 1)


def awm(m):
  """Weighed by t^2 = 1/4 it is the likelihood of u, of variance 2: m / 2 = E A r."""
  rows = lambda x: np.full(ROWS, x, np.float32)
  loss, _ = objectives.awm(
    wide(-m), wide(0.0), Z, (1 - T) * Z + T * NOISE, rows(T), Z[:, 0], MASK,
    weighting="t2", clip_range=1e6, adv_clip=50.0, adv_max=50.0,
  )  # fmt: skip
  return loss.value() + m**2 / 2


def answered():
  """Pairs [N, 2], the chosen first: the larger as often as sigmoid says, exactly."""
  pairs = []
  for times in (3, 7):  # of times + 1
    end = np.log(times) / 2
    pairs += [(end, -end)] * times * (8 // (times + 1))
    pairs += [(-end, end)] * (8 // (times + 1))
  return np.array(pairs, np.float32)


PAIRS = answered()


def rank(m):
  """Of two samples each, all swaps cost the same: 2 beta m = 1."""
  x = PAIRS[..., None]
  v = jnp.broadcast_to(-m, x.shape)
  loss, _ = objectives.rank_dpo(
    v, jnp.zeros(x.shape), NOISE[: len(x), None] - x,
    np.tile(np.float32([1, 0]), (len(x), 1)), np.ones(PAIRS.shape, bool),
    beta=BETA,
  )  # fmt: skip
  return loss.value()


def relative(m, t=0.5, s=0.25):
  """r = x for and -x against, far from the margin, with a KL: see SRPO."""
  x_t, x_s = ((1 - at) * Z[:, 0] + at * NOISE[:, 0] for at in (t, s))
  down = (x_t + (t - s) * m - s * NOISE[:, 0]) / (1 - s)
  up = (x_s - (t - s) * m - t * NOISE[:, 0]) / (1 - t)
  at = lambda x: np.full(ROWS, x, np.float32)
  loss, _ = objectives.srpo(
    down, -down, up, -up, at(t), at(s), MASK, margin=1e3,
    praise=(0.1, 0.25), blame=(0.3, 0.01),
  )  # fmt: skip
  return loss.value() + BETA * m**2 / 2


def hinge(m):
  """The slope ends where all are satisfied: here at a mean of the margin's."""
  loss, _ = objectives.refl(wide(m)[:, 0], MASK, margin=0.3, scale=1.0)
  return loss.value()


def noised(m):
  loss, _ = objectives.noised_reward(m + Z[:, 0], MASK)
  return loss.value() + BETA * m**2 / 2


def one_step(m):
  """mean (v - u)^2 - w r(x_t - t v): its slope vanishes at m = w t / 2."""
  v, x_t = wide(-m), (1 - T) * Z + T * NOISE
  loss, _ = objectives.one_step_reward(
    v, U, np.full(ROWS, T, np.float32), MASK.astype(np.float32),
    (x_t - T * v)[:, 0], MASK, weight=0.8,
  )  # fmt: skip
  return loss.value()


def predicted(x0_hat):
  """x0_hat noised again, and the velocity there of N(mean, 1)."""
  x = (1 - T) * x0_hat + T * NOISE
  at = lambda mean: (x - (mean + (x - (1 - T) * mean))) / T  # posterior mean
  return jax.lax.stop_gradient(x), lambda mean: jax.lax.stop_gradient(at(mean))


def distilled(m):
  """The fake score knows the generator: descent ends at the teacher's mean, 1."""
  x0 = m + Z
  x, of = predicted(x0)
  loss, _ = objectives.distribution_matching(
    x0, x, np.full(ROWS, T, np.float32), of(1.0), of(m), MASK * 1.0, MASK,
    floor=1e3,
  )  # fmt: skip
  return 1e3 * loss.value()


def surrogate(m):
  """Teacher N(0, 1), and one that prefers the rewarded, N(1 / beta, 1)."""
  x0 = m + Z
  x, of = predicted(x0)
  loss, _ = objectives.surrogate_matching(
    x0, x, np.full(ROWS, T, np.float32), of(0.0), of(0.0), of(m),
    of(1 / BETA), MASK, share=0.0, floor=1e3,
  )  # fmt: skip
  return 1e3 * loss.value()


def log_prob(m):
  return -jnp.square(Z[:, 0] - m) / 2


def dppo(m):
  """Importance sampling within a trust region that never binds."""
  loss, _ = objectives.flow_dppo(
    log_prob(m), log_prob(0.0), wide(m), wide(0.0), 1.0, Z[:, 0], MASK,
    threshold=1e9,
  )  # fmt: skip
  return loss.value() + BETA * m**2 / 2


def guard(m, beta=4.0):
  """A ratio exp(m x) without its mean: (1 + m^2) exp(m^2 / 2) = beta m."""
  loss, _ = objectives.grpo_guard(
    log_prob(m), log_prob(0.0), wide(m), wide(0.0), 1.0, 1.0, Z[:, 0], MASK,
    clip_range=1e6,
  )  # fmt: skip
  return loss.value() + beta * m**2 / 2


def root(f, low, high):
  for _ in range(60):
    middle = (low + high) / 2
    low, high = (middle, high) if f(middle) < 0 else (low, middle)
  return low


# The mean of two steps has half the variance: E A s = m exp(-m^2 / 4), A = x_1 + x_2.
GSPO = root(lambda m: BETA * m - (1 - m**2 / 2) * np.exp(-(m**2) / 4), 0.0, 0.9)
# k = .175 at t = 1/2 and q = .2275 at s = 1/4; the two ends divide by 3/4 and 1/2.
SRPO = ((2 + 0.175) / 3 + (2 + 0.2275) / 2) / 2 / BETA
GUARD = root(lambda m: 4 * m - (1 + m**2) * np.exp(m**2 / 2), 0.0, 0.5)
CASES = {
  "flow_dpo": (dpo, 1 / BETA, 0.5),
  "crd": (crd, 1 / (2 * BETA), 0.02),
  "awm": (awm, 1 / 2, 0.3),
  "rank_dpo": (rank, 1 / (2 * BETA), 0.3),
  "srpo": (relative, SRPO, 0.2),
  "align_prop": (backprop, 1 / BETA, 0.2),
  "refl": (hinge, 0.3, 0.01),
  "noised_reward": (noised, 1 / BETA, 0.2),
  "one_step_reward": (one_step, 0.8 * T / 2, 0.2),
  "distribution_matching": (distilled, 1.0, 0.1),
  "surrogate_matching": (surrogate, 1 / BETA, 0.1),
  "flow_dppo": (dppo, 1 / BETA, 0.2),
  "grpo_guard": (guard, GUARD, 0.1),
}


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", CASES)
def test_a_family_reaches_what_is_known_of_it(name):
  loss, want, rate = CASES[name]
  np.testing.assert_allclose(slid(loss, rate), want, atol=0.02)


def prepared(name, log_prob, fixed, **options):
  """The loss of m of a method that reads the rows of a step before it."""
  fn = objectives.REGISTRY[name]
  partial = functools.update_wrapper(functools.partial(fn, **options), fn)
  prepare = methods.prepare_of(partial)
  start = log_prob(0.0)

  def loss(m):
    arrays = fixed | {
      "log_prob": log_prob(m), "old_log_prob": start,
      "reference_log_prob": start, "mask": np.ones(len(start), bool),
    }  # fmt: skip
    read = {
      k: jax.lax.stop_gradient(jnp.asarray(arrays[k]))
      for k in methods.asks(prepare.read)
    }
    columns = prepare.finish(
      {k: v[None] for k, v in prepare.read(**read).items()}
    )
    arrays |= {k: v[0] for k, v in columns.items()}
    return partial(**{k: arrays[k] for k in methods.asks(fn)})[0].value()

  return loss


def groups_of(x, group, **fixed):
  """(log p of m, arrays) of one step per sample, `group` of them per prompt."""
  log_prob = lambda m: -jnp.square(x - m) / 2
  place = np.arange(len(x))
  return log_prob, {
    "advantage": x, "sample": place, "prompt": place // group,
  } | fixed  # fmt: skip


@pytest.mark.turns(2)
@pytest.mark.parametrize(
  "name,options",
  [("prdp", dict(beta=BETA, clip_range=1e6)), ("rebel", dict(eta=BETA))],
)
def test_differences_of_rewards_are_differences_of_log_ratios(name, options):
  """Groups of four, one step: the regression's optimum is 1 / beta."""
  loss = prepared(name, *groups_of(Z[:400, 0], 4), **options)
  np.testing.assert_allclose(slid(loss, 0.02), 1 / BETA, atol=0.02)


def test_d3po_reaches_the_tilted_optimum():
  """Answered pairs whose ratios stay within the band: beta m = 1."""
  x = PAIRS.ravel()
  answer = np.tile(np.float32([1, 0]), len(PAIRS))
  rows = groups_of(x, 2, advantage=answer, t=np.zeros(len(x)))
  loss = prepared("d3po", *rows, beta=BETA, clip_range=0.9)
  np.testing.assert_allclose(slid(loss, 0.5), 1 / BETA, atol=0.02)


def test_gspo_reaches_its_own_fixed_point():
  """Samples of two steps, with a KL; their sums have a variance of exactly 2."""
  x = Z[:12_000, 0]
  sums = x[::2] + x[1::2]
  x, sums = (y * np.sqrt(2 / np.square(sums).mean()) for y in (x, sums))
  log_prob, fixed = groups_of(
    x, 2, advantage=np.repeat(sums, 2), sample=np.arange(len(x)) // 2
  )
  loss = prepared("gspo", log_prob, fixed, clip_range=1e6)
  tied = lambda m: loss(m) + BETA * m**2 / 2
  got = slid(tied, 0.3, steps=25)
  np.testing.assert_allclose(got, GSPO, atol=0.02)
