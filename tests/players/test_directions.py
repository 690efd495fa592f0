"""A direction in text features: limits in closed form, and a planted bias."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxreward import players, rewards
from jaxreward.errors import UserError
from jaxreward.models.vision import encoders
from jaxreward.setup import players as roles
from jaxreward.setup import tuning
from jaxreward.tasks.scenes import grammar
from tests import tiny

RNG = np.random.default_rng(0)
E = 6


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_no_direction_is_the_plain_text():
  text = unit(RNG.normal(size=(3, E)))
  for strength in (0.0, 0.5, 1.5):
    got = encoders.directed(jnp.asarray(text), jnp.zeros(E), strength)
    np.testing.assert_allclose(got, text, atol=1e-6)
  # Its slope there is 2 strength - 1 times that of unit(text + b).
  vector = 1e-3 * RNG.normal(size=E)
  ends = [
    np.asarray(encoders.directed(jnp.asarray(text), jnp.asarray(v), 1.5))
    for v in (vector, -vector)
  ]
  want = 2 * (unit(text + vector) - unit(text - vector))
  np.testing.assert_allclose(ends[0] - ends[1], want, atol=1e-6)


def test_a_turned_direction_is_the_other_strength():
  text, vector = unit(RNG.normal(size=(3, E))), RNG.normal(size=E)
  of = lambda v, s: np.asarray(
    encoders.directed(jnp.asarray(text), jnp.asarray(v), s)
  )
  more, less = unit(text + vector), unit(text - vector)
  np.testing.assert_allclose(
    of(vector, 1.5), less + 1.5 * (more - less), atol=1e-6
  )
  np.testing.assert_allclose(of(vector, 1.5), of(-vector, -0.5), atol=1e-6)
  np.testing.assert_allclose(of(vector, 0.5), of(-vector, 0.5), atol=1e-6)


def test_what_a_reward_likes_anyway_is_found():
  """Images lie along a direction of the features that no text names."""
  player = players.bias_direction(reward="r", width=E)
  bias = np.eye(E)[0]
  text = unit(RNG.normal(size=(4, E)) * (1 - bias)).astype(np.float32)
  images = unit(0.3 * RNG.normal(size=(64, E)) + 2 * bias).astype(np.float32)
  index = np.arange(64) % 4

  def score(own, images, index):
    guided = player.tune({}, own)["direction"]
    moved = encoders.directed(jnp.asarray(text), **guided)
    return jnp.sum(images * moved[index], -1)

  def loss(own):
    rows = dict(
      image=jnp.asarray(images), prompt_index=index, mask=np.ones(64, bool)
    )
    arrays = players.Arrays(player, own, rows, score=score)
    return player.loss(arrays("guided_score"), rows["mask"])[0].value()

  @jax.jit
  def learn(own):
    step = lambda _, own: jax.tree.map(
      lambda x, g: x - 0.3 * g, own, jax.grad(loss)(own)
    )
    return jax.lax.fori_loop(0, 100, step, own)

  start = player.init(jax.random.key(0), None)
  np.testing.assert_allclose(
    -loss(start), np.sum(images * text[index], -1).mean(), rtol=1e-4, atol=1e-6
  )
  own = learn(start)
  vector = np.asarray(own["vector"])
  assert vector @ bias / np.linalg.norm(vector) > 0.9
  assert loss(own) < loss(start) - 0.5
  # Less is left above the scores: the best image lies along the guided text.
  best = np.linalg.norm(
    encoders.directed(jnp.asarray(text), own["vector"], 1.5), axis=-1
  )
  room, plain = best[index].mean() + loss(own), 1 + loss(start)
  assert room < plain / 2


def test_towers_read_a_direction_in_their_parameters():
  tune = players.bias_direction(reward="r", width=E, strength=2.0).tune
  own = {"vector": jnp.asarray(RNG.normal(size=E))}
  towers = {"text": jnp.ones(2)}
  flat = tune(towers, own)
  nested = tune({"backbone": towers, "head": {}}, own)
  assert flat["direction"].keys() == nested["backbone"]["direction"].keys()
  text = jnp.asarray(unit(RNG.normal(size=(2, E))))
  want = encoders.directed(text, own["vector"], 2.0)
  np.testing.assert_array_equal(encoders.moved(text, flat), want)
  np.testing.assert_array_equal(encoders.moved(text, towers), text)
  with pytest.raises(Exception, match="reward"):
    players.bias_direction(reward="", width=E)


def towers(images, prompts, *, params):
  """Mean colours times text features that a direction moves."""
  text = jnp.ones((prompts.tokens.shape[0], 3)) * params["scale"]
  mean = jnp.asarray(images).mean((2, 3))
  return jnp.einsum("pge,pe->pg", mean, encoders.moved(text, params))


def flat(images, prompts, *, params):
  """The same without a text."""
  del prompts
  return jnp.asarray(images).mean((2, 3, 4)) * params["scale"]


@pytest.mark.parametrize(
  ("fn", "options", "words"),
  [
    (towers, {}, ""),
    (towers, dict(width=4), "does not fit"),
    (towers, dict(strength=0.5), "changes nothing"),
    (flat, {}, "changes nothing"),
    (None, {}, "does not fit"),
    (towers, dict(reward="other"), "the loss does not follow it"),
  ],
)
def test_a_direction_that_changes_nothing(fn, options, words):
  scale = {"params": {"scale": jnp.float32(1)}} if fn else {}
  fn = fn or (lambda images, prompts: jnp.asarray(images).mean((2, 3, 4)))
  built = rewards.build({"r": fn}, contexts={"r": scale})
  player = players.bias_direction(**{"reward": "r", "width": 3, **options})
  role = roles.Role("bias", player, optax.sgd(1.0))
  states = roles.create((role,), 0, tiny.small_policy(), None)
  run = lambda: tuning.require_effect(
    (role,), states, built, (2, 1, 4, 4, 3),
    grammar.batch(grammar.prompts("train")[:2]),
  )  # fmt: skip
  if not words:
    run()
    return
  with pytest.raises(UserError, match=f"config.players.bias.reward=.*{words}"):
    run()


def test_a_direction_needs_an_objective_of_gradients():
  player = players.bias_direction(reward="r", width=3)
  role = roles.Role("bias", player, optax.sgd(1.0))
  tuning.require_gradients((role,), True)
  with pytest.raises(UserError, match="name, such as"):
    tuning.require_gradients((role,), False)
