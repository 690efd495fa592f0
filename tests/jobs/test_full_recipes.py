"""Recipes of public policies at full size: published numbers, and a slice.

The numbers are those of Flow-GRPO's config/grpo.py and of DiffusionNFT's
config for SD3.5, read apart from our config. No array is made.
"""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxreward import setup
from jaxreward.jobs import align
from jaxreward.training import sharding
from tests import tiny

# pickscore_sd3, pickscore_flux, counting_flux_kontext, pickscore_qwenimage,
# counting_qwenimage_edit, general_ocr_wan2_1.
FIELDS = ("prompts", "group", "steps", "eval_steps", "guidance", "noise", "kl",
          "clip", "rate", "std", "average", "trained")  # fmt: skip
FLOW_GRPO = {
  "sd35_medium": (48, 24, 10, 40, 4.5, 0.7, 0.01, 1e-4, 3e-4, "batch", 0.9, 9),
  "flux_dev": (48, 24, 6, 28, 3.5, 0.9, 0.0, 1e-4, 3e-4, "batch", 0.9, 5),
  "kontext": (48, 21, 6, 28, 2.5, 0.9, 0.0, 1e-4, 3e-4, "batch", 0.9, 5),
  "qwen_image": (32, 16, 10, 50, 4.0, 1.2, 0.0, 1e-4, 3e-4, "batch", 0.0, 2),
  "qwen_image_edit": (
    32, 16, 10, 50, 4.0, 1.0, 0.0, 1e-4, 3e-4, "batch", 0.0, 9,
  ),
  # Its noise has no level.
  "wan_t2v": (32, 4, 20, 50, 4.5, None, 0.004, 1e-3, 1e-4, "group", 0.9, 19),
}  # fmt: skip
PICTURES = {"kontext", "qwen_image_edit"}


def load(model, objective):
  source = "edits" if model in PICTURES else "scenes"
  return tiny.load(
    f"align_public.py:{model},objective={objective}", {"data.source": source}
  )


def weight_of(config) -> float:
  return config.regularizers.kl.weight if config.regularizers else 0.0


@pytest.mark.parametrize("model", list(FLOW_GRPO))
def test_flow_grpo_as_published(model):
  config = load(model, "flow_grpo")
  guidance = config.model.get("guidance", config.rollout.guidance_scale)
  plan = align.make_plan(config, 1)
  found = (
    config.rollout.prompts, config.rollout.group, config.rollout.num_steps,
    config.eval.num_steps, guidance, config.rollout.sampler.get("noise_level"),
    weight_of(config), config.objective.clip_range,
    config.optimizer.learning_rate, config.advantage.std, config.ema.decay,
    len(plan.trained),
  )  # fmt: skip
  expected = dict(zip(FIELDS, FLOW_GRPO[model], strict=True))
  assert dict(zip(FIELDS, found, strict=True)) == expected
  # Twice per iteration, each time on half of the samples at all times.
  assert (plan.updates, plan.split) == (2, "samples")
  assert (config.lora.rank, config.lora.alpha) == (32, 64.0)
  assert (config.advantage.clip, config.optimizer.clip_norm) == (5.0, 1.0)
  assert config.optimizer.weight_decay == 1e-4
  assert (config.optimizer.b1, config.optimizer.b2) == (0.9, 0.999)


@pytest.mark.parametrize("model", list(FLOW_GRPO))
def test_diffusion_nft_as_published(model):
  config = load(model, "diffusion_nft")
  plan = align.make_plan(config, 1)
  assert config.rollout.guidance_scale == 1.0
  assert config.rollout.sampler.name == "dpmpp_2m"
  assert dict(config.objective) == dict(
    name="diffusion_nft", beta=1.0, old_decay=0.5, old_rate=1e-3
  )
  assert dict(config.regularizers.kl) == dict(
    fn="velocity_distance", weight=1e-4
  )
  assert (plan.updates, len(plan.trained)) == (1, 9)


@pytest.mark.parametrize("sizes", [(4, 16, 1), (1, 64, 1), (4, 8, 2)])
@pytest.mark.parametrize("objective", ["flow_grpo", "diffusion_nft"])
@pytest.mark.parametrize("model", list(FLOW_GRPO))
@pytest.mark.turns(3)
def test_sixty_four_devices_share_samples_and_parameters(
  model, objective, sizes
):
  config = load(model, objective)
  devices = sizes[0] * sizes[1]
  plan = align.make_plan(config, devices)
  rows = len(plan.layout.mask)
  assert rows % (plan.layout.chunks * devices) == 0
  assert plan.layout.chunks % plan.updates == 0
  policy = setup.make_policy(config)
  params = jax.eval_shape(policy.init, jax.random.key(0))
  same = [jax.devices()[0]] * int(np.prod(sizes))
  mesh = Mesh(np.reshape(same, sizes), ("data", "fsdp", "tensor"))
  specs = sharding.param_specs(params, policy.sharding_rules, mesh)
  held = sum(
    leaf.size / np.prod([mesh.shape[a] for a in jax.tree.leaves(tuple(spec))])
    for leaf, spec in zip(
      jax.tree.leaves(params),
      jax.tree.leaves(specs, is_leaf=lambda s: isinstance(s, tuple)),
      strict=True,
    )
  )
  whole = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert held < 1.1 * whole / (sizes[1] * sizes[2])
