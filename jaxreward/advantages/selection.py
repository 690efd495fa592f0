"""Credit for some of the samples: NaN excludes the others from the loss."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer, Key

from jaxreward.advantages.group import group, require_reward
from jaxreward.errors import UserError
from jaxreward.numerics import masked_mean, masked_std
from jaxreward.types import Array, ArrayLike

Signal = Float[ArrayLike, "P G"]
Mask = Bool[ArrayLike, "P G"]


def best_and_worst(
  signal: Signal,
  mask: Mask,
  *,
  keep: int = 8,
  std: str = "group",
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G"]:
  """`group`, restricted to the `keep` / 2 highest and lowest samples.

  Advantages are computed over the whole group.
  DanceGRPO, https://arxiv.org/abs/2505.07818: 8 of 24 for HunyuanVideo, read in
  the authors' code.

  Args:
    signal: composed reward; anything where masked.
    mask: True where the reward is valid.
    keep: samples of a group, half of them from each end; all of a smaller group.
    std: see `group`.
    epsilon: see `group`.
    clip: see `group`.

  Returns:
    advantage, NaN for the samples in between.

  Raises:
    UserError: an odd number, or one below 2.
  """
  if keep < 2 or keep % 2:
    raise UserError(
      f"config.advantage.keep={keep}: half of it is kept at each end; use an even"
      " number from 2 on"
    )
  advantage = group(signal, mask, std=std, epsilon=epsilon, clip=clip)
  order = jnp.where(mask, jnp.asarray(signal, jnp.float32), jnp.inf)
  rank = jnp.argsort(jnp.argsort(order, axis=1, stable=True), axis=1)
  count = jnp.sum(mask, axis=1, keepdims=True)
  is_extreme = (rank < keep // 2) | (rank >= count - keep // 2)
  return jnp.where(is_extreme & mask, advantage, jnp.nan)


def sifted(
  signal: Signal,
  scores: Mapping[str, Float[ArrayLike, "P G"]],
  mask: Mask,
  *,
  ranks: str = "",
  points: str = "",
) -> Float[Array, "P G"]:
  """1 for the best of the winners of disjoint pairs, -1 for the worst of the losers.

  Members 2 i and 2 i + 1 meet by `ranks`; among the winners the one of most
  `points` stays, among the losers that of fewest. A prompt whose two ends do not
  agree, points(best) <= points(worst), is left out. UnifiedReward,
  https://arxiv.org/abs/2503.05236, of ten images for DPO; a reward that compares each
  image with all others (`pairs="all"`) decides a match by the two win rates.

  Args:
    signal: composed reward.
    scores: name -> raw scores.
    mask: True where a sample counts.
    ranks: name of the reward that compares; the composed one if "".
    points: name of the reward that scores each image by itself, likewise.

  Returns:
    advantage, NaN for the other samples.

  Raises:
    UserError: a name that is not a reward, or an odd group.
  """
  for field, name in (("ranks", ranks), ("points", points)):
    if name:
      require_reward(field, name, scores)
  every = {"": signal, **scores}
  size = jnp.shape(mask)[1]
  if size % 2:
    raise UserError(
      f"config.rollout.group={size}: samples meet in pairs; take an even number"
    )
  met, point = jnp.asarray(every[ranks]), jnp.asarray(every[points])
  there = jnp.asarray(mask) & jnp.isfinite(met) & jnp.isfinite(point)
  turned = lambda x: x.reshape(-1, size // 2, 2)[..., ::-1].reshape(x.shape)
  is_match = there & turned(there)
  winners, losers = (
    is_match & (sign * met > sign * turned(met)) for sign in (1, -1)
  )
  end = lambda who, sign: jnp.where(who, sign * point, -jnp.inf)
  best, worst = (end(winners, 1), end(losers, -1))
  agrees = best.max(1) > -worst.max(1)
  place = jnp.arange(size)
  at = lambda x: (x.argmax(1)[:, None] == place) & agrees[:, None]
  # Without a match both ends are infinite, and do not agree.
  credit = jnp.where(at(worst), -1.0, jnp.nan)
  return jnp.where(at(best), 1.0, credit)


def branch_ends(
  signal: Signal,
  mask: Mask,
  *,
  members: int = 5,
  least: float = 0.5,
  std: str = "group",
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G"]:
  """`group`, restricted to the best and worst of each branch, if far enough out.

  A branch is `members` samples, one after the other, that share their first steps
  (`rollout.branch.members`). Its best stays where A >= least, its worst where
  A < -least. B2-DiffuRL, https://arxiv.org/abs/2503.11240, read in the authors' code,
  which takes mean and deviation of a prompt over 9 stages instead of the group.

  Args:
    signal: composed reward; anything where masked.
    mask: True where the reward is valid.
    members: of a branch.
    least: smallest |A| that is kept.
    std: see `group`.
    epsilon: see `group`.
    clip: see `group`.

  Returns:
    advantage, NaN for the other samples.

  Raises:
    UserError: branches that do not fill a group.
  """
  prompts, size = jnp.shape(signal)
  if members < 2 or size % members:
    raise UserError(
      f"config.advantage.members={members}: expected a divisor of"
      f" config.rollout.group={size} above 1"
    )
  advantage = group(signal, mask, std=std, epsilon=epsilon, clip=clip)
  branches = lambda x: x.reshape(prompts, -1, members)
  credit, there = branches(advantage), branches(jnp.asarray(mask))
  place = jnp.arange(members)
  at = lambda x, sign: (
    jnp.argmax(jnp.where(there, sign * x, -jnp.inf), -1)[..., None] == place
  )
  best = at(credit, 1) & (credit >= least)
  worst = at(credit, -1) & (credit < -least)
  credit = jnp.where((best | worst) & there, credit, jnp.nan)
  return credit.reshape(prompts, size)


def filtered(
  signal: Signal,
  mask: Mask,
  *,
  least_spread: float = 0.05,
  most_mean: float = 0.9,
  std: str = "batch",
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G"]:
  """`group` without groups of little spread or a high mean.

  In those, a normalised reward is mostly noise of the judge. A group stays if its
  standard deviation is above `least_spread` and its mean below `most_mean`.
  UniWorld-V2, https://arxiv.org/abs/2510.16888, the filter as released: it drops
  hard groups of little spread too. The statistics over the batch are those of all
  groups, as there.

  Args:
    signal: composed reward, in [0, 1] for these defaults.
    mask: True where the reward is valid.
    least_spread: a group's standard deviation has to exceed this.
    most_mean: a group's mean has to stay below this.
    std: see `group`.
    epsilon: see `group`.
    clip: see `group`.

  Returns:
    advantage, NaN in dropped groups.
  """
  advantage = group(signal, mask, std=std, epsilon=epsilon, clip=clip)
  mean, spread = (f(signal, mask, 1, True) for f in (masked_mean, masked_std))
  is_kept = (spread > least_spread) & (mean < most_mean)
  return jnp.where(is_kept, advantage, jnp.nan)


def against_one(
  signal: Signal,
  mask: Mask,
  prompt_ids: Integer[ArrayLike, "P"],
  key: Key[Array, ""],
  *,
  discard: float = 1.0,
) -> Float[Array, "P G"]:
  """+1 or -1: better or worse than a random sample of the group.

  That sample and ties are excluded. Groups in which |sum A| reaches
  `discard` (n - 1), whose opponent was too good or too bad, are dropped.
  BRPO (Writing-Zero), https://arxiv.org/abs/2506.00103; their verdict is that of
  a pairwise judge, the threshold and the place of ties are unverified.

  Args:
    signal: composed reward; anything where masked.
    mask: True where the reward is valid.
    prompt_ids: uint32.
    key: of the iteration.
    discard: share of equal verdicts at which a group is dropped.

  Returns:
    advantage, NaN for excluded samples.

  Raises:
    UserError: a share outside (0, 1].
  """
  if not 0 < discard <= 1:
    raise UserError(
      f"config.advantage.discard={discard}: it is above 0 and at most 1"
    )
  draws = _uniform_each(key, prompt_ids, jnp.shape(signal)[1])
  opponent = jnp.argmax(jnp.where(mask, draws, -1.0), axis=1)[:, None]
  signal = jnp.where(mask, signal, 0.0)
  verdict = jnp.sign(signal - jnp.take_along_axis(signal, opponent, axis=1))
  has_verdict = mask & (verdict != 0)
  others = jnp.sum(mask, axis=1, keepdims=True) - 1
  imbalance = jnp.abs(
    jnp.sum(jnp.where(mask, verdict, 0.0), axis=1, keepdims=True)
  )
  is_kept = has_verdict & (imbalance < discard * others)
  return jnp.where(is_kept, verdict, jnp.nan)


def curated(
  signal: Signal,
  mask: Mask,
  prompt_ids: Integer[ArrayLike, "P"],
  key: Key[Array, ""],
  real: Mask,
  *,
  temperature: float = 1.0,
  least: float | None = None,
) -> Float[Array, "P G"]:
  """1 for one sample of each group, kept with probability softmax(r / T).

  Reference images (`rollout.real`) are not chosen among; they get 0, for a term that
  mixes them in (`data_matching`).

  With an objective that fits the kept samples, repeated rounds raise
  E[exp(r / T)]: for an infinite group the fitted density is p exp(r / T) / E[exp(r / T)].
  Ferbach et al. 2024, https://arxiv.org/abs/2407.09499, the discrete choice of
  users among K samples.
  With `least` the choice is among samples that a filter passes, as UI-Genie retrains on,
  https://arxiv.org/abs/2505.21496: where its verdicts are right with probability q, a
  round multiplies the odds of a right sample by q / (1 - q).

  Args:
    signal: composed reward; anything where masked.
    mask: True where the reward is valid.
    prompt_ids: uint32.
    key: of the iteration.
    real: True for reference images.
    temperature: T, above 0; near 0 the best is kept.
    least: smallest signal that may be kept; None for any. A group without one keeps
      nothing.

  Returns:
    advantage, NaN for the other samples.

  Raises:
    UserError: a temperature that is not positive.
  """
  if not temperature > 0:
    raise UserError(
      f"config.advantage.temperature={temperature}: it must be above 0"
    )
  draws = _uniform_each(key, prompt_ids, jnp.shape(signal)[1])
  gumbel = -jnp.log(-jnp.log(jnp.maximum(draws, 1e-30)))
  real = jnp.asarray(real)
  policy_mask = mask & ~real
  if least is not None:
    policy_mask &= jnp.asarray(signal) >= least
  score = jnp.where(
    policy_mask, jnp.asarray(signal) / temperature + gumbel, -jnp.inf
  )
  is_kept = jnp.argmax(score, axis=1)[:, None] == jnp.arange(score.shape[1])
  return jnp.where(
    is_kept & policy_mask, 1.0, jnp.where(real & mask, 0.0, jnp.nan)
  )


def _uniform_each(
  key: Array, prompt_ids: ArrayLike, members: int
) -> Float[Array, "P G"]:
  """Uniform draws in [0, 1), keyed by prompt and member."""

  def draw_prompt(prompt):
    of_prompt = jax.random.fold_in(key, prompt)
    draw = lambda member: jax.random.uniform(
      jax.random.fold_in(of_prompt, member)
    )
    return jax.vmap(draw)(jnp.arange(members))

  return jax.vmap(draw_prompt)(jnp.asarray(prompt_ids, jnp.uint32))
