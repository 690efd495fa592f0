"""Retraining on curated samples and real images: of each group one sample, as users choose.

Ferbach et al. 2024, https://arxiv.org/abs/2407.09499: one of K with probability
softmax(r), and as many real images, which keep the variance. They are rendered by the task
here, or the "target" of a prompt at full size. The temperature is chosen for rewards in
[0, 1].
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="flow_matching")
  config.advantage = dict(name="curated", temperature=0.1)
  # of a group one sample and one image count: the objective has half its mean
  config.regularizers = dict(data=dict(fn="data_matching", weight=0.5))
  config.rollout.real = 1
  return config
