"""Flax architectures and nothing else."""

from jaxreward.models import scene_dit

REGISTRY = {"scene_dit": scene_dit.make_policy}
