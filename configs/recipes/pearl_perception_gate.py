"""PEARL: other rewards teach a prompt only where its check is mostly passed.

https://arxiv.org/abs/2511.18437, where a checklist about an image gates the update of
the answers that rest on it; here what the words ask for gates how the image looks. The
threshold is unverified.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=0.5)
  least = 0.3 if recipes.size_of(arg) == "full" else 0.5
  config.composition = dict(name="prerequisite", check="task", least=least)
  config.advantage = dict(name="group", std="none", clip=5.0)
  return config
