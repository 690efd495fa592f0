"""Labels of judges that are asked while the policy learns.

The judge of a player is asked for the samples of every iteration, and its answer is
needed `lag` iterations later: a reward on the host runs in a thread of its own, one in
JAX is queued on the devices. A step waits for an answer only where it is not there by
then, so that what is learned does not depend on how fast the judge is. Images whose
labels are to come are saved with the player; a resumed run asks for them again, and a
judge that keeps its answers gives the same.
"""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jaxreward import processes, rewards, setup
from jaxreward.errors import UserError
from jaxreward.feeds import Plan
from jaxreward.flow import rollout
from jaxreward.setup import offline, players
from jaxreward.setup import rewards as reward_setup
from jaxreward.setup.judge_labels import Labels, Late
from jaxreward.training import mesh as mesh_lib
from jaxreward.training.state import TrainState
from jaxreward.types import Array, PromptBatch

Batches = Callable[[int], PromptBatch]  # of an iteration, encoded, on the mesh


def judges(roles: players.Roles) -> dict[str, int]:
  """{name of a judge: the most iterations that its labels take}."""
  lags: dict[str, int] = {}
  for role in roles:
    if role.judge:
      lags[role.judge] = max(role.lag, lags.get(role.judge, 0))
  return lags


def _alone(config: ConfigDict, names: Iterable[str]) -> ConfigDict:
  """The config with these of its judged rewards."""
  alone = config.copy_and_resolve_references()
  with alone.unlocked():
    alone.judged_rewards = {n: config.judged_rewards[n] for n in names}
  return alone


def check(config: ConfigDict) -> None:
  """Refuses judges that cannot be asked.

  Raises:
    UserError: samples that come from files, or an invalid reward.
  """
  roles = [role for role in players.bind(config) if role.judge]
  if roles and offline.origin(config) != "rollout":
    raise UserError(
      f"config.players.{roles[0].name}.judge: it labels samples of the policy, and"
      f' config.objective.name="{config.objective.name}" learns from files; leave'
      " the player out"
    )
  names = judges(tuple(roles))
  reward_setup.bind(_alone(config, names), ("judged_rewards",))


def load(
  config: ConfigDict, workdir: epath.Path, roles: players.Roles, mesh: Mesh
) -> dict[str, rewards.Reward]:
  """The rewards of `config.judged_rewards` that players learn from."""
  names = judges(roles)
  if not names:
    return {}
  alone = _alone(config, names)
  return reward_setup.load(alone, workdir, ("judged_rewards",), mesh)


class Judges:
  """The judges of a run; a context, at whose end nothing is asked any more.

  Args:
    roles: of the run.
    rewards: from `load`.
    batches: of the run.
    plan: of the run.
    total: iterations; labels that come after the last are not asked for.
    mesh: of the run.
  """

  def __init__(
    self,
    roles: players.Roles,
    rewards: Mapping[str, rewards.Reward],
    batches: Batches,
    plan: Plan,
    total: int,
    mesh: Mesh,
  ):
    self._roles = tuple(role for role in roles if role.judge)
    self._lags, self._rewards = judges(roles), rewards
    self._batches, self._plan = batches, plan
    self._total, self._mesh = total, mesh
    self._asked: dict[tuple[str, int], Callable[[], Any]] = {}
    self._prompts: dict[int, PromptBatch] = {}
    # A judge is asked for one iteration after the other.
    self._threads = {
      name: concurrent.futures.ThreadPoolExecutor(1, f"judge {name}")
      for name in self._lags
    }

  def __enter__(self) -> Judges:
    return self

  def __exit__(self, *error: Any) -> None:
    for thread in self._threads.values():
      thread.shutdown(wait=False, cancel_futures=True)

  def resume(self, state: TrainState, start: int) -> None:
    """Asks again for labels that had not come when iteration `start` began."""
    plan = self._plan
    for role in self._roles:
      pending = state.players[role.name].pending
      assert pending is not None
      for n in range(max(start - role.lag, 0), start):
        if (role.judge, n) not in self._asked:
          images = jnp.asarray(pending.images)[n % role.lag]
          groups = rollout.to_groups(images, plan.prompts, plan.group)
          self._ask(role.judge, n, jnp.asarray(groups))

  def __call__(
    self, n: int, images: Array, prompts: PromptBatch
  ) -> Callable[[], Late] | None:
    """Asks for labels of iteration n; what it returns waits for those due in it.

    Args:
      n: the iteration.
      images: [P, G, H, W, C].
      prompts: P prompts.
    """
    if not self._roles:
      return None
    self._prompts[n] = prompts
    for name in self._lags:
      self._ask(name, n, images)
    return functools.partial(self._due, n, images)

  def _ask(self, name: str, n: int, images: Array) -> None:
    """Has the judge begin with the samples of an iteration."""
    if n + min(r.lag for r in self._roles if r.judge == name) >= self._total:
      return
    reward, prompts = self._rewards[name], self._of(n)
    by_name = {name: reward}
    if not reward.is_host:
      # One layout, so that a resumed run computes the same bits.
      whole = len(images) % setup.batch_devices() == 0
      rows = PartitionSpec(mesh_lib.BATCH_AXES if whole else None)
      images = jax.device_put(images, NamedSharding(self._mesh, rows))
      results = rewards.jitted_scores(by_name, images, prompts)
      self._asked[name, n] = lambda: results
      return
    arrays = rewards.host_arrays(images, prompts)
    if processes.is_first():
      work = functools.partial(rewards.scores_of_host, by_name, *arrays)
      answer = self._threads[name].submit(work).result
    else:
      answer = dict
    self._asked[name, n] = lambda: processes.on_first(answer)

  def _of(self, n: int) -> PromptBatch:
    if n not in self._prompts:
      self._prompts[n] = self._batches(n)
    return self._prompts[n]

  def _due(self, n: int, images: Array) -> Late:
    labels = {r.name: self._labels(r, n) for r in self._roles}
    oldest = n - max(self._lags.values())
    self._asked = {k: v for k, v in self._asked.items() if k[1] > oldest}
    self._prompts = {k: v for k, v in self._prompts.items() if k > oldest}
    return Late(images, labels)

  def _labels(self, role: players.Role, n: int) -> Labels:
    size = self._plan.prompts, self._plan.group
    if n < role.lag:
      values: Any = np.full(size, np.nan, np.float32)
      prompts = self._of(n)
    else:
      prompts = self._of(n - role.lag)
      values = self._value(role.judge, n - role.lag)
    place = mesh_lib.replicated(self._mesh)
    return Labels(jax.device_put(values, place), prompts.words, prompts.mask)

  def _value(self, name: str, n: int) -> Any:
    key = name, n
    results = self._asked[key]()
    self._asked[key] = lambda: results
    if name not in results:
      raise UserError(
        f"config.judged_rewards.{name}: it returned several scores"
        f" ({', '.join(results)}); one that a player learns from returns one"
      )
    applies = rewards.applies_to(self._rewards[name].weight, self._of(n).plain)
    return jnp.where(applies, results[name].value, jnp.nan)


def shapes(
  roles: players.Roles, images: Any, prompts: PromptBatch, labels: Any
) -> Late | None:
  """`Late` of shapes, for a program that is compiled and not run.

  Args:
    roles: of the run.
    images: [P, G, H, W, C].
    prompts: P prompts.
    labels: [P, G].
  """
  names = [role.name for role in roles if role.judge]
  empty = Labels(labels, prompts.words, prompts.mask)
  return Late(images, dict.fromkeys(names, empty)) if names else None
