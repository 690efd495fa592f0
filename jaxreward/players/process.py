"""Rewards of denoising steps that are learned from the reward of the sample."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, require_counts
from jaxreward.numerics import Mean
from jaxreward.players.contract import Arrays, Player
from jaxreward.types import Array, ArrayLike

LOSSES = ("outcome", "pairs")
Steps = Float[ArrayLike, "B T"]


def process_reward(*, beta: float = 200.0, loss: str = "outcome") -> Player:
  """A copy of the policy whose log-ratios are rewards of steps.

  r_t = beta (log p_phi(x_{t-1} | x_t) - log p_old(x_{t-1} | x_t)), with p_old what
  drew the sample and means over latent elements. With "outcome" their sum is the
  logit of the sample's reward, which is to lie in [0, 1] (PRIME, Cui et al. 2025,
  https://arxiv.org/abs/2502.01456, beta .05, read in the authors' code); with "pairs"
  sums are to be ordered as the rewards of two samples of a prompt (OPRL,
  https://arxiv.org/abs/2509.19199, beta .05, unverified). Both sum over the tokens of
  a text; beta here belongs to a mean over some 4,000 elements.

  Args:
    beta: scale of the log-ratios.
    loss: "outcome" or "pairs".

  Raises:
    UserError: another loss, or a beta that is not positive.
  """
  if loss not in LOSSES:
    raise UserError(f'loss="{loss}": it is one of {", ".join(LOSSES)}')
  if not beta > 0:
    raise UserError(f"beta={beta}: it must be above 0")

  def ratios(path: str, old: str):
    def compute(arrays: Arrays) -> Array:
      new = arrays.network().path_log_probs(
        arrays(path), arrays("prompt_index")
      )
      return beta * (new - arrays(old))

    return compute

  offers = {"step_rewards": ratios("path", "path_log_probs")}
  reads = ("path", "path_log_probs", "signal", "mask", "prompt_index")
  if loss == "pairs":
    offers["rival_rewards"] = ratios("rival_path", "rival_log_probs")
    reads += ("rival_path", "rival_log_probs", "rival_signal")
  return Player(
    lambda key, sizes: {}, implied_outcome if loss == "outcome" else ordered,
    offers=offers, reads=reads, step_rewards="step_rewards", copies=True,
  )  # fmt: skip


def implied_outcome(
  step_rewards: Steps,
  signal: Float[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B"],
) -> tuple[Mean, dict[str, Mean]]:
  """Cross entropy of sigmoid(sum_t r_t) with the reward, clipped to [0, 1]."""
  logit = jnp.where(mask, jnp.asarray(step_rewards).sum(1), 0.0)
  target = jnp.clip(jnp.where(mask, signal, 0.0), 0.0, 1.0)
  log = jax.nn.log_sigmoid
  value = -target * log(logit) - (1 - target) * log(-logit)
  right = (logit > 0) == (target > 0.5)
  metrics = {"accuracy": Mean.of(right, mask), "logit": Mean.of(logit, mask)}
  return Mean.of(value, mask), jax.lax.stop_gradient(metrics)


def ordered(
  step_rewards: Steps,
  rival_rewards: Steps,
  signal: Float[ArrayLike, "B"],
  rival_signal: Float[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B"],
) -> tuple[Mean, dict[str, Mean]]:
  """-log sigmoid of the better sample's sum less the worse one's; ties left out."""
  gap = jnp.where(mask, jnp.asarray(signal) - rival_signal, 0.0)
  total = (jnp.asarray(step_rewards) - rival_rewards).sum(1)
  margin = jnp.sign(gap) * jnp.where(mask, total, 0.0)
  counts = jnp.asarray(mask) & (gap != 0)
  metrics = {"accuracy": Mean.of(margin > 0, counts)}
  value = Mean.of(jax.nn.softplus(-margin), counts)
  return value, jax.lax.stop_gradient(metrics)


def return_parts(*, hidden: int = 32) -> Player:
  """Rewards of steps that add up to the sample's: a small network on features.

  r_t = f(z_t), L = E (R - sum_t r_t)^2, with z_t of the latents around a step: their
  mean, deviation and low frequencies, the length of the step and the cosine with the
  sample. LaRe, Qu et al. 2025, https://arxiv.org/abs/2412.11120, where a language
  model writes the features of agents' states; these features are an adaptation.

  Args:
    hidden: features of the one hidden layer; 0 for a linear f.
  """
  require_counts("", least=0, hidden=hidden)

  def init(key: Array, sizes):
    del sizes
    out = {"kernel": jnp.zeros((hidden or FEATURES, 1))}  # all on the last step
    if not hidden:
      return {"out": out}
    kernel = jax.random.normal(key, (FEATURES, hidden)) / FEATURES**0.5
    return {"in": {"kernel": kernel, "bias": jnp.zeros(hidden)}, "out": out}

  def rewards(arrays: Arrays) -> Array:
    h = features(arrays("path"))
    if hidden:
      inner = arrays.params["in"]
      h = jnp.tanh(h @ inner["kernel"] + inner["bias"])
    return (h @ arrays.params["out"]["kernel"])[..., 0]

  return Player(
    init, adds_up, offers={"step_rewards": rewards},
    reads=("path", "signal", "mask", "prompt_index"),
    step_rewards="step_rewards", rules=(("(kernel|bias)$", ()),),
  )  # fmt: skip


FEATURES = 6


def features(path: Float[ArrayLike, "B S *L"]) -> Float[Array, "B T F"]:
  """Of T = S - 1 steps: 1, mean, deviation, coarse size, step size, cosine."""
  path = jnp.asarray(path)
  flat = path.reshape(*path.shape[:2], -1)
  after, move, end = flat[:, 1:], jnp.diff(flat, axis=1), flat[:, -1:]
  rms = lambda x: jnp.sqrt(jnp.square(x).mean(-1) + 1e-12)
  coarse = path[:, 1:].mean(tuple(range(3, path.ndim)))
  cosine = (after * end).mean(-1) / (rms(after) * rms(end))
  parts = (
    jnp.ones(after.shape[:2]), after.mean(-1), after.std(-1), rms(coarse),
    rms(move), cosine,
  )  # fmt: skip
  return jnp.stack(parts, -1)


def adds_up(
  step_rewards: Steps,
  signal: Float[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B"],
) -> tuple[Mean, dict[str, Mean]]:
  """Mean (R - sum_t r_t)^2, and that of a sum of 0 as `baseline_error`."""
  target = jnp.where(mask, signal, 0.0)
  total = jnp.where(mask, jnp.asarray(step_rewards).sum(1), 0.0)
  return Mean.of(jnp.square(target - total), mask), {
    "baseline_error": Mean.of(jnp.square(target), mask)
  }
