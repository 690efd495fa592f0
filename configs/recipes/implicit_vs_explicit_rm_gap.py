"""The reward that DPO leaves in a policy, beside a reward model, in and out of range.

Lin et al. 2024, https://arxiv.org/abs/2409.03650, of language models, where the implicit
reward generalizes worse; on flows it is the gain in flow-matching error over the
reference (`rewards.implicit`). Both learn from renders of training prompts, right beside
one attribute wrong; `evaluate` judges both on held-out prompts and on training prompts,
and "inside less outside" is each one's gap.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  config = recipes.aligned_and_judged(
    recipes.load("diffusion_nft", arg, __file__), arg, __file__,
    inside="train", views=0,
  )  # fmt: skip
  config.train_reward.pictures.update(renders=2, spoiled=0, borrowed=0)
  config.train_reward.label_noise = 0.0
  config.objective = dict(name="flow_dpo", beta=2000.0)
  config.regularizers = dict()
  config.align.density = dict(name="logit_normal")
  config.data.preferences = "scenes"
  config.judged_rewards = dict(implicit=dict(fn="implicit", beta=2000.0))
  if recipes.size_of(arg) == "default":
    config.rollout.prompts = 128
    config.align.update(iterations=80, times=1, updates=1)
    config.optimizer.learning_rate = 2e-5
  return config
