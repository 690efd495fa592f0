"""A reward model: built from a config, evaluated, and loaded from its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import processes, reading, reward_models, user_code
from jaxreward.data import preferences
from jaxreward.data.image_store import ImageStore
from jaxreward.data.preferences import Preferences
from jaxreward.errors import UserError, shown
from jaxreward.evaluation import intervals
from jaxreward.evaluation.reward_models import judge
from jaxreward.reward_models import RewardModel, accuracy, calibration
from jaxreward.training import weights
from jaxreward.types import Params

MODEL_FILE = "reward_model.safetensors"
RECORD_FILE = "reward_model.json"
_SCORED_AT_ONCE = 64  # rows
_IMAGES_AT_ONCE = 256


PARTS = ("backbone", "head")
_KINDS = {"backbone": reward_models.Backbone, "head": reward_models.Head}
OPTIONS = {"context": False, "frames": "mean"}  # of a model besides its parts
_MOVED = (
  "config.reward_model.name has moved: write config.reward_model.backbone ="
  ' dict(name="scenes", width=..., ...) and config.reward_model.head ='
  ' dict(name="scalar", hidden=2 * width)'
)


def make(config: ConfigDict) -> RewardModel:
  """The reward model of `config.reward_model`: backbone, head, trained part.

  Raises:
    UserError: an unknown part, or invalid options.
  """
  section = config.reward_model
  if "name" in section:
    raise UserError(_MOVED)
  how = {k: section[k] for k in ("train", "rank", "alpha", "targets")}
  model = _build(section, **how)
  shapes = _called("config.reward_model", lambda: trained_shapes(model))
  if not jax.tree.leaves(shapes):
    raise UserError(
      'config.reward_model.train="frozen": the head has no parameters, so that'
      ' there is nothing to learn; use "full" or "lora"'
    )
  return model


def _build(section: ConfigDict, **how: Any) -> RewardModel:
  registries = (reward_models.BACKBONES, reward_models.HEADS)
  parts: list[Any] = []
  for name, registry in zip(PARTS, registries, strict=True):
    field = f"reward_model.{name}"
    part = section.get(name)
    if not isinstance(part, ConfigDict):
      raise UserError(
        f"config.{field}={shown(repr(part))}: it is a section; name its function"
        f" in config.{field}.name"
      )
    make_component = config_lib.bind(part, registry, field=field)
    component, expected_type = (
      _called(f"config.{field}", make_component),
      _KINDS[name],
    )
    if not isinstance(component, expected_type):
      raise UserError(
        f"config.{field}.name={shown(part.name)}: it returned a"
        f" {type(component).__name__}; expected a"
        f" jaxreward.reward_models.{expected_type.__name__}"
      )
    parts.append(component)
  how |= _options(section)
  return _called("config.reward_model", lambda: RewardModel(*parts, **how))


def _options(section: ConfigDict) -> dict[str, Any]:
  return {k: section.get(k, default) for k, default in OPTIONS.items()}


def record_of(section: ConfigDict) -> dict[str, Any]:
  """What the file beside a trained model says of its making; see `load`."""
  parts = {part: section[part].to_dict() for part in PARTS}
  others = _options(section).items()
  return parts | {k: x for k, x in others if x != OPTIONS[k]}


def _called(field: str, fn: Callable[[], Any]) -> Any:
  try:
    return user_code.call(field, fn)
  except UserError as error:
    message = str(error)
    if message.startswith("config."):
      raise
    line = f"config.{message}" if message.startswith("reward_model") else ""
    raise UserError(line or f"{field}: {message}") from error


def trained_shapes(model: RewardModel) -> Params:
  """Shapes of the trained parameters."""
  if model.train == "full":
    return model.param_shapes
  return {"head": model.param_shapes["head"]} | (
    {"backbone": model.adapter_shapes()} if model.train == "lora" else {}
  )


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A trained reward model, as the reward `learned` takes it.

  Attributes:
    scorer: the model.
    params: its parameters, backbone and head.
    mean: of the scores of the policy's held-out images.
    std: their standard deviation.
    temperature: T, such that sigmoid(d / T) is the probability of an answer for
      a difference d of scores before they are normalized.
  """

  scorer: RewardModel
  params: Params
  mean: float
  std: float
  temperature: float = 1.0


