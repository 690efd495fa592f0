"""CDR: a policy over a weaker one annotates preferences; nothing is trained for it.

Xu et al. 2024, https://arxiv.org/abs/2411.02481, of language models; the ratio of flows'
likelihoods is an adaptation (`rewards.density_ratio`). The strong policy is the
package's, fine-tuned on right images first; the weak one is the package's. `evaluate`
judges the ratio on held-out preferences beside a reward model that learned from labels.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  config = recipes.aligned_and_judged(
    recipes.load("diffusion_nft", arg, __file__), arg, __file__, views=0
  )
  config.train_reward.label_noise = 0.0
  config.objective = dict(name="flow_matching")
  config.regularizers = dict()
  config.align.density = dict(name="logit_normal")
  config.data.dataset = "scenes"
  config.judged_rewards = dict(ratio=dict(fn="density_ratio"))
  if recipes.size_of(arg) == "default":
    config.rollout.prompts = 128
    config.align.update(iterations=80, times=1, updates=1)
  return config
