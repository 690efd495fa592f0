"""InstructVideo, its editing: a partial chain from a noised image, and a reward's gradient.

Yuan et al. 2023, https://arxiv.org/abs/2312.12490: an image of the data is noised to .6 of
20 steps, the steps back to it are run, and the last one carries the reward's gradient.
The authors train on videos and weigh the reward of four frames, the middle one most:
`video.frames=4` and `video.fade=4` of a policy that makes videos. Here the reference is
one image, which the task renders (scenes), or the "target" of a prompt. On scenes a
reward model is trained first.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  size = recipes.size_of(arg)
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="align_prop")
  config.regularizers = dict()
  config.rollout.sampler = dict(name="ode")
  config.rollout.start = dict(name="reference", strength=0.6)
  config.align.update(last_steps=1, updates=1)
  if size != "full":
    config.rollout.num_steps = 4 if size == "smoke" else 10
  else:
    config.rollout.num_steps = 20
    config.optimizer.learning_rate = 1e-5
  return recipes.differentiable(config, arg, __file__, "hps")
