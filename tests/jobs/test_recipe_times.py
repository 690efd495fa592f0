"""Sampling times of the public recipes against the schedulers of diffusers."""

import inspect

import numpy as np
import pytest

from jaxreward import setup
from jaxreward.errors import UserError
from tests import tiny

PIXELS = 512
# `scheduler_config.json` of the public repositories.
EULER = "FlowMatchEulerDiscreteScheduler"
RANGE = dict(base_image_seq_len=256, max_image_seq_len=4096)


def unipc(flow_shift):
  """Wan's scheduler."""
  return "UniPCMultistepScheduler", dict(
    flow_shift=flow_shift, use_flow_sigmas=True,
    prediction_type="flow_prediction",
  )  # fmt: skip


KLEIN = EULER, dict(
  shift=3.0, base_shift=0.5, max_shift=1.15, use_dynamic_shifting=True,
  time_shift_type="exponential", **RANGE,
)  # fmt: skip
SCHEDULERS = {
  "sd35_medium": (EULER, dict(shift=3.0)),
  "sd35_large": (EULER, dict(shift=3.0)),
  "flux_dev": (
    EULER,
    dict(
      shift=3.0, base_shift=0.5, max_shift=1.15, use_dynamic_shifting=True,
      **RANGE,
    ),
  ),
  "kontext": (
    EULER,
    dict(
      shift=3.0, base_shift=0.5, max_shift=1.15, use_dynamic_shifting=True,
      **RANGE,
    ),
  ),
  "flux_schnell": (
    EULER, dict(shift=1.0, base_shift=0.5, max_shift=1.15, **RANGE),
  ),
  "qwen_image": (
    EULER,
    dict(
      shift=1.0, base_shift=0.5, max_shift=0.9, use_dynamic_shifting=True,
      base_image_seq_len=256, max_image_seq_len=8192, shift_terminal=0.02,
      time_shift_type="exponential",
    ),
  ),
  "z_image": (EULER, dict(shift=6.0)),
  "z_image_turbo": (EULER, dict(shift=3.0)),
  "klein_4b": KLEIN,
  "klein_base_9b": KLEIN,
  # 480p and below; 720p takes 5.
  "wan_t2v": unipc(3.0),
  "wan22_t2v": unipc(12.0),
  "wan22_i2v": unipc(5.0),
  "wan22_ti2v_5b": unipc(5.0),
}  # fmt: skip
for form in ("edit", "edit_2509", "edit_2511"):
  SCHEDULERS[f"qwen_image_{form}"] = SCHEDULERS["qwen_image"]


def sigmas_of(scheduler, model, steps):
  """As the pipeline of the model asks its scheduler for them."""
  from diffusers.pipelines.flux import pipeline_flux

  given = {}
  if model.startswith(("flux", "kontext", "qwen")):
    c = scheduler.config
    given["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    given["mu"] = pipeline_flux.calculate_shift(
      (PIXELS // 16) ** 2, c.base_image_seq_len, c.max_image_seq_len,
      c.base_shift, c.max_shift,
    )  # fmt: skip
  elif model.startswith("klein"):
    from diffusers.pipelines.flux2 import pipeline_flux2_klein as klein

    given["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    given["mu"] = klein.compute_empirical_mu((PIXELS // 16) ** 2, steps)
  elif model.startswith("z_image"):
    from diffusers.pipelines.z_image import pipeline_z_image

    given["sigmas"] = pipeline_z_image.get_default_z_image_sigmas(steps)
  else:
    given["num_inference_steps"] = steps
  scheduler.set_timesteps(**given)
  return scheduler.sigmas.numpy()


@pytest.mark.parity
@pytest.mark.parametrize("objective", ["flow_grpo", "diffusion_nft"])
@pytest.mark.parametrize("model", list(SCHEDULERS))
def test_a_recipe_samples_at_its_schedulers_times(model, objective):
  diffusers = pytest.importorskip("diffusers")
  config = tiny.load(f"align_public.py:{model},objective={objective}")
  name, options = SCHEDULERS[model]
  kind = getattr(diffusers, name)
  assert not set(options) - set(inspect.signature(kind).parameters)
  made = setup.make_schedule(config)
  for steps in (config.rollout.num_steps, config.eval.num_steps):
    scheduler = kind(**options)
    want = sigmas_of(scheduler, model, steps)
    np.testing.assert_allclose(made.times(steps), want, atol=2e-6)
    told = made.network_times(steps)
    assert (told is None) == (name == EULER)
    if told is not None:  # whole thousandths, but for the last bit
      whole = scheduler.timesteps.numpy()
      np.testing.assert_allclose(1000 * told, whole, rtol=2e-7)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"rollout.schedule.name": "dynamical"}, 'did you mean "dynamic"'),
    ({"rollout.schedule.grid": "train"}, "config.rollout.schedule.grid="),
    (
      {"rollout.schedule.terminal": 0.1},
      'config.rollout.schedule.terminal is no argument of "constant"',
    ),
    (
      {"rollout.schedule.name": "dynamic", "rollout.schedule.base_tokens": 9999},
      "config.rollout.schedule.base_tokens=9999 is not less than",
    ),
    (
      {
        "rollout.schedule.name": "dynamic", "rollout.schedule.terminal": 0.1,
        "eval.num_steps": 1,
      },
      "config.eval.num_steps=1, config.rollout.shift=3: 1 steps, and at least",
    ),
    (
      {"rollout.shift": 1e12},
      "config.rollout.num_steps=10, config.rollout.shift=1e+12: a shift of 1e+12",
    ),
  ],
)  # fmt: skip
def test_a_schedule_that_makes_no_sense_is_refused(overrides, message):
  config = tiny.load("align_public.py:sd35_medium", overrides)
  with pytest.raises(UserError) as caught:
    setup.make_schedule(config)
  assert message in str(caught.value)
