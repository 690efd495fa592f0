"""How well a policy draws for users: those it learned from, and new ones."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxreward import processes, rng, setup
from jaxreward.data import preferences, rows
from jaxreward.data.rows import RowBatch
from jaxreward.data.users import NOBODY, Users
from jaxreward.evaluation import intervals
from jaxreward.rewards.implicit import implicit
from jaxreward.setup import offline, row_users
from jaxreward.types import Array, Params, Policy, PromptBatch

DRAWS = 8  # of noise and time per pair
ROUNDING = 1e-7  # of errors: those of one policy, computed in two places


@dataclasses.dataclass(frozen=True, eq=False)
class Test:
  """Pairs that nothing was learned from.

  Attributes:
    batch: Q pairs with the number of who answered.
    users: their vectors.
    is_planted: whether any image can be judged as they would.
  """

  batch: RowBatch
  users: Users
  is_planted: bool


def make_test(config: ConfigDict) -> Test | None:
  """The pairs of the test, each side of its users; None without users.

  Of a task they are of held-out prompts; of a file the rows of held-out prompts,
  and those of unseen users.
  """
  if not offline.has_users(config):
    return None
  if offline.is_drawn(config):
    return _planted(config)
  parts = row_users.parted(config, offline.records(config))
  heldout = [
    r
    for r in offline.of_every_split(config)
    if r.prompt.split != "train" and r.user in parts.shown
  ]
  records = []
  for side in (parts.tested, heldout):
    side = [r for r in side if not r.is_tie]
    order = np.random.default_rng(config.seed).permutation(len(side))
    records += [side[i] for i in order[: config.data.users.rows]]
  if not records:
    return None
  read = rows.batches(
    records, seed=config.seed, batch_size=len(records),
    side=setup.picture_side(setup.make_policy(config)), arrays=offline.file_task(config).rows,
    users=[*parts.shown],
  )  # fmt: skip
  return Test(read(0), parts.users(config), is_planted=False)


def _planted(config: ConfigDict) -> Test:
  users = row_users.planted(config)
  prompts = [
    p
    for split in ("validation", "heldout")
    for p in setup.load_prompts(config, split)
  ]
  prompts = preferences.choose_rows(
    prompts, config.data.users.rows, config.seed
  )
  batch = setup.make_task(config).batch(prompts)
  batch = dataclasses.replace(batch, ids=preferences.row_ids(batch))
  number = np.arange(len(prompts)) % len(users.vectors)
  key = rng.stream_key(config.seed, "pairs of the test")
  images, scores = row_users.pairs(config, key, batch, number)
  return Test(RowBatch(batch, images, scores, number), users, is_planted=True)


def evaluate(
  config: ConfigDict, policy: Policy, params: Params, base: Params
) -> dict[str, Any]:
  """Accuracy on pairs, by who answered; empty without users.

  A pair is right if the policy's error against the base's is the lower for what
  its user prefers (`rewards.implicit`); equal ones count half. Where users are
  planted, "win_share" is that of images drawn for the user over the base's under
  the same noise, by the user's own taste.

  Args:
    config: of the run.
    policy: that takes the parameters.
    params: the trained ones.
    base: those that training began with.

  Returns:
    {side: {accuracy, low, high, n, win_share}} with the sides "known", users that
    were learned from; "unseen", new users as the average one; and "adapted", the
    same pairs by the vectors of the new users' own comparisons.
  """
  test = make_test(config)
  if test is None:
    return {}
  number, scores = np.asarray(test.batch.user), np.asarray(test.batch.scores)
  images = preferences.as_float(jnp.asarray(test.batch.images))
  key = rng.stream_key(config.eval.seed, "evaluate users")

  @jax.jit
  def margins(params: Params, base: Params, prompts: PromptBatch) -> Array:
    rewards = implicit(
      images, prompts, policy=policy, params=params, reference=base, beta=1.0,
      draws=DRAWS,
    )  # fmt: skip
    return rewards[:, 0] - rewards[:, 1]

  @jax.jit
  def draw(params: Params, prompts: PromptBatch) -> Array:
    sampler = setup.make_sampler(config, "eval", policy, len(number), 1)
    trajectory = sampler.sample(params, key, prompts.words, prompts.ids)
    return jnp.clip(sampler.pixels(trajectory.latents[-1]), 0, 1)

  def prompts_of(users: np.ndarray) -> PromptBatch:
    return dataclasses.replace(test.batch.prompts, user=test.users.of(users))

  def measures(users: np.ndarray) -> dict[str, np.ndarray]:
    prompts = prompts_of(users)
    sign = np.sign(scores[:, 0] - scores[:, 1])
    right = sign * processes.fetch(margins(params, base, prompts))
    right = np.where(np.abs(right) <= ROUNDING, 0.0, right)
    results = {
      "accuracy": np.where(sign == 0, np.nan, (np.sign(right) + 1) / 2)
    }
    if test.is_planted:
      both = processes.fetch((draw(params, prompts), of_base))
      best = row_users.preferred(np.concatenate(both, 1), number)
      results["win_share"] = (1 + best[:, 0] - best[:, 1]) / 2
    return results

  of_base = None
  if test.is_planted:
    of_base = draw(base, prompts_of(np.full_like(number, NOBODY)))
  own, average = measures(number), measures(np.full_like(number, NOBODY))
  is_known = number < test.users.known
  sides = {
    "known": (own, is_known), "unseen": (average, ~is_known),
    "adapted": (own, ~is_known),
  }  # fmt: skip
  return {
    name: _summary(values, mask, number)
    for name, (values, mask) in sides.items()
    if mask.any()
  }


def _summary(
  values: dict[str, np.ndarray], mask: np.ndarray, user: np.ndarray
) -> dict[str, Any]:
  mask = mask & np.isfinite(values["accuracy"])
  right = values["accuracy"][mask]
  low, high = intervals.share(right, user[mask])
  means = {name: float(x[mask].mean()) for name, x in values.items()}
  return means | {"low": low, "high": high, "n": int(mask.sum())}
