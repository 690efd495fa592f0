"""Training a reward model on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import setup
from jaxreward.data import preferences
from jaxreward.jobs import train_reward
from jaxreward.setup import reward_losses, reward_model, reward_optimizer
from jaxreward.training import state as state_lib
from tests import tiny

pytestmark = pytest.mark.job

SMALL = {
  "reward_model.backbone.width": 16,
  "reward_model.backbone.depth": 1,
  "reward_model.backbone.text_layers": 1,
  "reward_model.backbone.stem": 16,
  "reward_model.backbone.unroll": 1,
  "reward_model.head.hidden": 16,
  "train_reward.rows": 12,  # padded to 16 on eight devices
  "train_reward.pictures_per_row": 3,
  # Plain descent: its step is linear in the gradient.
  "train_reward.optimizer.name": "sgd",
  "train_reward.optimizer.learning_rate": 1e-2,
  "train_reward.optimizer.warmup_steps": 0,
}


def rows(config, model):
  """20 rows of four images, the more red preferred."""
  rng = np.random.default_rng(0)
  shape = model.backbone.image_shape
  images = rng.integers(0, 256, (80, *shape), np.uint8)
  score = images[..., 0].mean((1, 2), dtype=np.float64).reshape(20, 4) / 255
  prob = (score[:, :, None] > score[:, None]).astype(np.float32)
  prob[:, np.arange(4), np.arange(4)] = np.nan
  tokens = rng.integers(1, 20, (20, model.backbone.length)).astype(np.int32)
  table = preferences.Preferences(
    images=images, tokens=tokens, category=np.zeros(20, np.int32),
    members=np.arange(80).reshape(20, 4), prob=prob,
    score=score.astype(np.float32), strict=np.zeros((20, 4), np.float32),
    source=np.zeros(4, np.int32),
  )  # fmt: skip
  return jax.tree.map(jnp.asarray, table)


def trained(*sizes):
  """(parameters, those of the start, losses, shardings) after three steps."""
  config = tiny.load("train_reward_scenes.py:smoke", SMALL)
  model, mesh = reward_model.make(config), tiny.mesh_of(*sizes)
  tx = reward_optimizer.make(config, model)
  with jax.set_mesh(mesh):
    params = tiny.shaken(jax.jit(model.init)(jax.random.key(0)))
    fresh = state_lib.create(params, tx, average=True)
    placed = setup.shapes(fresh, model.sharding_rules, mesh, params)
    current = setup.put(fresh, placed)
    places = jax.tree.map(lambda x: x.sharding, placed)
    update = train_reward.make_update(
      config, reward_losses.preference_loss(config, model), tx, places, mesh
    )
    data, losses = rows(config, model), []
    for _ in range(3):
      current, metrics = update(current, data, None)
      losses.append(tiny.numbers(metrics)["loss"])
  specs = [x.sharding.spec for x in jax.tree.leaves(current.params)]
  return tiny.flat(current.params), tiny.flat(params), losses, specs


@pytest.mark.turns(2)
def test_eight_devices_train_the_same_reward_model():
  """Data over four and parameters over two devices: float rounding apart."""
  one, start, losses, _ = trained(1)
  eight, same, others, specs = trained(8, 4, 2)
  np.testing.assert_array_equal(start, same)
  assert any("fsdp" in spec for spec in specs)
  np.testing.assert_allclose(others, losses, rtol=1e-5)
  moved = np.linalg.norm(one - start)
  gap = np.linalg.norm(eight - one) / moved
  assert moved > 1e-3 and gap < 1e-4
