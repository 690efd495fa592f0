"""Inverse specification: whoever reads the image alone should find what was asked for.

Ananda Kumar and Arunachalam 2026, https://arxiv.org/abs/2603.16839, of slides: a model
that never sees the brief names it from the slides, and what it finds again is a reward
beside rules and looks. Here the judge that ships is asked the same questions of every
image, how many of each shape there are and which shapes are there in which colour, and the
mean probability of the prompt's own answers is the reward; the detector watches. At full
size a reader of public weights describes the image and the prompt is compared with that
(`prompt_echo`, whose question does not show it either). In the released sum a component
that failed counts 0; here its sample is masked.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  if recipes.size_of(arg) == "full":
    reader = dict(fn="prompt_echo", weights="Qwen/Qwen3-VL-8B-Instruct")
    config.rewards = dict(reader=dict(reader, weight=1.0, dtype="bfloat16"))
    return config
  reader = dict(fn="recovered", weights="package:judge", length=64, weight=1.0)
  config.rewards = dict(reader=reader)
  config.heldout_rewards = dict(detector=dict(fn="detector", weight=1.0))
  return config
