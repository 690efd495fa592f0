"""SearchLLM: constraints first, objectives where all of them hold.

Wu et al. 2026, https://arxiv.org/abs/2603.10473, of answers to searches there. Here
the look of a picture is the constraint, with a threshold chosen for this recipe, and
what the words ask for the objective.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=1.0)
  gate = 0.75 if recipes.size_of(arg) == "full" else 0.5
  config.composition = dict(name="gated_sum", gates=dict(look=gate))
  return config
