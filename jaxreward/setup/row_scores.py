"""Scores of a dataset's images as a condition of the policy.

The image of each row is scored by rewards of the run, named in `config.data.scored`.
The policy reads, in the place of a user (`PromptBatch.user`), sinusoids of the share
of the dataset's images that score no more, one part for each reward; zeros are no
condition. Wherever prompts are drawn for, it is asked for the share
`config.data.scored.ask`.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from jaxreward import processes, rng, setup
from jaxreward.data import preferences
from jaxreward.data.rows import RowBatch
from jaxreward.errors import UserError, require_counts, shown
from jaxreward.rewards import Reward, score
from jaxreward.types import Array, Params, Policy, PromptBatch

FIELD = "config.data.scored"
SCALE = 5.0  # of shares under the sinusoids
TESTED = 64  # prompts that are drawn for at the end
ReadRows = Callable[[int], RowBatch]


def names(config: ConfigDict) -> tuple[str, ...]:
  """The rewards whose scores the policy reads."""
  return tuple(config.data.scored.rewards)


def check(config: ConfigDict, policy: Policy, origin: str) -> None:
  """Refuses scores that nothing reads, or that no reward gives.

  Args:
    config: of the run.
    policy: the policy.
    origin: of its rows, see `offline.origin`.

  Raises:
    UserError: the field, its value and the fix.
  """
  section, of = config.data.scored, names(config)
  if not of:
    return
  field = f"{FIELD}.rewards={shown(','.join(map(str, of)), 60)}"
  if origin != "dataset":
    raise UserError(
      f"{field}: images of a dataset are scored; name one in config.data.dataset"
    )
  for name in of:
    if name not in config.rewards:
      raise UserError(
        f'{field}: "{shown(name)}" is not in config.rewards, which has'
        f" {', '.join(config.rewards) or 'none'}"
      )
  if not policy.user or policy.user % (2 * len(of)):
    raise UserError(
      f"config.model.user={policy.user}: {field} takes as many numbers for each"
      f" reward, half of them cosines; set it to a multiple of {2 * len(of)}"
    )
  require_counts(f"{FIELD}.", rows=section.rows)
  if not 0 <= section.ask <= 1:
    raise UserError(f"{FIELD}.ask={section.ask}: a share is from 0 to 1")


def features(
  shares: Float[np.ndarray, "P K"], width: int
) -> Float[np.ndarray, "P D"]:
  """Cosines, then sines, of 5 s at frequencies from 1 down to 1e-4, by reward.

  The embedding of scores of 0 to 5 by the sinusoids of diffusion times, of Multi-
  Reward as Condition (see the recipe `multi_reward_condition`).

  Args:
    shares: in [0, 1]; one that is not finite, of a score that failed, gives zeros.
    width: D, a multiple of 2 K.
  """
  p, k = shares.shape
  half = width // k // 2
  frequency = 1e-4 ** (np.arange(half) / half)
  angle = SCALE * np.nan_to_num(shares)[..., None] * frequency
  both = np.concatenate([np.cos(angle), np.sin(angle)], -1)
  both = np.where(np.isfinite(shares)[..., None], both, 0.0)
  return both.reshape(p, width).astype(np.float32)


def asked(
  config: ConfigDict, rows: int, least: str = ""
) -> Float[np.ndarray, "P D"]:
  """What the policy reads where `rows` prompts are drawn for.

  Args:
    config: of the run.
    rows: P.
    least: a reward of which the lowest share is asked for instead.
  """
  share = [
    0.0 if name == least else config.data.scored.ask for name in names(config)
  ]
  return features(np.array([share] * rows), config.model.user)


def asking(config: ConfigDict, batch: PromptBatch) -> PromptBatch:
  """The batch with the shares that are asked for, unless it has its rows' own."""
  if not names(config) or batch.user is not None:
    return batch
  return dataclasses.replace(batch, user=asked(config, len(batch.ids)))


