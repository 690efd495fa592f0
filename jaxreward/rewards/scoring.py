"""Running rewards: those in jit together, those on the host one by one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
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
  """A weight that differs from row to row; 0 where a reward has no say.

  Attributes:
    weight: in the rows where it counts.
    kinds: ((number, factor), ...) of the categories that it counts for; empty
      for all.
    applies: prompts -> bool [P], rows that have what it compares with.
  """

  weight: float
  kinds: tuple[tuple[int, float], ...] = ()
  applies: Applies | None = None

  def __call__(self, prompts: PromptBatch) -> Array:
    """float32 [P, 1]."""
    kind = jnp.asarray(prompts.category)
    rows = jnp.full(kind.shape, self.weight, jnp.float32)
    if self.kinds:
      factor = sum(f * (kind == k) for k, f in self.kinds)
      rows = rows * factor
    if self.applies is not None:
      rows = jnp.where(self.applies(prompts), rows, 0.0)
    return rows[:, None]


def has_say(weight: float | RowWeight, prompts: PromptBatch) -> Array:
  """bool [P, 1]: rows in which a reward of this weight counts."""
  if isinstance(weight, RowWeight):
    return weight(prompts) != 0
  return jnp.ones((jnp.shape(prompts.category)[0], 1), bool)


def applied(
  scores: Mapping[str, ArrayLike],
  weights: Mapping[str, float | RowWeight],
  prompts: PromptBatch,
) -> tuple[Values, dict[str, Any]]:
  """(scores, weights [P, 1] or numbers) with 0 in rows without a say.

  Args:
    scores: {name: [P, G]}; those without a weight stay as they are.
    weights: {name: weight}.
    prompts: P prompts.
  """
  scores, found = dict(scores), dict[str, Any](weights)
  for name, weight in weights.items():
    if isinstance(weight, RowWeight) and name in scores:
      found[name] = weight(prompts)
      scores[name] = jnp.where(found[name] != 0, scores[name], 0.0)
  return scores, found


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
    takes_verdict: takes what the task has measured already as `verdict`.
    prepare: texts -> more context, made on the host once per batch.
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
  """Rewards, by name, of functions whose options are bound.

  Args:
    functions: name -> reward(images, prompts).
    weights: name -> weight; 1 where a name is missing.
    contexts: name -> arrays that the function takes by keyword.
    prepares: name -> what makes more of them from a batch's texts.
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


def _asked(
  reward: Reward, images: Any, prompts: Any, **context: Any
) -> dict[str, Scores]:
  """What a reward says, by name.

  Raises:
    UserError: what came is no such thing, or a person's own reward, one in
      jit above all, has raised.
  """
  try:
    result = reward.fn(images, prompts, **context)
    return results.checked(reward.name, result, jnp.shape(images)[:2])
  except BaseException as error:
    if user_code.is_ours(error):
      raise
    plain = isinstance(error, Exception)  # no exit, and nothing of that kind
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
    rewards: by name; those of the host are left out.
    contexts: `contexts_of(...)`, passed through jit as an argument.
    images: [P, G, H, W, C] in [0, 1].
    prompts: P prompts.
    verdict: see `score`.
  """
  return values_of(_inside(rewards, contexts, images, prompts, verdict))


def _inside(rewards, contexts, images, prompts, verdict) -> dict[str, Scores]:
  scores: dict[str, Scores] = {}
  for reward in rewards.values():
    if not reward.is_host:
      seen = {"verdict": verdict} if reward.takes_verdict else {}
      taken = contexts[reward.name].arguments
      scores |= _asked(reward, images, prompts, **taken, **seen)
  return scores


@flax.struct.dataclass
class Context:
  """Arrays that a reward takes besides pictures and prompts.

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
  """The arrays that the rewards in jit take besides pictures and prompts."""
  found = {}
  for reward in rewards.values():
    if not reward.is_host:
      with user_code.blamed(f'reward "{reward.name}"', reward.prepare):
        found[reward.name] = _context(reward, prompts)
  return found


