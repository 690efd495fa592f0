"""Strips of frames, the rewards that see them, and videos in the jobs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from jaxreward import setup
from jaxreward.errors import UserError
from jaxreward.jobs import align, sample
from jaxreward.report import grids
from jaxreward.rewards import declare, score
from jaxreward.setup import rewards as reward_setup
from jaxreward.setup import videos
from tests import tiny

pytestmark = pytest.mark.job

WAN = "align_public.py:wan_t2v,tiny"


def numbered(frames, *outer):
  """Videos [..., F, 4, 6, 3] whose frame i is i everywhere."""
  values = np.arange(frames, dtype=np.float32)[:, None, None, None]
  return np.broadcast_to(values, (*outer, frames, 4, 6, 3))


@pytest.mark.parametrize(
  ("frames", "count", "kept"),
  [
    (9, 5, [0, 2, 4, 6, 8]),
    (9, 2, [0, 8]),
    (9, 1, [4]),
    (1, 3, [0, 0, 0]),
    (33, 4, [0, 11, 21, 32]),
  ],
)
def test_a_strip_holds_frames_from_the_first_to_the_last(frames, count, kept):
  strip = videos.to_strip(numbered(frames, 2, 3), count)
  assert strip.shape == (2, 3, 4, count * 6, 3)
  found = [float(f.max()) for f in videos.frames_of(strip, count)]
  assert found == kept
  assert all(np.ptp(np.asarray(f)) == 0 for f in videos.frames_of(strip, count))


@pytest.mark.parametrize(
  ("which", "expected"), [("first", 1.0), ("middle", 3.0), ("mean", 4.0)]
)
def test_a_reward_sees_the_frames_it_is_to_score(which, expected):
  config = tiny.load(WAN, {"video.frames": 3, "video.scored": which})
  frames = np.array([1.0, 3.0, 8.0], np.float32)
  strips = np.repeat(frames, 6)[None, None, None, :, None] * np.ones(
    (2, 4, 5, 1, 3), np.float32
  )

  def level(images, prompts):
    assert images.shape == (2, 4, 5, 6, 3)
    return {
      "level": images.mean((2, 3, 4)),
      "twice": 2 * images.mean((2, 3, 4)),
    }

  for strip in (strips, jnp.asarray(strips)):
    found = videos.scored(level, config)(strip, None)
    np.testing.assert_allclose(found["level"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["twice"], 2 * expected, rtol=1e-6)


def test_frames_fade_away_from_the_middle():
  """InstructVideo's weights of frames 0, 4, 8, 12 of 16, which sum to 1.036967."""
  weights = videos.frame_weights(4, 4.0)
  np.testing.assert_allclose(
    weights * 1.036967, [3.354626e-4, 0.01831564, 1, 0.01831564], rtol=1e-6
  )
  np.testing.assert_array_equal(videos.frame_weights(4, 0.0), [0.25] * 4)
  config = tiny.load(WAN, {"video.frames": 4, "video.fade": 4.0})
  values = np.array([1.0, 2.0, 4.0, 8.0], np.float32)
  strips = np.broadcast_to(values[None, :, None], (1, 1, 5, 4, 3))
  level = lambda images, prompts: images.mean((2, 3, 4))
  score = videos.scored(level, config)(strips, None)
  np.testing.assert_allclose(score, [[weights @ values]], rtol=1e-6)


@pytest.mark.parametrize("backend", [np, jnp])
def test_a_reward_that_takes_frames_gets_them_in_order(backend):
  config = tiny.load(WAN, {"video.frames": 3})
  values = np.arange(2 * 4 * 3 * 5 * 6 * 3, dtype=np.float32)
  frames = values.reshape(2, 4, 3, 5, 6, 3)
  strips = backend.asarray(np.concatenate(np.moveaxis(frames, 2, 0), -2))
  seen = []

  @declare(takes_frames=True)
  def reward(images, prompts, *, factor):
    seen.append(images)
    return {"most": factor * images.max(tuple(range(2, images.ndim)))}

  found = videos.scored(reward, config)(strips, None, factor=2)
  np.testing.assert_array_equal(found["most"], 2 * frames.max((2, 3, 4, 5)))
  (given,) = seen
  assert isinstance(given, backend.ndarray)
  np.testing.assert_array_equal(given, frames)
  config = tiny.load(WAN, {"video.frames": 3, "video.scored": "middle"})
  videos.scored(reward, config)(strips, None, factor=2)
  np.testing.assert_array_equal(seen[1], frames[:, :, 1])


