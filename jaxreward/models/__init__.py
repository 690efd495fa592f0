"""Flax architectures and nothing else."""

from jaxreward.models import flux, scene_dit, sd3, vae

REGISTRY = {
  "scene_dit": scene_dit.make_policy,
  "sd3": sd3.make_policy,
  "flux": flux.make_policy,
}

AUTOENCODERS = {"kl": vae.make_autoencoder}
