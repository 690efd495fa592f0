"""Flax architectures and nothing else."""

from jaxreward.models.autoencoders import patches, vae, video_vae
from jaxreward.models.policies import flux, qwen_image, scene_dit, sd3, wan

REGISTRY = {
  "scene_dit": scene_dit.make_policy,
  "sd3": sd3.make_policy,
  "flux": flux.make_policy,
  "qwen_image": qwen_image.make_policy,
  "wan": wan.make_policy,
}

AUTOENCODERS = {
  "kl": vae.make_autoencoder,
  "patches": patches.make_autoencoder,
  "wan": video_vae.make_picture_autoencoder,
  "wan_video": video_vae.make_autoencoder,
}