def load(path: epath.PathLike) -> LoadedModel:
  """Loads a reward model written by the job train_reward.

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
    temperature = float(record.get("temperature", 1.0))
  except (UserError, ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"cannot read {record_path}, which belongs to {path.name}: {shown(error, 120)};"
      ' the job "train_reward" writes both'
    ) from error
  like = model.saved_shapes
  if is_old:  # both parts in one flat dict
    flat = weights.load_params(path, {**like["backbone"], **like["head"]})
    params = {part: {k: flat[k] for k in like[part]} for part in like}
  else:
    params = weights.load_params(path, like)
  return LoadedModel(model, params, mean, std, temperature)


def _of_old(record: Mapping[str, Any]) -> dict[str, Any]:
  """Backbone and head of a record in the old format."""
  sizes = dict(record["scorer"])
  hidden = 2 * sizes.get("width", 128)
  return {
    "backbone": {"name": "scenes", **sizes},
    "head": {"name": "scalar", "hidden": hidden},
  }


def language_of(path: epath.PathLike) -> str | None:
  """The task whose word ids alone a trained model reads, see `spoken`."""
  path = epath.Path(path)
  record = reading.record(path.parent / f"{path.stem}.json")
  return spoken(record.get("model", {}).get("backbone", {}))


def spoken(backbone: Mapping[str, Any] | ConfigDict) -> str | None:
  """The task whose word ids alone a backbone reads; None if it reads texts."""
  name = backbone.get("name", reward_models.OF_WORDS[0])
  if name not in reward_models.OF_WORDS:
    return None
  return backbone.get("language", "scenes")


def fitted(
  model: RewardModel,
  params: Params,
  rows: Callable[[int], Any],
  batch_of: Callable[[Any, Any], Any],
  steps: int,
) -> Params:
  """Parameters whose head has seen the training rows once more.

  Args:
    model: of the run; one whose head keeps no statistics is left as it is.
    params: all parameters.
    rows: step -> rows.
    batch_of: (rows, step) -> the batch of that step.
    steps: of the training; the last 64 batches are read.
  """
  if model.head.statistics is None:
    return params

  @jax.jit
  def statistics(params, data, n):
    batch = batch_of(data, n)
    details = batch.details
    return model.statistics(
      params, batch.images, batch.tokens, details.context, details.mask
    )

  sums = [
    statistics(params, rows(n), jnp.int32(n))
    for n in range(max(0, steps - 64), steps)
  ]
  total = jax.tree.map(lambda *x: sum(x[1:], x[0]), *sums)
  assert model.head.fitted is not None
  return {**params, "head": model.head.fitted(params["head"], total)}


def row_scorer(
  scorer: RewardModel,
) -> Callable[..., np.ndarray]:
  """(params, Preferences) -> scores [Q, N], a few rows at a time.

  Further arrays [Q, ...] may follow by name: "user", or "taste" of users.
  """

  @jax.jit
  def scores(params, images, members, tokens, extras):
    rows, n = members.shape
    chunks = -(-rows // _SCORED_AT_ONCE)
    pad = chunks * _SCORED_AT_ONCE - rows

    def chunked(x):
      x = jnp.pad(x, ((0, pad), *[(0, 0)] * (x.ndim - 1)))
      return x.reshape(chunks, _SCORED_AT_ONCE, *x.shape[1:])

    def score_row(row):
      row_images = preferences.as_float(images[row[0]])
      details, context = dict(row[2]), None
      if "context" in details:
        context = preferences.as_float(images[details.pop("context")])
      return scorer.score_groups(
        params, row_images, row[1], context=context, details=details
      )[0]

    row_arrays = jax.tree.map(chunked, (members, tokens, extras))
    return jax.lax.map(score_row, row_arrays).reshape(-1, n)[:rows]

  def run(params, data, extras=MappingProxyType({})):
    if scorer.context and data.context is not None:
      extras = {**extras, "context": data.context}
    return processes.fetch(
      scores(params, data.images, data.members, data.tokens, dict(extras))
    )

  return run


def stream_scorer(
  scorer: RewardModel, rows: Preferences, store: ImageStore
) -> Callable[[Params], np.ndarray]:
  """Params -> scores [Q, N], the images read a few rows at a time.

  NaN where there is no image.
  """
  members = np.asarray(rows.members)
  count, n = members.shape
  at_once = max(1, min(_IMAGES_AT_ONCE // n, count))

  @jax.jit
  def scores(params, images, tokens, user, mask, source):
    extras = {"mask": mask} | ({} if user is None else {"user": user})
    context = None
    if source is not None:
      known = source[1][:, None, None, None]
      context = jnp.where(known, preferences.as_float(source[0]), jnp.nan)
    return scorer.score_groups(
      params, preferences.as_float(images), tokens, context=context,
      details=extras,
    )[0]  # fmt: skip

  def score(params: Params) -> np.ndarray:
    values = np.full((count, n), np.nan, np.float32)
    for start in range(0, count, at_once):
      index = np.arange(start, min(start + at_once, count))
      padded = np.resize(index, at_once)
      images, there = store.take(members[padded])
      user = None if rows.user is None else rows.user[padded]
      source = None
      if scorer.context and rows.context is not None:
        source = store.stills(np.asarray(rows.context)[padded])
      tokens = rows.tokens[padded]
      part = processes.fetch(
        scores(params, images, tokens, user, there, source)
      )
      values[index] = np.where(there, part, np.nan)[: len(index)]
    return values

  return score


def _share(
  scores: np.ndarray, mask: np.ndarray, prompt: np.ndarray
) -> dict[str, Any]:
  """{accuracy, low, high, n} of pairs [K, 2], the preferred image first.

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
  """Held-out accuracy over pairs of which no two share an image.

  Args:
    data: held-out rows.
    scores: [Q, N], the model's.
    seed: of the pairing.
    categories: number -> name, of the prompts.

  Returns:
    {accuracy, low, high, n} of all pairs, the interval by resampling prompts
    rather than pairs; under "strict" the same for pairs of
    which one is strictly right and the other is not, under "kinds" for those
    of each category of prompts, and under "policy_strict" for such pairs between
    images of the policy, paired again; and under "calibration" the non-empty
    bins {confidence, accuracy, n}.
  """
  row, place = preferences.separate_pairs(data, seed)
  pair_scores, differs = _read(data, scores, row, place)
  category = np.asarray(data.category)[row]
  # A prompt may stand in several rows.
  prompts = preferences.prompt_numbers(data)
  results = _share(pair_scores, np.ones(len(pair_scores), bool), prompts[row])
  results["strict"] = _share(pair_scores, differs, prompts[row])
  policy_pairs = preferences.separate_pairs(data, seed, "policy")
  results["policy_strict"] = _share(
    *_read(data, scores, *policy_pairs), prompts[policy_pairs[0]]
  )
  results["kinds"] = {
    categories[int(k)]: _share(
      pair_scores, differs & (category == k), prompts[row]
    )
    for k in np.unique(category[category >= 0])
  }
  d = pair_scores[:, 0] - pair_scores[:, 1]
  if np.isfinite(d).any():
    results |= judge.calibrated(d, prompts[row])
    finite = d[np.isfinite(d)]
    results["log_likelihood"] = float(-np.logaddexp(0.0, -finite).mean())
    results["calibration"] = _bins(d)
  return results


def temperature(data: Preferences, scores: np.ndarray, seed: int) -> float:
  """The temperature that fits held-out pairs, 1 without any."""
  row, place = preferences.separate_pairs(data, seed)
  pair_scores, _ = _read(data, scores, row, place)
  d = pair_scores[:, 0] - pair_scores[:, 1]
  return calibration.fit_temperature(d) if np.isfinite(d).any() else 1.0


def _bins(d: np.ndarray) -> list[dict[str, Any]]:
  """Predicted confidence and accuracy of each non-empty bin."""
  rows = zip(*calibration.reliability(d), strict=True)
  return [
    {"confidence": float(confidence), "accuracy": float(right), "n": int(n)}
    for n, confidence, right in rows
    if n
  ]
