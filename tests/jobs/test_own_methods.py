"""Methods of a person's own: told what is wrong before anything runs."""

import re

import pytest

from jaxreward.errors import UserError
from jaxreward.jobs import align
from tests import tiny

GRPO, NFT = "align_scenes.py:flow_grpo,smoke", "align_scenes.py:smoke"
CODE = """
import jax.numpy as jnp
from jaxreward.advantages import Advantage
from jaxreward.numerics import Mean

def good(log_prob, advantage, mask, *, scale=1.0):
  return Mean.of(-scale * advantage * log_prob, mask), {"level": Mean.of(log_prob, mask)}

def alone(log_prob, advantage, mask):
  return Mean.of(-advantage * log_prob, mask)

def by_scalar(log_prob, std, mask):
  return Mean.of(log_prob / std[:, None], mask), {}

def term(mean, mask):
  return Mean.of(mean[:, 0, 0, 0], mask)

def number(mean, mask):
  return mean.sum()

def grows():
  return Advantage(
    lambda sizes: {"n": 0},
    lambda signal, mask, state: (signal, {"n": state["n"], "m": 1}),
  )

def counts():
  return Advantage(
    lambda sizes: 0, lambda signal, state: (signal, state + 1))

def pair():
  return (lambda sizes: 0, lambda signal: signal)

def strange():
  return Advantage(lambda sizes: 0, lambda signal, rewards: (signal, 0))

def flat(step_signal, mask):
  return step_signal[..., -1]

def whole(iteration, key, size, num_steps):
  return int(iteration)

import asyncio

def named(log_prob, advantage, mask):
  return Mean.of(-advantage * log_prob, mask), {"step": Mean.of(log_prob, mask)}

def raises(log_prob, advantage, mask):
  raise ValueError("x")

def wrong(log_prob, mask):

  # on a value inside jit
  if log_prob.sum() > 0:
    return Mean.of(log_prob, mask), {}
class Odd(Exception):
  __str__ = lambda self: 1 / 0
def odd(mean, mask):
  raise Odd()

def cancels():
  raise asyncio.CancelledError

def exits(*args, **kwargs):
  raise SystemExit(3)

def quits(shift, shape):
  raise GeneratorExit

def flat_one(signal, mask):
  return signal.sum()
"""


@pytest.fixture
def check(tmp_path):
  (tmp_path / "my.py").write_text(CODE)

  def run(overrides, spec=GRPO):
    filled = {
      k: str(v).replace("my.py", f"{tmp_path}/my.py")
      for k, v in overrides.items()
    }
    align.check(tiny.load(spec, tiny.MODEL, tiny.REWARD, tiny.FAST, filled))

  return run


@pytest.mark.parametrize(
  "overrides",
  [
    {"objective.name": "my.py:good", "objective.scale": 2.0},
    {"regularizers.mine.fn": "my.py:term"},
    {"advantage.name": "my.py:counts"},
    {"advantage.name": "my.py:flat"},
  ],
)
def test_what_is_right_passes(check, overrides):
  check(overrides)


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("overrides", "said"),
  [
    ({"objective.name": "my.py:alone"}, "returned a Mean; expected"),
    ({"objective.name": "my.py:by_scalar"}, "my.py:13: IndexError"),
    ({"regularizers.mine.fn": "my.py:number"}, "an array of shape []"),
    ({"regularizers.ratio.fn": "my.py:term"}, "metric of this name"),
    ({"regularizers.loss.fn": "my.py:term"}, "every run has a metric"),
    ({"advantage.name": "my.py:grows"}, "a state of other arrays"),
    ({"advantage.name": "my.py:pair"}, "returns an Advantage(init, update)"),
    ({"advantage.name": "my.py:strange"}, 'reads "rewards"; there are signal'),
    (
      {"rollout.window_size": 1, "rollout.window_move.name": "my.py:whole"},
      "my.py:41: float(), int(), .item() or .tolist() inside jit: keep arrays",
    ),
    ({"regularizers.job.fn": "my.py:term"}, "every run has a metric"),
    ({"regularizers.step.fn": "my.py:term"}, "every run has a metric"),
    ({"regularizers.failed_pictures.fn": "my.py:term"}, "has a metric"),
    ({"regularizers.reward/x.fn": "my.py:term"}, 'names with "/"'),
    ({"objective.name": "my.py:named"}, "every run has a metric step"),
    ({"objective.name": "my.py:raises"}, "config.objective: my.py:49: ValueE"),
    ({"objective.name": "my.py:wrong"}, "config.objective: my.py:54: if, wh"),
    ({"regularizers.x.fn": "my.py:odd"}, "regularizers.x: my.py:59: Odd: (its"),
    ({"advantage.name": "my.py:cancels"}, "config.advantage: my.py:62: Cancel"),
    ({"composition.name": "my.py:exits"}, "my.py:65: it calls exit("),
    (
      {"rollout.sampler.name": "my.py:exits"},
      "sampler: my.py:65: it calls exit",
    ),
    (
      {"rollout.schedule.name": "my.py:quits"},
      "schedule: my.py:68: GeneratorEx",
    ),
    ({"model.name": "my.py:exits"}, "config.model: my.py:65: it calls exit"),
    (
      {"advantage.name": "my.py:flat_one"},
      "config.advantage.name: it returned",
    ),
    ({"align.updates": 50, "align.split": "samples"}, "24 rows to share out"),
  ],
)
def test_what_is_wrong_is_one_line(check, overrides, said):
  with pytest.raises(UserError) as caught:
    check(overrides)
  text = re.sub(r"[^ ]*/my.py:(?=\d)", "my.py:", str(caught.value))
  assert said in text
  assert "config.config" not in text
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("overrides", "said"),
  [
    ({"advantage.name": "my.py:flat"}, "scores every denoising step"),
    (
      {
        "objective.name": "align_prop",
        "composition.name": "advantage_sum",
        "align.updates": 1,
      },
      "differentiates the weighted sum",
    ),
  ],
)
def test_what_samples_alone_cannot_give_is_told(check, overrides, said):
  with pytest.raises(UserError, match=said):
    check(overrides, NFT)
