"""A trained reward model: how it is tested, and how it is read back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxreward import processes, reading
from jaxreward.data import preferences
from jaxreward.data.preferences import Preferences
from jaxreward.errors import UserError, shown
from jaxreward.evaluation import intervals
from jaxreward.models.vision import scene_reward
from jaxreward.models.vision.scene_reward import RewardModel
from jaxreward.reward_models import accuracy, calibration
from jaxreward.training import weights
from jaxreward.types import Params

MODEL_FILE = "reward_model.safetensors"
RECORD_FILE = "reward_model.json"
_SCORED_AT_ONCE = 64  # rows


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A trained reward model, as the reward `learned` takes it.

  Attributes:
    scorer: the architecture.
    params: its parameters.
    mean: of the scores of the policy's held-out pictures.
    std: their standard deviation.
  """

  scorer: RewardModel
  params: Params
  mean: float
  std: float


def load(path: epath.PathLike) -> LoadedModel:
  """Reads what the job train_reward has written.

  Args:
    path: of reward_model.safetensors; reward_model.json lies beside it.

  Raises:
    UserError: one of the two is missing, damaged or does not fit.
  """
  path = epath.Path(path)
  record_path = path.parent / f"{path.stem}.json"
  try:
    record = reading.record(record_path)
    scorer = scene_reward.make_scorer(**record["scorer"])
    mean, std = float(record["mean"]), float(record["std"])
  except (UserError, ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"cannot read {record_path}, which belongs to {path.name}: {shown(error, 120)};"
      ' the job "train_reward" writes both'
    ) from error
  like = jax.eval_shape(scorer.init, jax.random.key(0))
  return LoadedModel(scorer, weights.load_params(path, like), mean, std)


def row_scorer(
  scorer: RewardModel,
) -> Callable[[Params, Preferences], np.ndarray]:
  """(params, Preferences) -> scores [Q, N], a few rows at a time."""

  @jax.jit
  def scores(params, images, members, tokens):
    rows, n = members.shape
    chunks = -(-rows // _SCORED_AT_ONCE)
    pad = chunks * _SCORED_AT_ONCE - rows

    def chunked(x):
      x = jnp.pad(x, ((0, pad), (0, 0)))
      return x.reshape(chunks, _SCORED_AT_ONCE, -1)

    def one(row):
      pictures = preferences.as_float(images[row[0]])
      return scorer.score_groups(params, pictures, row[1])

    found = jax.lax.map(one, (chunked(members), chunked(tokens)))
    return found.reshape(-1, n)[:rows]

  return lambda params, data: processes.fetch(
    scores(params, data.images, data.members, data.tokens)
  )


def _share(
  scores: np.ndarray, mask: np.ndarray, prompt: np.ndarray
) -> dict[str, Any]:
  """{accuracy, low, high, n} of pairs [K, 2], the preferred picture first.

  Pairs that share a prompt are not independent: see `intervals.share`.
  """
  right, n = accuracy.pair_accuracy(scores, mask)
  each = [accuracy.pair_accuracy(pair[None])[0] for pair in scores[mask]]
  low, high = intervals.share(each, prompt[mask])
  return dict(accuracy=right / n if n else None, low=low, high=high, n=n)


def _read(data, scores, row, place) -> tuple[np.ndarray, np.ndarray]:
  """Scores [K, 2] of pairs, and whether their strict verdicts differ [K]."""
  verdict = np.asarray(data.strict)[row[:, None], place]
  differ = np.abs(verdict[:, 0] - verdict[:, 1]) == 1
  return scores[row[:, None], place], differ


def evaluate(
  data: Preferences,
  scores: np.ndarray,
  seed: int,
  categories: Mapping[int, str],
) -> dict[str, Any]:
  """Held-out accuracy over pairs of which no two share a picture.

  Args:
    data: held-out rows.
    scores: [Q, N], the model's.
    seed: of the pairing.
    categories: number -> name, of the prompts.

  Returns:
    {accuracy, low, high, n} of all pairs, the interval by resampling prompts
    rather than pairs; under "strict" the same for pairs of
    which one is strictly right and the other is not, under "kinds" for those
    of each kind of prompt, and under "policy_strict" for such pairs between
    pictures of the policy alone, paired anew; and under "calibration" the bins
    {confidence, accuracy, n} that hold a pair.
  """
  row, place = preferences.separate_pairs(data, seed)
  pair, differ = _read(data, scores, row, place)
  kind = np.asarray(data.category)[row]
  # A prompt may stand in several rows.
  prompts = np.unique(np.asarray(data.tokens), axis=0, return_inverse=True)[1]
  prompts = prompts.reshape(-1)
  found = _share(pair, np.ones(len(pair), bool), prompts[row])
  found["strict"] = _share(pair, differ, prompts[row])
  drawn = preferences.separate_pairs(data, seed, "policy")
  found["policy_strict"] = _share(
    *_read(data, scores, *drawn), prompts[drawn[0]]
  )
  found["kinds"] = {
    categories[int(k)]: _share(pair, differ & (kind == k), prompts[row])
    for k in np.unique(kind[kind >= 0])
  }
  d = pair[:, 0] - pair[:, 1]
  if np.isfinite(d).any():
    temperature = calibration.fit_temperature(d)
    found["temperature"] = temperature
    found["calibration_error"] = calibration.expected_calibration_error(d)
    found["calibration"] = _bins(d)
  return found


def _bins(d: np.ndarray) -> list[dict[str, Any]]:
  """Stated confidence against the share of right answers, bin by bin."""
  rows = zip(*calibration.reliability(d), strict=True)
  return [
    {"confidence": float(confidence), "accuracy": float(right), "n": int(n)}
    for n, confidence, right in rows
    if n
  ]
