"""Runs rewards: those in jit together, those on the host one by one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec

from jaxreward import processes, user_code
from jaxreward.data import texts
from jaxreward.errors import Lost, Stopped, UserError, shown
from jaxreward.rewards import results
from jaxreward.rewards.contract import Applies, Prepare, Scores
from jaxreward.types import Array, ArrayLike, PromptBatch

Values = dict[str, ArrayLike]  # [P, G], by name


@dataclasses.dataclass(frozen=True)
class RowWeight:
  """A weight per row; 0 where a reward is not applicable.

  Attributes:
    weight: in the rows where it applies.
    categories: ((number, factor), ...) of the prompt categories that it applies
      to; empty for all.
    applies: prompts -> bool [P], rows that have what it compares with.
  """

  weight: float
  categories: tuple[tuple[int, float], ...] = ()
  applies: Applies | None = None

  def __call__(self, prompts: PromptBatch) -> Array:
    """float32 [P, 1]."""
    category = jnp.asarray(prompts.category)
    rows = jnp.full(category.shape, self.weight, jnp.float32)
    if self.categories:
      factor = sum(f * (category == k) for k, f in self.categories)
      rows = rows * factor
    if self.applies is not None:
      rows = jnp.where(self.applies(prompts), rows, 0.0)
    return rows[:, None]


def applies_to(weight: float | RowWeight, prompts: PromptBatch) -> Array:
  """bool [P, 1]: rows that a reward of this weight applies to."""
  if isinstance(weight, RowWeight):
    return weight(prompts) != 0
  return jnp.ones((jnp.shape(prompts.category)[0], 1), bool)


def mask_inapplicable(
  scores: Mapping[str, ArrayLike],
  weights: Mapping[str, float | RowWeight],
  prompts: PromptBatch,
) -> tuple[Values, dict[str, Any]]:
  """(scores, weights [P, 1] or numbers) with 0 where not applicable.

  Args:
    scores: {name: [P, G]}; those without a weight are unchanged.
    weights: {name: weight}.
    prompts: P prompts.
  """
  scores, factors = dict(scores), dict[str, Any](weights)
  for name, weight in weights.items():
    if isinstance(weight, RowWeight) and name in scores:
      factors[name] = weight(prompts)
      scores[name] = jnp.where(factors[name] != 0, scores[name], 0.0)
  return scores, factors


@dataclasses.dataclass(frozen=True, eq=False)
class Reward:
  """A reward that is ready to run.

  Attributes:
    name: the config's key for it.
    fn: (images [P, G, H, W, C], prompts, **context) -> scores [P, G] or
      `Scores`, or either by name.
    weight: in the composed signal.
    context: arrays that `fn` takes by keyword, such as parameters; they enter
      jit as arguments, not as constants.
    is_host: runs outside jit on NumPy arrays.
    takes_verdict: takes what the task has already measured as `verdict`.
    prepare: texts -> more context, computed on the host once per batch.
  """

  name: str
  fn: Callable[..., Any]
  weight: float | RowWeight = 1.0
  context: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  is_host: bool = False
  takes_verdict: bool = False
  prepare: Prepare | None = None


def build(
  functions: Mapping[str, Callable[..., Any]],
  weights: Mapping[str, float | RowWeight] | None = None,
  contexts: Mapping[str, Mapping[str, Any]] | None = None,
  prepares: Mapping[str, Prepare] | None = None,
) -> dict[str, Reward]:
  """Rewards by name, from functions whose options are bound.

  Args:
    functions: name -> reward(images, prompts).
    weights: name -> weight; 1 where a name is missing.
    contexts: name -> arrays that the function takes by keyword.
    prepares: name -> texts -> more context, once per batch.
  """
  weights, contexts = weights or {}, contexts or {}
  prepares = prepares or {}
  for name in (*weights, *contexts, *prepares):
    if name not in functions:
      raise UserError(f'reward "{name}" has a weight but no function')
  for name, weight in weights.items():
    if not isinstance(weight, RowWeight) and not np.isfinite(weight):
      raise UserError(f"rewards.{name}.weight={weight}: it must be finite")
  return {
    name: Reward(
      name=name,
      fn=fn,
      weight=_number(weights.get(name, 1.0)),
      context=dict(contexts.get(name, {})),
      is_host=bool(getattr(fn, "is_host", False)),
      takes_verdict=bool(getattr(fn, "takes_verdict", False)),
      prepare=prepares.get(name),
    )
    for name, fn in functions.items()
  }


def _number(weight: float | RowWeight) -> float | RowWeight:
  return weight if isinstance(weight, RowWeight) else float(weight)


def _call(
  reward: Reward, images: Any, prompts: Any, **context: Any
) -> dict[str, Scores]:
  """The scores of one reward, by name.

  Raises:
    UserError: an invalid result, or an exception in a user's own reward in jit.
  """
  try:
    result = reward.fn(images, prompts, **context)
    return results.checked(reward.name, result, jnp.shape(images)[:2])
  except BaseException as error:
    if user_code.is_ours(error):
      raise
    plain = isinstance(error, Exception)  # not SystemExit or the like
    if plain and (reward.is_host or not user_code.is_own(reward.fn)):
      raise
    raise _failure(reward, error) from error


def _failure(reward: Reward, error: BaseException, what: str = "") -> UserError:
  return UserError(
    f'reward "{reward.name}"{what}: {user_code.told(error, reward.fn)}'
  )


def device_scores(
  rewards: Mapping[str, Reward],
  contexts: Mapping[str, Context],
  images: ArrayLike,
  prompts: PromptBatch,
  verdict: Mapping[str, ArrayLike] | None = None,
) -> Values:
  """Scores [P, G] of the rewards that run in jit; call it inside one.

  Args:
    rewards: by name; host rewards are skipped.
    contexts: `contexts_of(...)`, passed through jit as an argument.
    images: [P, G, H, W, C] in [0, 1].
    prompts: P prompts.
    verdict: see `score`.
  """
  return values_of(_inside(rewards, contexts, images, prompts, verdict))


def device_errors(
  rewards: Mapping[str, Reward],
  contexts: Mapping[str, Context],
  images: ArrayLike,
  prompts: PromptBatch,
) -> tuple[str, Array]:
  """(name, errors [P, G, N]) of the one reward that gives `Scores.errors`.

  Arguments as `device_scores`.

  Raises:
    UserError: none gives them, or more than one.
  """
  outputs = _inside(rewards, contexts, images, prompts, None)
  errors = {n: s.errors for n, s in outputs.items() if s.errors is not None}
  require_one_with_errors(errors)
  ((name, value),) = errors.items()
  return name, jnp.asarray(value)


def require_one_with_errors(names: Collection[str]) -> None:
  """Refuses rewards of which not exactly one gives `Scores.errors`.

  Args:
    names: of those that do.
  """
  if len(names) != 1:
    known = ", ".join(names) or "none"
    raise UserError(
      "config.objective reads the errors of one reward, pixel by pixel, and of"
      f" config.rewards {known} gives them; take one such as condition_cycle,"
      " or declare one of your own with gives_errors=True"
    )


def _inside(rewards, contexts, images, prompts, verdict) -> dict[str, Scores]:
  scores: dict[str, Scores] = {}
  for reward in rewards.values():
    if not reward.is_host:
      measured = {"verdict": verdict} if reward.takes_verdict else {}
      arguments = contexts[reward.name].arguments
      scores |= _call(reward, images, prompts, **arguments, **measured)
  return scores


@flax.struct.dataclass
class Context:
  """Arrays that a reward takes besides images and prompts.

  Attributes:
    shared: by argument name, such as parameters.
    rows: by argument name, leaves [P, ...], one row per prompt.
  """

  shared: dict[str, Any]
  rows: dict[str, Any]

  @property
  def arguments(self) -> dict[str, Any]:
    return {**self.shared, **self.rows}

  def take(self, index: ArrayLike) -> Context:
    """With the rows of some prompts, [M]."""
    rows = jax.tree.map(lambda x: jnp.asarray(x)[index], self.rows)
    return Context(self.shared, rows)


def contexts_of(
  rewards: Mapping[str, Reward], prompts: PromptBatch
) -> dict[str, Context]:
  """The arrays that the rewards in jit take besides images and prompts."""
  contexts = {}
  for reward in rewards.values():
    if not reward.is_host:
      with user_code.blamed(f'reward "{reward.name}"', reward.prepare):
        contexts[reward.name] = _context(reward, prompts)
  return contexts


def texts_of(prompts: PromptBatch) -> list[str]:
  """The texts of P prompts; empty for padding rows and for shapes."""
  if isinstance(prompts.text, jax.ShapeDtypeStruct):
    return [""] * prompts.text.shape[0]
  return texts.decode(jax.device_get(prompts.text))


def _context(reward: Reward, prompts: PromptBatch) -> Context:
  prepared = reward.prepare(texts_of(prompts)) if reward.prepare else {}
  return Context(dict(reward.context), dict(prepared))


@functools.partial(jax.jit, static_argnums=0)
def _jitted(rewards, contexts, images, prompts, verdict):
  by_name = {reward.name: reward for reward in rewards}
  outputs = _inside(by_name, contexts, images, prompts, verdict)
  return {n: dataclasses.replace(s, errors=None) for n, s in outputs.items()}


def _arguments(rewards, images, prompts, verdict):
  """Arguments of the jitted rewards."""
  inside = tuple(r for r in rewards.values() if not r.is_host)
  if verdict is not None and "strict" not in verdict:  # not measured
    verdict = None
  contexts = contexts_of(rewards, prompts)
  return inside, contexts, images, prompts.plain, verdict


def trace(
  rewards: Mapping[str, Reward],
  images: Any,
  prompts: PromptBatch,
  verdict: Mapping[str, Any] | None = None,
) -> jax.stages.Traced:
  """The program of the rewards in jit, on arrays or shapes; see `score`."""
  try:
    return _jitted.trace(*_arguments(rewards, images, prompts, verdict))
  except jax.errors.UnexpectedTracerError as error:
    raise _leak(rewards, error) from error


def jitted_scores(
  rewards: Mapping[str, Reward],
  images: ArrayLike,
  prompts: PromptBatch,
  verdict: Mapping[str, ArrayLike] | None = None,
) -> dict[str, Scores]:
  """Scores of the rewards in jit, dispatched asynchronously.

  The arguments are those of `score`.
  """
  if all(reward.is_host for reward in rewards.values()):
    return {}
  try:
    return _jitted(*_arguments(rewards, images, prompts, verdict))
  except jax.errors.UnexpectedTracerError as error:
    raise _leak(rewards, error) from error


def _leak(
  rewards: Mapping[str, Reward], error: jax.errors.UnexpectedTracerError
) -> Exception:
  """The error line for a tracer that leaked from a user's own reward."""
  user_rewards = [
    r for r in rewards.values() if not r.is_host and user_code.is_own(r.fn)
  ]
  if not user_rewards:
    return error
  names = ", ".join(f'"{r.name}"' for r in user_rewards)
  return UserError(f"reward {names}: {user_code.explain(error)}")


