"""Reward models that compare with a reference: its loss, its rows, its scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import config as config_lib
from jaxreward import reward_models as rm
from jaxreward.data import preferences as pr
from jaxreward.errors import UserError
from jaxreward.reward_models import inputs, towers
from jaxreward.setup import reward_model, task_preferences
from jaxreward.tasks.scenes import detect, grammar
from jaxreward.tasks.scenes import preferences as scenes

F = np.float32


def test_the_binary_loss_of_one_image():
  row = lambda *x: np.array([x], F)
  loss = lambda s, y: float(rm.binary(s, y).value())
  assert loss(row(1.0), row(1.0)) == pytest.approx(0.313262, abs=1e-6)
  assert loss(row(1.0), row(0.0)) == pytest.approx(1.313262, abs=1e-6)
  s, y = np.array([[0.3, -2.0, 1e4]], F), np.array([[0.25, np.nan, 1.0]], F)
  want = (np.log1p(np.exp(0.3)) - 0.25 * 0.3) / 2  # the last is surely right
  assert loss(s, y) == pytest.approx(want, rel=1e-6)
  gradient = jax.grad(lambda s: rm.binary(s, y).value())(s)
  sigmoid = 1 / (1 + np.exp(-0.3))
  np.testing.assert_allclose(
    gradient, [[(sigmoid - 0.25) / 2, 0, 0]], atol=1e-6
  )


@pytest.fixture(scope="module")
def rows():
  prompts = grammar.prompts("train")[:6]
  samples = np.zeros((6, 1, 36, 36, 3), np.uint8)
  rows = scenes.collect(
    jax.random.key(0), prompts, samples, spoiled=0, borrowed=0,
    strict_weight=1.0,
  )  # fmt: skip
  return prompts, pr.beside_reference(rows)


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_reference_shows_the_prompt_and_is_no_candidate(rows):
  prompts, rows = rows
  members, context = np.asarray(rows.members), np.asarray(rows.context)
  assert members.shape == (6, 4)  # a sample, one right render, two others
  assert not (members == context[:, None]).any()
  requests = grammar.batch(prompts)
  seen = detect.detect(jnp.asarray(rows.images)[context] / F(255))
  assert np.asarray(detect.judge(seen, requests).strict).all()
  assert np.asarray(rows.strict)[:, 1].all() and rows.prob.shape == (6, 4, 4)
  part = pr.rows_between(rows, 2, 5, per_row=len(rows.images) // 6)
  for q in range(3):
    image = lambda side, row: np.asarray(side.images)[int(side.context[row])]
    np.testing.assert_array_equal(image(part, q), image(rows, q + 2))
  batch = pr.draw_batch(rows, jax.random.key(1), rows=5, group_size=3)
  references = np.asarray(rows.images)[context] / F(255)
  for drawn in np.asarray(batch.details.context):
    assert np.abs(references - drawn).max((1, 2, 3)).min() < 1e-6


@pytest.mark.job
@pytest.mark.turns(3)
def test_images_are_scored_beside_their_reference(rows):
  """A head that multiplies the two: the mean red of both."""
  _, rows = rows

  def red(params, images, tokens):
    del params, tokens
    return {"joint": jnp.asarray(images)[..., 0].mean((2, 3))[..., None]}

  backbone = rm.Backbone(lambda key: {}, red, (36, 36, 3), 1)
  model = rm.RewardModel(backbone, rm.HEADS["scalar"](hidden=0), context=True)
  kernel = np.array([[0.0], [0.0], [1.0]], F)  # image, source, product
  head = {"head_out": {"kernel": kernel, "bias": np.zeros(1, F)}}
  scores = reward_model.row_scorer(model)({"backbone": {}, "head": head}, rows)
  means = np.asarray(rows.images, np.float64)[..., 0].mean((1, 2)) / 255
  want = (
    means[np.asarray(rows.members)] * means[np.asarray(rows.context)][:, None]
  )
  np.testing.assert_allclose(scores, want, rtol=1e-4)


def test_at_time_one_nothing_tells_images_apart():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 4, 1)), F)
  noise = inputs.Noise(jnp.ones(2), jax.random.split(jax.random.key(0), 2))
  x_t, _ = towers.noisy(x, noise, (0.0, 1.0), 0.02)
  np.testing.assert_array_equal(x_t[:, 0], x_t[:, 2])
  assert (np.asarray(x_t[0]) != np.asarray(x_t[1])).all()


@pytest.mark.turns(2)
@pytest.mark.parametrize(
  ("renders", "reference", "words"),
  [(1, True, "renders=1"), (2, False, "context=true")],
)
def test_a_reference_needs_another_render(renders, reference, words):
  config = config_lib.load("configs/recipes/latent_identity_reward.py:smoke")
  config.train_reward.pictures.update(renders=renders, reference=reference)
  with pytest.raises(UserError, match=words):
    task_preferences.check_reference(config, reward_model.make(config))
