"""A method that reads all rows of an optimizer step: ratios of sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import methods, objectives
from jaxreward.numerics import Mean
from tests import tiny

pytestmark = pytest.mark.job

GRPO = "align_scenes.py:flow_grpo,smoke"


def _sums(columns):
  """The mean log-ratio of each sample over all its steps, at every row."""
  sample, valid = columns["sample"].ravel(), columns["valid"].ravel()
  size = sample.size
  total, count = (
    jax.ops.segment_sum(jnp.where(valid, x, 0.0), sample, size)
    for x in (columns["log_ratio"].ravel(), jnp.ones(size))
  )
  mean = total / jnp.maximum(count, 1)
  return {"sequence": mean[sample].reshape(columns["sample"].shape)}


@methods.prepares(
  lambda log_prob, old_log_prob, mask, sample: {
    "log_ratio": log_prob - old_log_prob, "sample": sample, "valid": mask,
  },
  _sums,
  gives=("sequence",),
)  # fmt: skip
def sequence_ratio(log_prob, advantage, sequence, mask):
  """Its value is that of the sequence; its gradient flows through the row."""
  row = log_prob - jax.lax.stop_gradient(log_prob) + sequence
  loss = Mean.of(-advantage * jnp.exp(row), mask)
  return loss, {"sequence": Mean.of(sequence, mask)}


@pytest.mark.parametrize("rows", [24, 5])
def test_columns_are_of_the_parameters_before_the_step(monkeypatch, rows):
  monkeypatch.setitem(objectives.REGISTRY, "sequence_ratio", sequence_ratio)
  config = tiny.load(
    GRPO, tiny.MODEL, tiny.REWARD, tiny.FAST,
    {"objective.name": "sequence_ratio", "align.updates": 2,
     "align.split": "samples", "rollout.microbatch": rows,
     "rollout.prompts": 6, "rollout.group": 4,
     "regularizers.kl": "none", "align.old_log_prob": "sealed"},
  )  # fmt: skip
  one = tiny.Iteration(config, tiny.mesh_of(1))
  state = one.state
  before = tiny.flat(state.params)
  trajectory, _, images = one.sample(state)
  stored = trajectory.log_probs - 0.25  # as another policy would have drawn
  trajectory = trajectory.replace(log_probs=stored)
  scores = {"redness": tiny.redness(images, None)}
  state, metrics = one.update(state, trajectory, scores)
  assert tiny.numbers(metrics)["sequence"] == pytest.approx(0.25, rel=1e-3)
  assert not np.array_equal(tiny.flat(state.params), before)