def probe_images(shape: Sequence[int]) -> Array:
  """Noise for `probe_gradients`: two images of a group, which some rewards compare.

  Args:
    shape: of an iteration's images, [P, G, H, W, C].
  """
  rows, group, *image = shape
  return jax.random.uniform(jax.random.key(0), (rows, min(2, group), *image))


def probe_gradients(
  rewards: Mapping[str, Reward], images: Array, prompts: PromptBatch
) -> dict[str, float]:
  """The largest absolute gradient of each reward in the images.

  Args:
    rewards: that run in jit.
    images: [P, N, H, W, C] in [0, 1].
    prompts: P prompts.
  """
  contexts, prompts = contexts_of(rewards, prompts), prompts.plain

  @functools.partial(jax.jit, static_argnums=0)
  def largest(name, contexts, images, prompts):
    single = {name: rewards[name]}
    total = lambda x: device_scores(single, contexts, x, prompts)[name].sum()
    return jnp.abs(jax.grad(total)(images)).max()

  return {
    name: float(largest(name, contexts, images, prompts)) for name in rewards
  }


def for_host(rewards: Mapping[str, Reward], images: Array) -> Array:
  """The images gathered for `host_scores`, in every process.

  Call it under the mesh and before anything else is queued: the gather runs on
  the devices and waits for all work queued before it.
  """
  if processes.count() == 1 or not any(r.is_host for r in rewards.values()):
    return images
  return jax.device_put(
    images, NamedSharding(jax.sharding.get_mesh(), PartitionSpec())
  )


