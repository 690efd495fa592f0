"""Options of a person's own methods may have any value and any name."""

import textwrap

from jaxreward import jobs
from tests import tiny

METHODS = """
import jax.numpy as jnp
from jaxreward.numerics import Mean

def loss(log_prob, advantage, mask, *, threshold=0.0, beta=1.0, clip_range=1.0):
  return Mean.of(threshold - beta * advantage * log_prob, mask), {}

def credit(signal, mask, *, epsilon=0.0, clip=1.0):
  return jnp.where(mask, signal * clip + epsilon, 0.0)

def total(scores, masks, weights, *, epsilon=0.0):
  return sum(w * scores[k] for k, w in weights.items()) + epsilon, masks
"""


def test_an_option_of_ones_own_may_be_negative(tmp_path):
  file = tmp_path / "my.py"
  file.write_text(textwrap.dedent(METHODS))
  config = tiny.load(
    "align_scenes.py:flow_grpo,smoke",
    {
      "objective.name": f"{file}:loss",
      "objective.threshold": -1.0,
      "objective.beta": -2.0,
      "objective.clip_range": 0.0,
      "advantage.name": f"{file}:credit",
      "advantage.epsilon": -1.0,
      "advantage.clip": -5.0,
      "composition.name": f"{file}:total",
      "composition.epsilon": -1.0,
    },
  )
  jobs.find(config)
  jobs.check("align", config)
