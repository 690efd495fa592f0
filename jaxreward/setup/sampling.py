"""The sampler that a config names: its times, and the constants of its steps."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import user_code
from jaxreward.errors import UserError
from jaxreward.flow import rollout, sampler, schedule, steppers
from jaxreward.setup.placing import batch_devices, spread_rows
from jaxreward.setup.policies import make_policy
from jaxreward.setup.starts import make_start
from jaxreward.types import Array, ArrayLike, Policy


def make_schedule(config: ConfigDict) -> schedule.Schedule:
  """The sampling times that `config.rollout.schedule` and `.shift` describe.

  Raises:
    UserError: invalid values, or too few steps in a section.
  """
  make = config_lib.bind(
    config.rollout.schedule, schedule.REGISTRY, field="rollout.schedule",
    positional=2,
  )  # fmt: skip
  shape, shift = make_policy(config).latent_shape, config.rollout.shift
  with user_code.blamed("config.rollout.schedule", make, host=False):
    try:
      sampling_schedule = make(shift, shape)
    except UserError as error:
      raise UserError(f"config.{error}") from error
  for section in ("rollout", "eval", "sample"):
    count = config[section].num_steps
    try:
      with user_code.blamed("config.rollout.schedule", make, host=False):
        sampling_schedule.times(count)
    except UserError as error:
      raise UserError(
        f"config.{section}.num_steps={count}, config.rollout.shift={shift:g}:"
        f" {error}"
      ) from error
  return sampling_schedule


def make_steps(
  config: ConfigDict, section: str
) -> Callable[..., steppers.StepTable]:
  """(times, noisy steps or None) -> constants, of `config.<section>.sampler`.

  Raises:
    UserError: an unknown sampler or option.
  """
  field = f"{section}.sampler"
  bound = config_lib.bind(
    operator.attrgetter(field)(config), steppers.REGISTRY, field=field,
    positional=2,
  )  # fmt: skip

  def make(times: ArrayLike, noisy: ArrayLike | None = None) -> Any:
    with user_code.blamed(f"config.{field}", bound, host=False):
      try:
        return bound(times, noisy)
      except UserError as error:
        raise UserError(f"config.{section}.{error}") from error

  return make


def step_table(
  config: ConfigDict, section: str, noisy: ArrayLike | None = None
) -> steppers.StepTable:
  """Constants of the steps of a section, "rollout", "eval" or "sample"."""
  times, network_t = section_times(config, section)
  table = make_steps(config, section)(times, noisy)
  if table.end_t is not None and network_t is not None:
    end_t = np.append(network_t[1:], 0.0).astype(np.float32)
    table = dataclasses.replace(table, end_t=end_t)
  return dataclasses.replace(table, network_t=network_t)


def section_times(
  config: ConfigDict, section: str
) -> tuple[np.ndarray, np.ndarray | None]:
  """(times [T + 1] of the steps that a section takes, those that networks are given)."""
  schedule, count = make_schedule(config), config[section].num_steps
  first = make_start(config, section).skipped(count)
  network_t = schedule.network_times(count)
  if network_t is not None:
    network_t = network_t[first:]
  return schedule.times(count)[first:], network_t


def make_sampler(
  config: ConfigDict,
  section: str,
  policy: Policy,
  prompts: int,
  group: int,
  guidance_scale: float | Array = 1.0,
) -> sampler.Sampler:
  """The sampler of a section, "eval" or "sample", for P x G images.

  Call it in jit, under the mesh whose devices share its rows.
  """
  layout = rollout.make_layout(
    prompts, group, config[section].microbatch, batch_devices()
  )
  return sampler.Sampler(
    policy, step_table(config, section), spread_rows(layout), guidance_scale
  )
