"""A reward model: made from a config, tested, and read back from its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import processes, reading, reward_models, user_code
from jaxreward.data import preferences
from jaxreward.data.preferences import Preferences
from jaxreward.errors import UserError, shown
from jaxreward.evaluation import intervals
from jaxreward.reward_models import RewardModel, accuracy, calibration
from jaxreward.training import weights
from jaxreward.types import Params

MODEL_FILE = "reward_model.safetensors"
RECORD_FILE = "reward_model.json"
_SCORED_AT_ONCE = 64  # rows


PARTS = ("backbone", "head")
_KINDS = {"backbone": reward_models.Backbone, "head": reward_models.Head}
_MOVED = (
  "config.reward_model.name has moved: write config.reward_model.backbone ="
  ' dict(name="scenes", width=..., ...) and config.reward_model.head ='
  ' dict(name="scalar", hidden=2 * width)'
)


def make(config: ConfigDict) -> RewardModel:
  """The backbone, the head and what is trained, as `config.reward_model` says.

  Raises:
    UserError: a part that is not known, or options that do not fit.
  """
  section = config.reward_model
  if "name" in section:
    raise UserError(_MOVED)
  how = {k: section[k] for k in ("train", "rank", "alpha", "targets")}
  model = _build(section, **how)
  if not jax.tree.leaves(trained_shapes(model)):
    raise UserError(
      'config.reward_model.train="frozen": the head has no parameters, so that'
      ' there is nothing to learn; use "full" or "lora"'
    )
  return model


def _build(section: ConfigDict, **how: Any) -> RewardModel:
  known = (reward_models.BACKBONES, reward_models.HEADS)
  parts: list[Any] = []
  for name, registry in zip(PARTS, known, strict=True):
    field = f"reward_model.{name}"
    part = section.get(name)
    if not isinstance(part, ConfigDict):
      raise UserError(
        f"config.{field}={shown(repr(part))}: it is a section; name its function"
        f" in config.{field}.name"
      )
    bound = config_lib.bind(part, registry, field=field)
    made, kind = _called(f"config.{field}", bound), _KINDS[name]
    if not isinstance(made, kind):
      raise UserError(
        f"config.{field}.name={shown(part.name)}: it returned a"
        f" {type(made).__name__}; expected a"
        f" jaxreward.reward_models.{kind.__name__}"
      )
    parts.append(made)
  return _called("config.reward_model", lambda: RewardModel(*parts, **how))


def _called(field: str, fn: Callable[[], Any]) -> Any:
  try:
    return user_code.call(field, fn)
  except UserError as error:
    said = str(error)
    if said.startswith("config."):
      raise
    line = f"config.{said}" if said.startswith("reward_model") else ""
    raise UserError(line or f"{field}: {said}") from error


def trained_shapes(model: RewardModel) -> Params:
  """Shapes of what is trained."""
  key = jax.random.key(0)
  whole = jax.eval_shape(model.init, key)
  if model.train == "full":
    return whole
  return {"head": whole["head"]} | (
    {"backbone": model.adapter_shapes()} if model.train == "lora" else {}
  )


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A trained reward model, as the reward `learned` takes it.

  Attributes:
    scorer: the model.
    params: its parameters, whole.
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
    is_old = "scorer" in record
    model = _build(ConfigDict(_of_old(record) if is_old else record["model"]))
    mean, std = float(record["mean"]), float(record["std"])
  except (UserError, ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"cannot read {record_path}, which belongs to {path.name}: {shown(error, 120)};"
      ' the job "train_reward" writes both'
    ) from error
  like = jax.eval_shape(model.init, jax.random.key(0))
  if is_old:  # both parts' names stood side by side
    flat = weights.load_params(path, {**like["backbone"], **like["head"]})
    params = {part: {k: flat[k] for k in like[part]} for part in like}
  else:
    params = weights.load_params(path, like)
  return LoadedModel(model, params, mean, std)


def _of_old(record: Mapping[str, Any]) -> dict[str, Any]:
  """The parts of a record from when there was one kind of model."""
  sizes = dict(record["scorer"])
  hidden = 2 * sizes.get("width", 128)
  return {
    "backbone": {"name": "scenes", **sizes},
    "head": {"name": "scalar", "hidden": hidden},
  }


def reads_scenes(path: epath.PathLike) -> bool:
  """Whether a trained model reads the words of the scenes and no others."""
  path = epath.Path(path)
  record = reading.record(path.parent / f"{path.stem}.json")
  name = record.get("model", {}).get("backbone", {}).get("name", "scenes")
  return name == "scenes"


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
      return scorer.score_groups(params, pictures, row[1])[0]

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
