"""Not a number in velocities, rewards and gradients; work drawn ahead."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxreward import setup
from jaxreward.jobs import align
from jaxreward.training import async_rollout, faults
from tests import tiny

pytestmark = [pytest.mark.job, pytest.mark.turns(3, 2)]

NFT, GRPO = "align_scenes.py:smoke", "align_scenes.py:flow_grpo,smoke"
SMALL = (
  tiny.MODEL
  | tiny.REWARD
  | tiny.FAST
  | {
    "align.iterations": 3,
    "eval.every": 0,
    "eval.samples": 6,
    "rollout.prompts": 4,
    "rollout.group": 4,
    "checkpoint.every": 1,
    "checkpoint.keep": 9,
  }
)


def poisoned(policy, bad):
  """The policy whose velocity is not finite where `bad(x_t, t)` says so."""

  def velocity(params, x_t, t, cond):
    v = policy.velocity(params, x_t, t, cond)
    return jnp.where(bad(x_t, t)[:, None, None, None], jnp.nan, v)

  return dataclasses.replace(policy, velocity=velocity)


@pytest.fixture
def poison(monkeypatch):
  """Makes jobs take the small policy with such a velocity."""

  def use(bad):
    make = lambda config: poisoned(tiny.small_policy(), bad)
    monkeypatch.setattr(setup, "make_policy", make)

  return use


def assert_sound(workdir, steps):
  """All rows there, and nothing but numbers in what was learned."""
  rows = tiny.rows(workdir)
  assert [row["step"] for row in rows] == steps
  for value in safetensors.numpy.load_file(
    workdir / "policy.safetensors"
  ).values():
    assert np.isfinite(value).all()
  return rows


@pytest.mark.parametrize("spec", [NFT, GRPO])
def test_a_velocity_that_fails_for_some(
  spec, poison, command, tmp_path, caplog
):
  """Their pictures are left out of the groups, counted and told."""
  poison(lambda x, t: (t > 0.99) & (x[:, 0, 0, 0] > 0.3))
  assert command(spec, tmp_path / "run", SMALL) == 0
  rows = assert_sound(tmp_path / "run", [1, 2, 3])
  lost = [row["failed_pictures"] for row in rows]
  assert all(0 < n < 16 for n in lost)
  for row in rows:
    assert row["failed/redness"] == row["failed_pictures"]
  told = re.search(r"step 1 left out (\d+) pictures that were not", caplog.text)
  assert told and float(told[1]) == lost[0]


def test_a_velocity_that_fails_for_all_ends_the_run(poison, command, tmp_path):
  poison(lambda x, t: t > 2)  # compiled alike, and sound
  given = SMALL | {"align.iterations": 2}
  assert command(NFT, tmp_path / "run", given) == 0
  poison(lambda x, t: t < 2)
  assert command(NFT, tmp_path / "other", given) == 2
  assert "no picture of step 1 is finite" in command.error
  assert not (tmp_path / "other" / "policy.safetensors").exists()


def gradient_fails(policy):
  """The value stays; the slope in one parameter is infinite at t > 1/2."""

  def velocity(params, x_t, t, cond):
    v = policy.velocity(params, x_t, t, cond)
    hidden = params["time"]["bias"][0]
    zero = jnp.sqrt(jnp.abs(hidden - jax.lax.stop_gradient(hidden)))
    return v + zero * (t > 0.5)[:, None, None, None]

  return dataclasses.replace(policy, velocity=velocity)


def test_a_gradient_that_fails_is_skipped_counted_and_named(
  monkeypatch, command, tmp_path, caplog
):
  make = lambda config: gradient_fails(tiny.small_policy())
  monkeypatch.setattr(setup, "make_policy", make)
  assert command(NFT, tmp_path / "run", SMALL) == 0
  rows = assert_sound(tmp_path / "run", [1, 2, 3])
  assert all(row["skipped_updates"] > 0 for row in rows)
  assert all(np.isfinite(row["loss"]) for row in rows)
  assert "without a finite gradient" in caplog.text
  assert caplog.text.count("left out") == 1  # not at every step


def test_words():
  row = {"loss": float("nan"), "skipped_updates": 0.5, "failed/a": 0.0}
  assert faults.describe(row) == {
    "loss": "50% of its updates, without a finite loss"
  }
  row = {"loss": 1.0, "skipped_updates": 0.0, "failed/a": 3.0}
  assert faults.describe(row) == {"failed/a": '3 scores of the reward "a"'}
  assert faults.describe({"loss": 1.0}) == {}


# Samples drawn ahead, in a whole run


def on_host(images, prompts):
  return 4.0 * images[..., 0].mean((2, 3))


on_host.is_host = True
OVERLAP = {
  "align.overlap": True, "align.iterations": 5,
  "rewards.redness.fn": f"{__file__}:on_host",
}  # fmt: skip


@pytest.mark.parametrize("spec", [NFT, GRPO])
def test_a_run_that_draws_ahead_goes_on_to_the_bit(
  spec, command, tmp_path, small_model, monkeypatch
):
  given = SMALL | OVERLAP
  assert command(spec, tmp_path / "unbroken", given) == 0
  stop = align.Watch.__call__

  def broken(self, n, row):
    stop(self, n, row)
    if n == 3:
      raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(align.Watch, "__call__", broken)
    assert command(spec, tmp_path / "run", given) == 2
  assert command(spec, tmp_path / "run", given) == 0
  for name in ("metrics.jsonl", "policy.safetensors", "evaluation.json"):
    one, other = (tmp_path / w / name for w in ("run", "unbroken"))
    assert one.read_bytes() == other.read_bytes(), name


def test_the_next_samples_are_on_their_way_while_the_host_judges(
  command, tmp_path, small_model, monkeypatch
):
  begun, seen = [], []
  begin = async_rollout.Samples._begin

  def note(self, params, n, *rest):
    begin(self, params, n, *rest)
    begun.append(n)

  judge = align.host_scores

  def judged(*args):
    seen.append(max(begun))
    return judge(*args)

  monkeypatch.setattr(async_rollout.Samples, "_begin", note)
  monkeypatch.setattr(align, "host_scores", judged)
  assert command(NFT, tmp_path / "run", SMALL | OVERLAP) == 0
  assert seen == [1, 2, 3, 4, 4]
  begun.clear(), seen.clear()
  given = SMALL | OVERLAP | {"align.overlap": False}
  assert command(NFT, tmp_path / "other", given) == 0
  assert seen == [0, 1, 2, 3, 4]
