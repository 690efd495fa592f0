"""Reference images in the place of the last members of each group."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.flow import rollout
from jaxreward.setup import real
from jaxreward.types import Policy, PromptBatch, Trajectory

P, G, SIDE = 3, 4, (2, 2, 3)


@pytest.mark.job
@pytest.mark.turns(3)
def test_the_last_members_become_reference_images_of_their_prompt():
  rng = np.random.default_rng(0)
  layout = rollout.make_layout(P, G, 5)  # rows lie in several chunks
  plan = types.SimpleNamespace(
    real=2, group=G, prompts=P, render=None, layout=layout
  )
  targets = rng.uniform(size=(P, *SIDE)).astype(np.float32)
  targets[1] = np.nan  # a prompt without one
  ids = np.arange(P, dtype=np.uint32)
  batch = PromptBatch(ids, np.zeros(P, np.int32), ids >= 0)
  batch = dataclasses.replace(batch, target=targets)
  drawn = rng.normal(size=(1, len(layout.mask), *SIDE)).astype(np.float32)
  trajectory = Trajectory(
    latents=jnp.asarray(drawn), log_probs=None, velocities=None,
    prompt_index=layout.prompt_index, member=layout.member, mask=layout.mask,
  )  # fmt: skip
  pixels = rng.uniform(size=(P, G, *SIDE)).astype(np.float32)
  policy = Policy(
    init=lambda key: {}, encode=lambda params, words: words,
    velocity=lambda params, x, t, cond: x,
    to_pixels=lambda x, decoder=None: (x + 1) / 2, latent_shape=SIDE,
  )  # fmt: skip
  mixed, images = real.mix(
    policy, plan, trajectory, jnp.asarray(pixels), batch, jax.random.key(0)
  )
  np.testing.assert_array_equal(images[:, :2], pixels[:, :2])
  np.testing.assert_array_equal(
    images[:, 2:], np.repeat(targets[:, None], 2, 1)
  )
  for b, (p, g) in enumerate(
    zip(layout.prompt_index, layout.member, strict=True)
  ):
    want = 2 * targets[p] - 1 if g >= 2 else drawn[0, b]
    np.testing.assert_allclose(mixed.latents[0, b], want, atol=1e-6)
