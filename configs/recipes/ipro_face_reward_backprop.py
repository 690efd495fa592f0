"""IPRO: a face's gradient through the last steps of a video's sampler.

Shen et al. 2025, https://arxiv.org/abs/2510.14255: each frame is compared with a pool of
the person's faces from a real clip (`face_pool`), the last steps of the sampler carry the
gradient, and a KL holds their velocities near the start. How a pool is read, the number
of steps and the weight of the KL are unverified. On portraits the same person is to be
drawn again, and who it is is measured exactly. `:full` reads an IResNet's weights; the
pool is the first frame's face, or the "faces" of a prompt in a folder
(`--config.rewards.person.references=FOLDER`).
"""

from jaxreward import config as config_lib
from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Wan 2.1, from a picture."""
  if recipes.size_of(arg) == "full":
    spec = "../align_public.py:wan_i2v,objective=diffusion_nft"
    config = config_lib.load_sibling(spec, __file__)
    config.rewards = dict(
      person=dict(
        fn="face_pool", weights="arcface.safetensors", subjects=8, windows=1
      )
    )  # fmt: skip
  else:
    config = recipes.of_edits("diffusion_nft", arg, __file__, person=1.0)
    config.data.kind_weights = (0, 0, 0, 0, 1, 0, 0, 0, 0)
  recipes.follow_gradient(config, arg)
  config.regularizers = dict(kl=dict(fn="tail_distance", weight=0.1))
  config.align.update(last_steps=1, updates=1)
  return config
