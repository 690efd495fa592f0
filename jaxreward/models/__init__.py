"""Flax architectures and nothing else."""

from jaxreward.models.autoencoders import (
  flux2_vae,
  patches,
  vae,
  video_vae,
)
from jaxreward.models.policies import (
  flux,
  flux2,
  qwen_image,
  scene_dit,
  sd3,
  wan,
  z_image,
)

REGISTRY = {
  "scene_dit": scene_dit.make_policy,
  "sd3": sd3.make_policy,
  "flux": flux.make_policy,
  "flux2": flux2.make_policy,
  "qwen_image": qwen_image.make_policy,
  "wan": wan.make_policy,
  "z_image": z_image.make_policy,
}

AUTOENCODERS = {
  "flux2": flux2_vae.make_autoencoder,
  "kl": vae.make_autoencoder,
  "patches": patches.make_autoencoder,
  "wan": video_vae.make_picture_autoencoder,
  "wan_video": video_vae.make_autoencoder,
}