def texts_of(prompts: PromptBatch) -> list[str]:
  """The words of P prompts; padding rows, and mere shapes, have none."""
  if isinstance(prompts.text, jax.ShapeDtypeStruct):
    return [""] * prompts.text.shape[0]
  return texts.decode(jax.device_get(prompts.text))


def _context(reward: Reward, prompts: PromptBatch) -> Context:
  prepared = reward.prepare(texts_of(prompts)) if reward.prepare else {}
  return Context(dict(reward.context), dict(prepared))


@functools.partial(jax.jit, static_argnums=0)
def _jitted(rewards, contexts, images, prompts, verdict):
  by_name = {reward.name: reward for reward in rewards}
  return _inside(by_name, contexts, images, prompts, verdict)


def _arguments(rewards, images, prompts, verdict):
  """What the rewards in jit run on."""
  inside = tuple(r for r in rewards.values() if not r.is_host)
  if verdict is not None and "strict" not in verdict:  # nothing was judged
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
  """What the rewards in jit say; returns before it is there.

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
  """The line for an array that was kept, by one of a person's own rewards."""
  own = [
    r for r in rewards.values() if not r.is_host and user_code.is_own(r.fn)
  ]
  if not own:
    return error
  names = ", ".join(f'"{r.name}"' for r in own)
  return UserError(f"reward {names}: {user_code.explain(error)}")


def probe_gradients(
  rewards: Mapping[str, Reward], images: Array, prompts: PromptBatch
) -> dict[str, float]:
  """The largest absolute gradient of each reward in the images.

  Args:
    rewards: that run in jit.
    images: [P, 1, H, W, C] in [0, 1].
    prompts: P prompts.
  """
  contexts, prompts = contexts_of(rewards, prompts), prompts.plain

  @functools.partial(jax.jit, static_argnums=0)
  def largest(name, contexts, images, prompts):
    one = {name: rewards[name]}
    total = lambda x: device_scores(one, contexts, x, prompts)[name].sum()
    return jnp.abs(jax.grad(total)(images)).max()

  return {
    name: float(largest(name, contexts, images, prompts)) for name in rewards
  }


def for_host(rewards: Mapping[str, Reward], images: Array) -> Array:
  """The pictures as `host_scores` takes them at once, in every process.

  Call it under the mesh, and before anything else is queued: gathering
  pictures is the devices' work, and waits for all that they were given before.
  """
  if processes.count() == 1 or not any(r.is_host for r in rewards.values()):
    return images
  return jax.device_put(
    images, NamedSharding(jax.sharding.get_mesh(), PartitionSpec())
  )


def host_scores(
  rewards: Mapping[str, Reward], images: ArrayLike, prompts: PromptBatch
) -> dict[str, Scores]:
  """What the host rewards say of NumPy copies of the arrays.

  Of several processes, process 0 asks them and tells the others.

  A reward that raises is asked again prompt by prompt; prompts for which it
  raises again score NaN. One that raises a UserError is not: only a person can
  mend that.

  Raises:
    UserError: a reward that raises for every prompt.
  """
  chosen = [r for r in rewards.values() if r.is_host]
  if not chosen:
    return {}
  # What one reward would write into them, the next one would see.
  images, prompts = jax.tree.map(
    _read_only, processes.fetch((images, prompts.plain))
  )

  def judge() -> dict[str, Scores]:
    scores: dict[str, Scores] = {}
    for reward in chosen:
      scores |= _one_host(reward, images, prompts)
    return scores

  return processes.on_first(judge)


def _read_only(array: Any) -> Any:
  if isinstance(array, np.ndarray):
    array = array.view()
    array.flags.writeable = False
  return array


