"""ONI: a slow judge labels what the policy draws, and a fast model learns its answers.

Zheng et al. 2024, https://arxiv.org/abs/2410.23022, of agents in NetHack, whose labels
arrive while the policy learns. Here rounds take turns: images of the policy and of
earlier ones (`sampling.gallery`) are labeled once by `train_reward.labels`, what failed
labels nothing, and the policy is aligned with the model alone. Of the authors' choices
this is the ranker. On scenes the detector is the judge; another is
`--config.judged_rewards.judge.fn=judge_pointwise` with its `url` and `model`. Their
discount for what was seen before is not there.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  config = recipes.aligned_and_judged(
    recipes.load("diffusion_nft", arg, __file__), arg, __file__, views=0
  )
  config.judged_rewards = dict(judge=dict(fn="detector", strict_weight=0.5))
  config.train_reward.labels = "judge"
  config.train_reward.label_noise = 0.0
  return config
