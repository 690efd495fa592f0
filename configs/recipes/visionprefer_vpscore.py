"""VisionPrefer: a vision-language model annotates, and a scalar model learns its order.

Wu et al. 2024, https://arxiv.org/abs/2404.15100. All pairs of a prompt's images teach the
model (Bradley-Terry), whose gradient then moves the policy at a late step (ReFL). The
authors' annotator scores four aspects, whose mean orders the images (unverified); here
the judge that ships says how probable it is that a scene shows its prompt, and the
detector is held out. At full size ImageReward, which has the same towers and loss, is
followed.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.reward_feedback(arg, __file__)
  if recipes.size_of(arg) == "full":
    return config
  config.heldout_rewards.annotator = dict(
    fn="vlm_pointwise", weights="package:judge", length=64
  )
  config.train_reward.labels = "annotator"
  config.train_reward.label_noise = 0.0
  if recipes.size_of(arg) == "smoke":
    config.eval.guidance_scales = (1.0,)
  return config