def conditioned(
  config: ConfigDict, read_rows: ReadRows | None, rewards: Mapping[str, Reward]
) -> ReadRows | None:
  """Rows of an iteration with the shares of their scores for the policy.

  Args:
    config: of the run.
    read_rows: see `offline.batches`.
    rewards: of the run.
  """
  of = names(config)
  if read_rows is None or not of:
    return read_rows
  section, rows_of = config.data.scored, read_rows
  scorers = {name: rewards[name] for name in of}

  def scored(n: int) -> tuple[RowBatch, Float[np.ndarray, "P K"]]:
    rows = rows_of(n)
    images = preferences.as_float(jnp.asarray(rows.images))
    values = _scores(scorers, images, rows.prompts)
    return rows, np.stack([values[name][:, 0] for name in of], 1)

  @functools.cache
  def references() -> list[np.ndarray]:
    """Sorted scores of the first rows, by reward."""
    count = -(-section.rows // config.rollout.prompts)
    every = np.concatenate([scored(n)[1] for n in range(count)])
    finite = [column[np.isfinite(column)] for column in every.T]
    for name, column in zip(of, finite, strict=True):
      if not len(column):
        raise UserError(
          f"{FIELD}.rewards: {name} has scored none of {len(every)} images"
        )
    return [np.sort(column) for column in finite]

  def batch(n: int) -> RowBatch:
    rows, scores = scored(n)
    shares = [
      np.where(
        np.isfinite(x), np.searchsorted(of_all, x, "right") / len(of_all), np.nan
      )
      for x, of_all in zip(scores.T, references(), strict=True)
    ]  # fmt: skip
    user = features(np.stack(shares, 1), config.model.user)
    generator = np.random.default_rng(
      [int(config.seed) % 2**63, zlib.crc32(b"scored"), n]
    )
    is_dropped = generator.random(len(user)) < section.drop
    user = np.where(is_dropped[:, None], np.float32(0), user)
    prompts = dataclasses.replace(rows.prompts, user=user)
    return dataclasses.replace(rows, prompts=prompts)

  return batch


def _scores(
  rewards: Mapping[str, Reward], images: Any, prompts: PromptBatch
) -> dict[str, np.ndarray]:
  """{name: [P, G]} of rewards that give one score."""
  values = processes.fetch(score(rewards, images, prompts)[0])
  for name in rewards:
    if name not in values:
      raise UserError(
        f"config.rewards.{name}: the reward returned several scores"
        f" ({', '.join(values)}); one that {FIELD} names returns one"
      )
  return {name: np.asarray(values[name]) for name in rewards}


def evaluate(
  config: ConfigDict,
  policy: Policy,
  params: Params,
  rewards: Mapping[str, Reward],
) -> dict[str, dict[str, float]]:
  """Mean scores of images of held-out prompts, by what was asked for.

  Returns:
    {"asked": {reward: mean}, "least REWARD": {...}}, with the lowest share of that
    reward asked for alone and all else, the noise too, the same; empty where no
    scores are read.
  """
  of = names(config)
  if not of:
    return {}
  prompts = preferences.choose_rows(
    setup.load_prompts(config, "heldout"), TESTED, config.seed
  )
  batch = setup.make_task(config).batch(prompts)
  batch = dataclasses.replace(batch, ids=preferences.row_ids(batch))
  key = rng.stream_key(config.eval.seed, "evaluate scores")

  @jax.jit
  def draw(params: Params, prompts: PromptBatch) -> Array:
    sampler = setup.make_sampler(config, "eval", policy, TESTED, 1)
    trajectory = sampler.sample(params, key, prompts.words, prompts.ids)
    return jnp.clip(sampler.pixels(trajectory.latents[-1]), 0, 1)

  def means(least: str = "") -> dict[str, float]:
    user = asked(config, TESTED, least)
    prompts = dataclasses.replace(batch, user=user)
    images = draw(params, prompts)
    values = _scores({name: rewards[name] for name in of}, images, batch)
    return {name: float(np.nanmean(x)) for name, x in values.items()}

  return {"asked": means()} | {f"least {name}": means(name) for name in of}
