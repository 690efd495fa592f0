"""One step's loss of fine-tuning against diffusers' own training scripts.

train_dreambooth_lora_sd3.py measures the error of the image that is predicted, and
train_dreambooth_lora_flux.py that of the velocity, both weighted by
`training_utils.compute_loss_weighting_for_sd3`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import objectives, rng, setup
from jaxreward.flow import times
from jaxreward.setup import fine_tuning
from tests.models import test_flux, test_sd3

SCHEMES = {"none": "uniform", "sigma_sqrt": "sigma_sqrt", "cosmap": "cosmap"}
# Of the script: what it measures, and the shift of its scheduler's grid.
SCRIPTS = {"sd3": (test_sd3, "x0", 3.0), "flux": (test_flux, "velocity", 1.0)}


def sigmas_of(count, shift):
  """Those that the scripts draw, by their scheduler's grid."""
  import torch
  from diffusers import FlowMatchEulerDiscreteScheduler, training_utils

  density = training_utils.compute_density_for_timestep_sampling(
    "logit_normal", count, 0.0, 1.0, 1.29,
    generator=torch.Generator().manual_seed(0),
  )  # fmt: skip
  grid = FlowMatchEulerDiscreteScheduler(shift=shift)
  index = (density * grid.config.num_train_timesteps).long()
  return grid.sigmas[index].double()


@pytest.mark.parity
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_steps_loss_is_that_of_diffusers(peers, tmp_path, name):
  import torch
  from diffusers import training_utils

  module, error, shift = SCRIPTS[name]
  policy, model = module.make(), module.theirs()
  like = jax.eval_shape(policy.init, jax.random.key(0))
  params = peers.params_of(model, policy.layout, like, tmp_path)
  x0, _, prompts = module.inputs(peers.draw)
  x0 = np.asarray(x0)
  sigma = sigmas_of(len(x0), shift)
  keys = jax.random.split(jax.random.key(1), len(x0))
  noise = np.asarray(rng.normal_each(keys, x0.shape[1:]))

  s = sigma[:, None, None, None]
  x, e = torch.tensor(x0).double(), torch.tensor(noise).double()
  noisy = (1 - s) * x + s * e
  with torch.no_grad():
    pred = module.run_theirs(
      model.double(), noisy.numpy(), sigma.numpy(), prompts
    ).double()
  pred, target = (pred, e - x) if error == "velocity" else (noisy - s * pred, x)

  def theirs(scheme):
    weight = training_utils.compute_loss_weighting_for_sd3(scheme, s).double()
    rows = (weight * (pred - target) ** 2).reshape(len(x), -1).mean(1)
    return float(rows.mean())

  def every(v, u, t, weight, mask):
    return {
      scheme: objectives.flow_matching(
        v, u, t, weight, mask, weighting=weighting, error=error
      )[0].value()
      for scheme, weighting in SCHEMES.items()
    }

  whole = lambda trained, base: trained
  trainable = setup.Trainable(policy, policy, lambda base: base, whole, whole)
  loss = fine_tuning.Loss(trainable, every, lambda u: u, 0)
  micro = {"x0": x0, "weight": np.ones(len(x0), np.float32)}
  t = jnp.asarray(sigma.numpy(), jnp.float32)
  got = jax.jit(lambda p: loss.at(p, micro, {"base": None}, keys, t, prompts))(
    params
  )
  for scheme in SCHEMES:
    assert float(got[scheme]) == pytest.approx(theirs(scheme), rel=2e-5), scheme


@pytest.mark.parity
@pytest.mark.parametrize(
  ("scheme", "density"),
  [
    ("logit_normal", functools.partial(times.logit_normal, mean=0.3, std=0.8)),
    ("mode", functools.partial(times.mode, scale=1.29)),
    ("none", times.uniform),
  ],
)
def test_times_have_the_density_of_diffusers(peers, scheme, density):
  import torch
  from diffusers import training_utils

  generator = lambda: torch.Generator().manual_seed(1)
  want = training_utils.compute_density_for_timestep_sampling(
    scheme, 64, 0.3, 0.8, 1.29, generator=generator()
  )
  if scheme == "logit_normal":
    u = torch.special.ndtr(torch.randn(64, generator=generator()))
  else:
    u = torch.rand(64, generator=generator())
  got = density(jnp.asarray(u.numpy()))
  np.testing.assert_allclose(got, want.numpy(), atol=2e-6)
