"""Which samples of a group branch from one another, as a config says."""

from __future__ import annotations

import itertools
import operator

import numpy as np
from ml_collections import ConfigDict

from jaxreward.errors import UserError
from jaxreward.flow import steppers
from jaxreward.flow.sampler import Share

UNTIL_WINDOW = -1  # shared steps: all before the window


def make_share(
  config: ConfigDict, section: str, group: int, table: steppers.StepTable
) -> Share | None:
  """Which samples of a group share their first noise; None if none do.

  Args:
    config: of the run.
    section: "rollout" or "train_reward.sampling", whose `branch` is read.
    group: samples of a prompt.
    table: of the steps.

  Raises:
    UserError: branches that do not fill a group, a tree without a last fork, or
      too many shared steps.
  """
  part = operator.attrgetter(section)(config)
  options, is_rollout = part.branch, section == "rollout"
  members, shared = options.members, options.steps
  children, every = options.get("children", 0), options.get("every", 1)
  field, steps = f"config.{section}.branch", len(table.t)
  if members == 1 and not shared:
    if children:
      raise UserError(
        f"{field}.children={children}: {field}.members=1 has no forks; set it to"
        " the leaves of a tree"
      )
    return None
  if members < 2 or group % members:
    raise UserError(
      f"{field}.members={members}: expected a divisor of"
      f" {_group_of(section)}={group} above 1, or 1 with branch.steps=0"
    )
  if children and is_rollout and part.window_move.name != "none":
    raise UserError(
      f"{field}.children={children}: a tree forks at steps of its own, and"
      f' config.rollout.window_move.name="{part.window_move.name}" moves'
      ' those with noise; use "none"'
    )
  if shared == UNTIL_WINDOW and is_rollout:
    if not part.window_size:
      raise UserError(
        f"{field}.steps={UNTIL_WINDOW}: branches part at the"
        " window, and config.rollout.window_size is 0"
      )
    if children:
      raise UserError(
        f"{field}.steps={UNTIL_WINDOW}: at the window branches part for good; set"
        f" {field}.children={children} to 0"
      )
    shared = part.window_start
  elif not 0 <= shared < steps:
    also = f", or {UNTIL_WINDOW} for the steps before the window"
    raise UserError(
      f"{field}.steps={shared}: expected 0 to {steps - 1}"
      f"{also if is_rollout else ''}"
    )
  sizes = _sizes(field, members, children)
  ends = tuple(shared + i * every for i in range(len(sizes)))
  if len(sizes) > 1 and not (every > 0 and ends[-1] < steps):
    raise UserError(
      f"{field}.every={every}: {len(sizes)} forks from step {shared} on"
      f" have to lie within {steps} steps"
    )
  _require_noise(field, section, part, ends, np.asarray(table.std) > 0)
  return Share(sizes, ends)


def _require_noise(
  field: str,
  section: str,
  part: ConfigDict,
  ends: tuple[int, ...],
  is_noisy: np.ndarray,
) -> None:
  """Refuses branches that part where no step draws noise until the next fork."""
  steps = len(is_noisy)
  for start, end in itertools.pairwise((*ends, steps)):
    if is_noisy[start:end].any():
      continue
    fix = "take a sampler with noise"
    if is_noisy.any():
      fix = f"it does from step {is_noisy.argmax()} to {steps - is_noisy[::-1].argmax()}"
    raise UserError(
      f"{field}.members={part.branch.members}: branches part at step {start}, and up to step"
      f' {end} config.{section}.sampler.name="{part.sampler.name}" draws no noise, so that'
      f" their samples stay equal; {fix}"
    )


def _group_of(section: str) -> str:
  return (
    "config.rollout.group"
    if section == "rollout"
    else f"config.{section}.samples"
  )


def _sizes(field: str, members: int, children: int) -> tuple[int, ...]:
  """Samples below each fork on the way from the root to a leaf."""
  if not children:
    return (members,)
  sizes = [members]
  while children > 1 and sizes[-1] % children == 0 and sizes[-1] > children:
    sizes.append(sizes[-1] // children)
  if sizes[-1] != children:
    raise UserError(
      f"{field}.children={children}: {field}.members={members} is no power of it"
    )
  return tuple(sizes)