def host_scores(
  rewards: Mapping[str, Reward], images: ArrayLike, prompts: PromptBatch
) -> dict[str, Scores]:
  """Scores of the host rewards on NumPy copies of the arrays.

  Of several processes, process 0 runs them and broadcasts the scores.

  A reward that raises is run again prompt by prompt; prompts for which it
  raises again score NaN. A UserError is not retried: only the user can fix it.

  Raises:
    UserError: a reward that raises for every prompt.
  """
  if not any(r.is_host for r in rewards.values()):
    return {}
  arrays = host_arrays(images, prompts)
  return processes.on_first(lambda: scores_of_host(rewards, *arrays))


def host_arrays(
  images: ArrayLike, prompts: PromptBatch
) -> tuple[np.ndarray, PromptBatch]:
  """What host rewards read, in every process; waits for the images.

  Read-only, so that no reward can change what the next one sees.
  """
  arrays = processes.fetch((images, prompts.plain))
  return jax.tree.map(_read_only, arrays)


def scores_of_host(
  rewards: Mapping[str, Reward], images: np.ndarray, prompts: PromptBatch
) -> dict[str, Scores]:
  """`host_scores` in this process alone, of what `host_arrays` gave."""
  scores: dict[str, Scores] = {}
  for reward in rewards.values():
    if reward.is_host:
      scores |= _one_host(reward, images, prompts)
  return scores


