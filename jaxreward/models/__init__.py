"""Flax architectures and nothing else."""

from jaxreward.models import flux, qwen_image, scene_dit, sd3, wan

REGISTRY = {
  "scene_dit": scene_dit.make_policy,
  "sd3": sd3.make_policy,
  "flux": flux.make_policy,
  "qwen_image": qwen_image.make_policy,
  "wan": wan.make_policy,
}