def _one_host(reward: Reward, images: np.ndarray, prompts: PromptBatch):
  try:
    taken = _context(reward, prompts).arguments
    return _asked(reward, images, prompts, **taken)
  except UserError as error:
    if str(error).startswith(f'reward "{reward.name}'):
      raise
    raise UserError(f'reward "{reward.name}": {error}') from error
  except (Stopped, Lost):
    raise
  except Exception as error:
    return _prompt_by_prompt(reward, images, prompts, error)


def _prompt_by_prompt(reward, images, prompts, first_error: Exception):
  """What can be saved of a batch in which a host reward raised."""
  found: dict[int, dict[str, Scores]] = {}
  failures: list[Exception] = []
  for p in range(images.shape[0]):
    one = jax.tree.map(lambda x, p=p: x[p : p + 1], prompts)
    try:
      taken = _context(reward, one).arguments
      found[p] = _asked(reward, images[p : p + 1], one, **taken)
    except (Stopped, Lost):
      raise
    except Exception as error:
      failures.append(error)
  if not found:
    raise _failure(
      reward, first_error, " failed for the whole batch"
    ) from first_error
  if failures:
    logging.warning(
      'reward "%s" failed for %d of %d prompts: %s', shown(reward.name), len(failures),
      images.shape[0], user_code.told(failures[0], reward.fn),
    )  # fmt: skip
  lost = jax.tree.map(
    lambda x: np.full(np.shape(x), np.nan, np.float32),
    next(iter(found.values())),
  )
  rows = [lost | found.get(p, {}) for p in range(images.shape[0])]
  rows = [{name: row[name] for name in lost} for row in rows]
  return jax.tree.map(lambda *x: np.concatenate(x), *rows)


def score(
  rewards: Mapping[str, Reward],
  images: ArrayLike,
  prompts: PromptBatch,
  verdict: Mapping[str, ArrayLike] | None = None,
) -> tuple[Values, dict[str, Array]]:
  """Scores of all rewards and how many of each failed.

  Args:
    rewards: from `build`; programs are kept per Reward, so build them once.
    images: [P, G, H, W, C] in [0, 1].
    prompts: P prompts; padding rows are scored like the others.
    verdict: what the task has measured in these pictures, {name: [P, G]}, if
      it has; rewards that ask it then do not let it look again.

  Returns:
    {name: float32 [P, G]}, NaN where a reward failed, and {name: int32}.
  """
  judged = jitted_scores(rewards, images, prompts, verdict)
  scores = values_of(judged | host_scores(rewards, images, prompts))
  failed = {n: jnp.sum(~jnp.isfinite(s)) for n, s in scores.items()}
  return scores, failed


def values_of(judged: Mapping[str, Scores]) -> Values:
  """{name: [P, G]}, the values alone."""
  return {name: scores.value for name, scores in judged.items()}


def stds_of(judged: Mapping[str, Scores]) -> Values:
  """{name: [P, G]} of the rewards that say how unsure they are."""
  return {n: s.std for n, s in judged.items() if s.std is not None}


def steps_of(judged: Mapping[str, Scores]) -> Values:
  """{name: [P, G, T + 1]} of the rewards that score every step.

  Rows of samples whose score failed are NaN.
  """
  return {
    n: jnp.where(jnp.isfinite(s.value)[..., None], s.per_step, jnp.nan)
    for n, s in judged.items()
    if s.per_step is not None
  }


def require_scores(
  scores: Mapping[str, ArrayLike], mask: ArrayLike | None = None
) -> None:
  """Stops when a reward has no finite score in the whole batch.

  Args:
    scores: {name: [P, G]}.
    mask: bool [P, G], samples that are there; all of them if None.

  Raises:
    UserError: naming the reward.
  """
  for name, value in scores.items():
    value = np.asarray(processes.fetch(value))
    there = np.ones(value.shape, bool)
    if mask is not None:
      there = np.asarray(processes.fetch(mask))
    if there.any() and not np.isfinite(value[there]).any():
      raise UserError(
        f'reward "{name}" gave no finite score for a whole batch of'
        f" {int(there.sum())} samples; nothing can be learned from it"
      )