def test_identity_pools_the_frames_of_a_video():
  """A face twice, its negative between: the mean of the cosines 1, -1, 1.

  The mean of the frames' scores would be that of 1, the floor 0.001, and 1.
  """
  given = {
    "video.frames": 3, "rewards.face.fn": "identity",
    "rewards.face.weights": "x", "rewards.face.references": "y",
    "rewards.face.windows": 1,
  }  # fmt: skip
  rng = np.random.default_rng(0)
  weights = rng.standard_normal((8 * 8 * 3, 16)).astype(np.float32)
  ann = rng.uniform(size=(8, 8, 3)).astype(np.float32)
  strips = np.concatenate([ann, 1 - ann, ann], 1)[None, None]
  arguments = {
    "faces": lambda params, x: x.reshape(x.shape[0], -1) @ params,
    "params": jnp.asarray(weights), "reference": ann[None, None],
    "known": np.ones((1, 1), bool), "side": 8,
  }  # fmt: skip

  every = tiny.prompts_of(tiny.load("align_scenes.py:smoke"))
  prompts = jax.tree.map(lambda x: x[:1], every)

  def score_of(which):
    config = tiny.load(WAN, given | {"video.scored": which})
    entry = reward_setup.bind(config, ("rewards",))["face"]
    return float(entry.fn(strips, prompts, **arguments)["identity"][0, 0])

  assert score_of("mean") == pytest.approx(1 / 3, rel=1e-4)
  assert score_of("first") == pytest.approx(1.0, rel=1e-4)
  assert score_of("middle") == pytest.approx(1e-3, rel=1e-4)


def test_the_first_of_one_frame_is_refused():
  config = tiny.load(WAN, {"video.frames": 1, "video.scored": "first"})
  with pytest.raises(UserError, match=r"video\.frames=1"):
    videos.scored(lambda images, prompts: images, config)


def test_a_frame_that_is_not_finite_spoils_its_video_alone():
  config = tiny.load(WAN, {"video.frames": 3})
  strips = np.ones((1, 2, 8, 24, 3), np.float32)
  strips[0, 1, 0, -1] = np.nan
  loaded = reward_setup.load(config, epath.Path("."), ("rewards",))
  prompts = tiny.prompts_of(tiny.load("align_scenes.py:smoke"))
  scores, _ = score(loaded, strips, jax.tree.map(lambda x: x[:1], prompts))
  assert np.isfinite(scores["jpeg"]).tolist() == [[True, False]]


@pytest.mark.turns(2)
def test_pixels_are_the_decoded_frames():
  config = tiny.load(WAN, {"video.frames": 3})
  policy = setup.make_policy(config)
  decoder = setup.load_decoder(config, policy)
  latents = jax.random.normal(jax.random.key(0), (2, 3, *policy.latent_shape))
  strips = jax.jit(policy.to_pixels)(latents, decoder)
  assert strips.shape == (2, 3, 32, 96, 3)
  from jaxreward.models.autoencoders import video_vae

  coder = video_vae.make_autoencoder(size="tiny")
  whole = jax.jit(coder.decode)(decoder, latents.reshape(6, 2, 4, 4, 4))
  for at, frame in zip(
    (0, 2, 4), videos.frames_of(strips.reshape(6, 32, 96, 3), 3), strict=True
  ):
    np.testing.assert_allclose(frame, whole[:, at], atol=1e-5)


@pytest.mark.slow
def test_the_report_and_the_samples_show_strips(tmp_path):
  config = tiny.load(
    WAN,
    {
      "eval.samples": 4, "eval.quick_samples": 4, "eval.every": 0,
      "rollout.prompts": 2, "rollout.microbatch": 4, "align.iterations": 1,
      "video.frames": 3, "sample.prompts": 2, "sample.group": 1,
      "sample.num_steps": 2, "sample.scale": 1,
    },
  )  # fmt: skip
  workdir = epath.Path(tmp_path)
  align.run(config, workdir)
  cards = grids.load_cards(workdir / "grids" / "cards.npz")
  shape = (len(cards.texts), 32, 96, 3)
  assert cards.before.shape == cards.after.shape == shape
  assert cards.frames == 3
  sample.run(config, workdir)
  from PIL import Image

  (first, *_) = sorted((workdir / "samples").iterdir())
  assert Image.open(first).size == (96, 32)


@pytest.mark.parametrize(
  ("spec", "overrides", "message"),
  [
    (
      WAN,
      {"data.grammar": "scenes"},
      'config.data.grammar="scenes": "wan" mak',
    ),
    (
      WAN,
      {"autoencoder.name": "wan"},
      'config.autoencoder.name="wan" is one of pictures, and "wan" makes videos',
    ),
    (
      "align_public.py:qwen_image,tiny",
      {"autoencoder.name": "wan_video", "autoencoder.size": "tiny"},
      'config.autoencoder.name="wan_video" is one of videos',
    ),
  ],
)
def test_what_does_not_go_together_is_refused(spec, overrides, message):
  with pytest.raises(UserError) as caught:
    setup.make_policy(tiny.load(spec, overrides))
  assert message in str(caught.value)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"video.scored": "last"}, 'config.video.scored="last" is none of first'),
    ({"video.frames": 0}, "config.video.frames=0: expected a whole number"),
    ({"video.fade": -1.0}, "config.video.fade=-1.0: expected a number >= 0"),
    (
      {"video.fade": 1.0, "video.scored": "first"},
      'config.video.fade=1 weighs the scores of frames, and config.video.scored="first"',
    ),
  ],
)
def test_choices_of_frames_that_make_no_sense_are_refused(
  overrides, message, command, tmp_path
):
  assert command("align_public.py:wan_t2v,tiny", tmp_path / "x", overrides) == 2
  assert message in command.error
