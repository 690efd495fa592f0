"""IterComp: a reward model of a gallery of policies, refined with the policy it aligns.

Zhang et al. 2024, https://arxiv.org/abs/2410.07171: images of several models are ranked,
reward models learn the ranks, a policy follows their gradient up to a margin of 2 at a
random late step, joins the gallery, and all is done again; see
configs/sweeps/itercomp.py. Their gallery is six public models, ranked by people for
attributes, space and other relations, with a model for each. Here the policy draws at
three guidance scales, the detector ranks, and one model scores all.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.reward_feedback(arg, __file__)
  if recipes.size_of(arg) != "full":
    config.train_reward.sampling.guidance_scales = (1.0, 2.0, 3.0)
  return config
