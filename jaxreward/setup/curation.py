"""New labels for the training pairs of a reward model, before it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import processes, user_code
from jaxreward.data import preferences
from jaxreward.data.preferences import Preferences, as_float
from jaxreward.errors import UserError
from jaxreward.evaluation.reward_models import pairs
from jaxreward.methods import asks
from jaxreward.reward_models import RewardModel, curation
from jaxreward.rewards import compression
from jaxreward.types import Params

FIELD = "train_reward.curation"
_ROWS = 16  # whose features are computed at once
# members of rows [B, N] -> uint8 images [B, N, H, W, C]
Take = Callable[[np.ndarray], Any]


def bind(config: ConfigDict) -> Callable[..., np.ndarray] | None:
  """The method of `config.train_reward.curation`; None for "none".

  Raises:
    UserError: an unknown method or option, an option out of range, or an array
      that is not offered.
  """
  section, proxies = config.train_reward.curation, config.train_reward.proxies
  for name, least in (("members", 1), ("width", 1)):
    if proxies[name] < least:
      raise UserError(
        f"config.train_reward.proxies.{name}={proxies[name]}: it must be at"
        f" least {least}"
      )
  if not proxies.ridge > 0:
    raise UserError(
      f"config.train_reward.proxies.ridge={proxies.ridge:g}: it must be positive"
    )
  if section.name == "none":
    return None
  method = config_lib.bind(
    section, curation.CURATION, field=FIELD, supplied=asks
  )
  wrong = [name for name in asks(method) if name not in curation.OFFERS]
  if wrong:
    raise UserError(
      f'config.{FIELD}.name={section.name}: it reads "{wrong[0]}"; there are'
      f" {', '.join(curation.OFFERS)}"
    )
  few = _few()
  try:
    with user_code.blamed(f"config.{FIELD}", method, host=True):
      method(**{name: few[name] for name in asks(method)})
  except UserError as error:
    text = str(error)
    prefix = "" if text.startswith("config.") else f"config.{FIELD}."
    raise UserError(f"{prefix}{text}") from error
  return method


def _few() -> dict[str, np.ndarray]:
  """Arrays of eight pairs, to try a method on."""
  x = np.random.default_rng(0).normal(size=(8, 2))
  return {
    "label": np.arange(8) % 2 * 1.0, "margins": x, "scores": x, "features": x,
    "embeddings": x, "prompt": np.arange(8) // 2, "sizes": np.abs(x) + 1,
  }  # fmt: skip


def compressed(
  features: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
  """(mean [D], directions [D, width] of the largest variance, of unit variance)."""
  x = features.reshape(-1, features.shape[-1]).astype(np.float64)
  mean = x.mean(0)
  size, directions = np.linalg.eigh(np.cov(x - mean, rowvar=False, bias=True))
  selection = np.argsort(size)[::-1][:width]
  selection = selection[size[selection] > 1e-9 * max(float(size.max()), 1e-300)]
  return mean, directions[:, selection] / np.sqrt(size[selection])


def features_of(
  model: RewardModel, params: Params, rows: Preferences, take: Take
) -> tuple[np.ndarray, np.ndarray]:
  """Features of the images [Q, N, D] and of the prompts [Q, E], on the host."""
  members, tokens = np.asarray(rows.members), np.asarray(rows.tokens)

  @jax.jit
  def run(params: Params, images: Any, tokens: Any):
    features = model.backbone.features(params, as_float(images), tokens)
    return features["joint"], features["prompt"]

  parts = []
  for start in range(0, len(members), _ROWS):
    index = np.arange(start, min(start + _ROWS, len(members)))
    padded = np.resize(index, _ROWS)
    images = take(np.maximum(members[padded], 0))
    both = processes.fetch(run(params["backbone"], images, tokens[padded]))
    parts.append([np.asarray(x)[: len(index)] for x in both])
  joint, prompt = (np.concatenate(part) for part in zip(*parts, strict=True))
  return joint, prompt


def labels_of(
  rows: Preferences,
) -> tuple[pairs.Pairs, dict[str, np.ndarray]]:
  """(labeled pairs, their "label" and "prompt")."""
  table = pairs.labeled(np.asarray(rows.prob))
  label = np.asarray(rows.prob, np.float64)[
    table.row, table.columns[:, 0], table.columns[:, 1]
  ]
  number = preferences.prompt_numbers(rows)[table.row]
  return table, {"label": label, "prompt": number}


def sizes_of(rows: Preferences, table: pairs.Pairs, take: Take) -> np.ndarray:
  """Kilobytes [K, 2] of the images of pairs as JPEG."""
  members, parts = np.asarray(rows.members), []
  for start in range(0, len(members), _ROWS):
    images = take(np.maximum(members[start : start + _ROWS], 0))
    parts.append(
      compression.kilobytes(np.asarray(preferences.as_float(images)))
    )
  return np.concatenate(parts)[table.row[:, None], table.columns]


def offers(
  rows: Preferences,
  joint: np.ndarray,
  prompt: np.ndarray,
  *,
  members: int,
  width: int,
  ridge: float,
  seed: int,
) -> tuple[pairs.Pairs, dict[str, np.ndarray]]:
  """(labeled pairs, the arrays that curation may read, see `curation`)."""
  table, arrays = labels_of(rows)
  label, number = arrays["label"], arrays["prompt"]
  mean, directions = compressed(joint, width)
  x = (joint - mean) @ directions
  both = x[table.row[:, None], table.columns]
  features = both[:, 0] - both[:, 1]
  margins, weights = curation.cross_margins(
    features, label, number, members=members, ridge=ridge, seed=seed
  )
  scores = both @ weights.mean((0, 1))
  return table, arrays | {
    "margins": margins, "scores": scores, "features": features,
    "embeddings": np.asarray(prompt)[table.row],
  }  # fmt: skip


def curated(
  config: ConfigDict,
  model: RewardModel,
  params: Callable[[], Params],
  rows: Preferences,
  take: Take | None = None,
) -> tuple[Preferences, dict[str, Any]]:
  """The training rows with new labels, and what became of the old ones.

  Args:
    config: of the run.
    model: whose backbone gives features.
    params: () -> all of its parameters, before training.
    rows: training rows.
    take: reads images; None where the rows have them.

  Raises:
    UserError: no pair is left.
  """
  method, proxies = bind(config), config.train_reward.proxies
  if method is None:
    return rows, {}
  if take is None:
    take = lambda members: np.asarray(rows.images)[members]
  if set(asks(method)) <= {"label", "prompt", "sizes"}:
    table, arrays = labels_of(rows)
  else:
    joint, prompt = features_of(model, params(), rows, take)
    table, arrays = offers(
      rows, joint, prompt, members=proxies.members, width=proxies.width,
      ridge=proxies.ridge, seed=config.seed,
    )  # fmt: skip
  if "sizes" in asks(method):
    arrays["sizes"] = sizes_of(rows, table, take)
  new = np.asarray(method(**{name: arrays[name] for name in asks(method)}))
  old, selection = arrays["label"], np.isfinite(new)
  if not selection.any():
    raise UserError(
      f'config.{FIELD}.name="{config.train_reward.curation.name}": none of the'
      f" {len(old)} pairs is kept; ask less of them"
    )
  prob = np.array(rows.prob)
  first, second = table.columns.T
  prob[table.row, first, second] = new
  prob[table.row, second, first] = 1 - new
  turned = (
    selection & ((new > 0.5) != (old > 0.5)) & (new != 0.5) & (old != 0.5)
  )
  counts = {
    "pairs": len(old), "kept": int(selection.sum()), "turned": int(turned.sum()),
    "softened": int((selection & ~turned & (new != old)).sum()),
  }  # fmt: skip
  counts |= _against_scores(rows, table, old, new)
  if processes.is_first():
    logging.info(
      "%s: of %d pairs %d are kept, %d turned round and %d softened",
      config.train_reward.curation.name, *(counts[k] for k in
      ("pairs", "kept", "turned", "softened")),
    )  # fmt: skip
  return dataclasses.replace(rows, prob=prob), counts


def _against_scores(
  rows: Preferences, table: pairs.Pairs, old: np.ndarray, new: np.ndarray
) -> dict[str, float]:
  """Share of right labels before and after, where rows have true scores."""
  d = pairs.differences(np.asarray(rows.score, np.float64), table)
  known = np.isfinite(d) & (d != 0)
  shares = {}
  for name, label in (("right_before", old), ("right_after", new)):
    decided = known & np.isfinite(label) & (label != 0.5)
    if decided.any():
      right = (label > 0.5) == (d > 0)
      shares[name] = float(right[decided].mean())
  return shares
