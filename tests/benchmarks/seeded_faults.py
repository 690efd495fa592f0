"""Puts faults into copies of the code, one at a time: do the tests see them?

  python tests/benchmarks/seeded_faults.py

A fault is one piece of a formula replaced in a file. Its tests are those of the
README's command that are next to what it breaks; they pass on the code as it is.
Ends with 1 if a fault is not seen, or is no longer found in its file.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
_LEFT_OUT = (".*", "runs", "build", "site", "__pycache__", "*.egg-info")


class Fault(NamedTuple):
  """`right` in `file` becomes `wrong`; `tests` are run."""

  name: str
  file: str
  right: str
  wrong: str
  tests: str


FAULTS = (
  Fault(
    "the clipped ratio is taken where it is larger",
    "jaxreward/objectives/policy_gradient.py",
    "jnp.maximum(-advantage * ratio,", "jnp.minimum(-advantage * ratio,",
    "tests/objectives/test_policy_gradient.py",
  ),
  Fault(
    "the two clip ranges change sides",
    "jaxreward/objectives/policy_gradient.py",
    "jnp.clip(ratio, 1 - clip_low, 1 + clip_high)",
    "jnp.clip(ratio, 1 - clip_high, 1 + clip_low)",
    "tests/objectives/test_policy_gradient.py",
  ),
  Fault(
    "DiffusionNFT's negative policy steps the same way as the positive one",
    "jaxreward/objectives/likelihood_free.py",
    "error(v_old - shift)", "error(v_old + shift)",
    "tests/objectives/test_likelihood_free.py",
  ),
  Fault(
    "a window of steps is one too long", "jaxreward/flow/schedule.py",
    "(steps < start + size)", "(steps <= start + size)",
    "tests/flow/test_schedule.py tests/flow/test_windows.py",
  ),
  Fault(
    "the score's part of the drift has the other sign",
    "jaxreward/flow/steppers.py",
    "-delta * (1 + s**2", "-delta * (1 - s**2", "tests/flow/test_steppers.py",
  ),
  Fault(
    "the KL divides by std^2, not by twice that",
    "jaxreward/regularizers/kl.py",
    "square / (2 * jnp.where", "square / (1 * jnp.where",
    "tests/regularizers/test_kl.py",
  ),
  Fault(
    "masked members count in a group's mean", "jaxreward/advantages/group.py",
    "centred = shifted - masked_mean(shifted, mask, axis=1, keepdims=True)\n"
    "  return _finish(centred, signal, mask, std, epsilon, clip)\n\n\n"
    "def leave_one_out",
    "centred = shifted - jnp.mean(shifted, axis=1, keepdims=True)\n"
    "  return _finish(centred, signal, mask, std, epsilon, clip)\n\n\n"
    "def leave_one_out",
    "tests/advantages/test_group.py",
  ),
  Fault(
    "leave-one-out divides by all members", "jaxreward/advantages/group.py",
    "count / jnp.maximum(count - 1, 1)", "count / jnp.maximum(count, 1)",
    "tests/advantages/test_group.py",
  ),
  Fault(
    "the margin of Bradley-Terry helps the preferred image",
    "jaxreward/reward_models/preference_losses.py",
    "p * jax.nn.softplus(margin - d)", "p * jax.nn.softplus(-margin - d)",
    "tests/reward_models/test_preference_losses.py",
  ),
  Fault(
    "members of a group share one key", "jaxreward/rng.py",
    "jax.random.fold_in(jax.random.fold_in(key, prompt_id), member)",
    "jax.random.fold_in(key, prompt_id)", "tests/test_rng.py",
  ),
  Fault(
    "the average forgets what it should keep", "jaxreward/training/ema.py",
    "decay * average + (1 - decay) * value",
    "(1 - decay) * average + decay * value", "tests/training/test_ema.py",
  ),
  Fault(
    "guidance leads to the empty prompt", "jaxreward/flow/guidance.py",
    "v_uncond + scale * (v_cond - v_uncond)",
    "v_uncond - scale * (v_cond - v_uncond)", "tests/flow/test_guidance.py",
  ),
  Fault(
    "the guided teacher of Diff-Instruct* starts from its words",
    "jaxreward/objectives/distillation.py",
    "score(empty + guidance * (real - empty))",
    "score(real + guidance * (real - empty))",
    "tests/objectives/test_distillation.py",
  ),
  Fault(
    "Ctrl-U matches one of its two velocities",
    "jaxreward/objectives/predictions.py",
    "mean_square(v - u) + mean_square(near_v - u)", "mean_square(v - u)",
    "tests/objectives/test_one_step.py",
  ),
  Fault(
    "the targets of InPO's two sides change places",
    "jaxreward/objectives/confidence.py",
    "v_ref_inverted_rejected, u_inverted_chosen, u_inverted_rejected, mask,",
    "v_ref_inverted_rejected, u_inverted_rejected, u_inverted_chosen, mask,",
    "tests/objectives/test_preference.py",
  ),
  Fault(
    "slopes of a reward cancel in its saliency",
    "jaxreward/feeds/predictions.py",
    "jnp.abs(slope).sum(-1, keepdims=True)", "slope.sum(-1, keepdims=True)",
    "tests/feeds/test_predictions.py",
  ),
  Fault(
    "a reward without a say counts in an ensemble",
    "jaxreward/composition/transforms.py",
    "  if centre:\n    inside",
    "  applies = jnp.ones_like(applies)\n  if centre:\n    inside",
    "tests/composition/test_transforms.py",
  ),
  Fault(
    "log-ratios of a process reward have the other sign",
    "jaxreward/players/process.py",
    "beta * (new - arrays(old))", "beta * (arrays(old) - new)",
    "tests/players/test_players.py",
  ),
  Fault(
    "a sample is its own rival", "jaxreward/setup/playing.py",
    "jnp.roll(groups, -1, axis=1)", "groups", "tests/players/test_players.py",
  ),
  Fault(
    "the first reference image of a group is a sample",
    "jaxreward/setup/real.py",
    "jnp.asarray(trajectory.member) >= group - count",
    "jnp.asarray(trajectory.member) > group - count",
    "tests/setup/test_real.py",
  ),
  Fault(
    "all samples draw the same steps", "jaxreward/feeds/steps.py",
    "jax.vmap(draw)(keys)[:,", "jax.vmap(lambda _: draw(keys[0]))(keys)[:,",
    "tests/feeds/test_feed_rows.py",
  ),
  Fault(
    "noise that is drawn aside stays in the chain", "jaxreward/flow/sampler.py",
    "chain = x - (step.t - step.t_next) * v", "chain = x_next",
    "tests/advantages/test_dense.py",
  ),
  Fault(
    "a step is paid for the branch before its own",
    "jaxreward/advantages/by_step.py",
    "reward = jnp.where(mask, jnp.asarray(step_signal)[..., 1:], 0.0)",
    "reward = jnp.where(mask, jnp.asarray(step_signal)[..., :-1], 0.0)",
    "tests/advantages/test_dense.py",
  ),
  Fault(
    "a shrinking window ends a step early", "jaxreward/flow/windows.py",
    "(size - 1) * shrinks", "(size - 2) * shrinks",
    "tests/flow/test_windows.py",
  ),
  Fault(
    "newer copies of the network are drawn more often",
    "jaxreward/training/references.py",
    "place = jnp.where(stored < self.slots, stored, place)",
    "place = stored % self.slots", "tests/training/test_references.py",
  ),
  Fault(
    "a weight shrinks while its term is large",
    "jaxreward/training/adaptive.py",
    "term / self.target - 1", "1 - term / self.target",
    "tests/training/test_adaptive.py",
  ),
  Fault(
    "a guided reference starts from its words", "jaxreward/regularizers/kl.py",
    "teacher = empty + guidance", "teacher = group_v_reference + guidance",
    "tests/regularizers/test_kl.py",
  ),
  Fault(
    "masked candidates count in the pairwise loss",
    "pallas_kernels/pairwise_loss/api.py",
    "valid = valid if mask is None else valid & jnp.asarray(mask, bool)",
    "valid = valid", "tests/kernels/test_pairwise_loss.py",
  ),
)  # fmt: skip


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("names", nargs="*", help="parts of names; all if none")
  flags = parser.parse_args(argv)
  chosen = [
    fault
    for fault in FAULTS
    if not flags.names or any(name in fault.name for name in flags.names)
  ]
  if not chosen:
    parser.error(f"no fault is named like {' or '.join(flags.names)}")
  failures = 0
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder) / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    files = sorted({x for fault in chosen for x in fault.tests.split()})
    if run(copy, files) != 0:
      print("the tests do not pass on the code as it is")
      return 1
    print("| fault | tests | seen | seconds |\n| --- | --- | --- | --- |")
    for fault in chosen:
      start = time.monotonic()
      is_caught = is_seen(copy, fault)
      failures += not is_caught
      seconds = time.monotonic() - start
      files = fault.tests.replace(" ", ", ")
      answer = "yes" if is_caught else "**no**"
      print(
        f"| {fault.name} | {files} | {answer} | {seconds:.0f} |", flush=True
      )
  return int(failures > 0)


def is_seen(copy: pathlib.Path, fault: Fault) -> bool:
  """Whether a test fails with the fault; the file is put back."""
  path = copy / fault.file
  text = path.read_text()
  if text.count(fault.right) != 1:
    print(f"{fault.file} holds {text.count(fault.right)} of {fault.right!r}")
    return False
  path.write_text(text.replace(fault.right, fault.wrong))
  try:
    return run(copy, fault.tests.split()) == 1  # tests failed; 2 and up: no run
  finally:
    path.write_text(text)


def run(copy: pathlib.Path, files: list[str]) -> int:
  """The exit status of the tests of some files."""
  command = [
    sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
    "-m", "not (slow or job)", *files,
  ]  # fmt: skip
  env = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
  return subprocess.run(
    command, cwd=copy, env=env, capture_output=True
  ).returncode


if __name__ == "__main__":
  sys.exit(main())
