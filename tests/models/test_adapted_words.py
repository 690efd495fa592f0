"""Adapters on the text layers alone, as the recipe `texforce` has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import setup
from tests import tiny


@pytest.mark.turns(2)
def test_only_the_encoding_of_words_is_trained_and_it_learns():
  config = tiny.load("recipes/texforce.py:smoke", tiny.MODEL, tiny.FAST)
  policy = setup.make_policy(config)
  trainable = setup.make_trainable(config, policy)
  base = tiny.drawn(policy.init, jax.random.key(0))
  base = jax.tree.map(
    jnp.asarray, tiny.shaken(base)
  )  # layers that start at zero let nothing through
  trained = jax.jit(trainable.init)(base)
  paths = [
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, _ in jax.tree_util.tree_leaves_with_path(trained)
  ]
  assert paths and all(path.startswith("text/") for path in paths)

  x = jax.random.normal(jax.random.key(1), (2, *policy.latent_shape))
  tokens = jnp.asarray(tiny.prompts_of(config).words[:2])

  @jax.jit
  def slope(trained):
    def loss(trained):
      params = trainable.merge(trained, base)
      cond = trainable.policy.encode(params, tokens)
      v = trainable.policy.velocity(params, x, jnp.full(2, 0.5), cond)
      return jnp.sum(jnp.square(v))

    return jax.grad(loss)(trained)

  found = [np.abs(x).max() for x in jax.tree.leaves(slope(trained))]
  assert max(found) > 0