def _read_only(array: Any) -> Any:
  if isinstance(array, np.ndarray):
    array = array.view()
    array.flags.writeable = False
  return array


def _one_host(reward: Reward, images: np.ndarray, prompts: PromptBatch):
  try:
    arguments = _context(reward, prompts).arguments
    return _call(reward, images, prompts, **arguments)
  except UserError as error:
    if str(error).startswith(f'reward "{reward.name}'):
      raise
    raise UserError(f'reward "{reward.name}": {error}') from error
  except (Stopped, Lost):
    raise
  except Exception as error:
    return _prompt_by_prompt(reward, images, prompts, error)


def _prompt_by_prompt(reward, images, prompts, first_error: Exception):
  """Scores prompt by prompt after a host reward raised for the batch."""
  scores: dict[int, dict[str, Scores]] = {}
  failures: list[Exception] = []
  for p in range(images.shape[0]):
    prompt = jax.tree.map(lambda x, p=p: x[p : p + 1], prompts)
    try:
      arguments = _context(reward, prompt).arguments
      scores[p] = _call(reward, images[p : p + 1], prompt, **arguments)
    except (Stopped, Lost):
      raise
    except Exception as error:
      failures.append(error)
  if not scores:
    raise _failure(
      reward, first_error, " failed for the whole batch"
    ) from first_error
  if failures:
    logging.warning(
      'reward "%s" failed for %d of %d prompts: %s', shown(reward.name), len(failures),
      images.shape[0], user_code.told(failures[0], reward.fn),
    )  # fmt: skip
  missing = jax.tree.map(
    lambda x: np.full(np.shape(x), np.nan, np.float32),
    next(iter(scores.values())),
  )
  rows = [missing | scores.get(p, {}) for p in range(images.shape[0])]
  rows = [{name: row[name] for name in missing} for row in rows]
  return jax.tree.map(lambda *x: np.concatenate(x), *rows)


def score(
  rewards: Mapping[str, Reward],
  images: ArrayLike,
  prompts: PromptBatch,
  verdict: Mapping[str, ArrayLike] | None = None,
) -> tuple[Values, dict[str, Array]]:
  """Scores of all rewards and how many of each failed.

  Args:
    rewards: from `build`; programs are cached per Reward, so build them once.
    images: [P, G, H, W, C] in [0, 1].
    prompts: P prompts; padding rows are scored like the others.
    verdict: what the task has already measured in these images,
      {name: [P, G]}, or None; saves rewards from measuring it again.

  Returns:
    {name: float32 [P, G]}, NaN where a reward failed, and {name: int32}.
  """
  outputs = jitted_scores(rewards, images, prompts, verdict)
  scores = values_of(outputs | host_scores(rewards, images, prompts))
  failed = {n: jnp.sum(~jnp.isfinite(s)) for n, s in scores.items()}
  return scores, failed


def values_of(outputs: Mapping[str, Scores]) -> Values:
  """{name: [P, G]}, only the values."""
  return {name: scores.value for name, scores in outputs.items()}


def stds_of(outputs: Mapping[str, Scores]) -> Values:
  """{name: [P, G]} of the rewards that predict a standard deviation."""
  return {n: s.std for n, s in outputs.items() if s.std is not None}


def places_of(outputs: Mapping[str, Scores]) -> Values:
  """{name: [P, G, h, w]} of the rewards that score places of an image."""
  return {n: s.places for n, s in outputs.items() if s.places is not None}


def steps_of(outputs: Mapping[str, Scores]) -> Values:
  """{name: [P, G, T + 1]} of the rewards that score every step.

  Rows of samples whose score failed are NaN.
  """
  return {
    n: jnp.where(jnp.isfinite(s.value)[..., None], s.per_step, jnp.nan)
    for n, s in outputs.items()
    if s.per_step is not None
  }


def require_scores(
  scores: Mapping[str, ArrayLike], mask: ArrayLike | None = None
) -> None:
  """Stops when a reward has no finite score in the whole batch.

  Args:
    scores: {name: [P, G]}.
    mask: bool [P, G], valid samples; all of them if None.

  Raises:
    UserError: naming the reward.
  """
  for name, value in scores.items():
    value = np.asarray(processes.fetch(value))
    valid = np.ones(value.shape, bool)
    if mask is not None:
      valid = np.asarray(processes.fetch(mask))
    if valid.any() and not np.isfinite(value[valid]).any():
      raise UserError(
        f'reward "{name}" gave no finite score for a whole batch of'
        f" {int(valid.sum())} samples; nothing can be learned from it"
      )
