"""Moving scenes: words, paths, videos, and what is read back from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.models.policies import scene_dit
from jaxreward.tasks.motion import (
  captions,
  judge,
  paths,
  prompts,
  render,
  rewards,
)
from jaxreward.tasks.motion.prompts import CHANGES, JUMPS, NOTHING
from jaxreward.tasks.scenes import grammar

RNG = np.random.default_rng(0)
TIMES = np.arange(paths.FRAMES)
SEEN = jnp.ones(paths.FRAMES)


def test_every_prompt_is_read_back_and_has_room_in_the_policy():
  words = prompts.VOCABULARY
  sizes = len(words), 0, prompts.MAX_WORDS
  assert scene_dit.LANGUAGES["motion"] == sizes
  assert words[: len(grammar.VOCAB)] == grammar.VOCAB
  every = prompts.all_prompts()
  assert len({tuple(prompts.tokenize(p.text)) for p in every}) == len(every)
  for prompt in every[::5]:
    assert prompts.parse(prompt.text) == prompt
  assert {prompts.KINDS[p.category - prompts.FIRST] for p in every} == set(
    prompts.KINDS
  )
  assert prompts.split_of("a red circle flying") is None


def test_what_falls_has_one_acceleration_and_what_bounces_keeps_its_energy():
  height = 14.0
  path = paths.fall(height)
  in_air = path < height
  acceleration = np.diff(path, 2)[: in_air.sum() - 2]
  np.testing.assert_allclose(acceleration, paths.GRAVITY, atol=1e-9)
  assert (path[~in_air] == height).all()

  height = paths.GRAVITY * 2.5**2 / 2
  path = paths.bounce(height)  # back at the top in the last frame
  np.testing.assert_allclose(path, path[::-1], atol=1e-9)
  assert path.min() >= 0 and path.max() <= height


def test_distances_from_paths_equal_a_search_in_float64():
  bank = paths.BANK.reshape(-1, paths.FRAMES, 2)[::13]
  path = RNG.normal(size=(paths.FRAMES, 2)) * 3
  weight = RNG.integers(0, 2, paths.FRAMES).astype(float)
  weight[:2] = 1
  off = judge.off_bank(jnp.asarray(path), jnp.asarray(weight), bank)
  expected = []
  for other in bank.astype(np.float64):
    gap = path - other
    gap = gap - np.average(gap, 0, weight)
    expected.append(np.average((gap**2).sum(-1), 0, weight) ** 0.5)
  np.testing.assert_allclose(off, expected, rtol=1e-5)


def test_steady_motion_falls_and_bounces_are_physical_and_jumps_are_not():
  straight = np.outer(TIMES, [0.37, -1.1]) + 5
  thrown = np.stack([0.8 * TIMES, paths.fall(9.5)], -1)
  back = np.stack([9 - 0.5 * TIMES, paths.bounce(7.25)], -1)
  far = [
    judge.off_physical(jnp.asarray(p), SEEN) for p in (straight, thrown, back)
  ]
  np.testing.assert_allclose(far, 0, atol=2e-3)
  # by least squares in float64
  jump = straight + 7.5 * (TIMES >= 3)[:, None] * [1, 0]
  fit = np.polyval(np.polyfit(TIMES, jump[:, 0], 1), TIMES)
  expected = np.sqrt(np.mean((jump[:, 0] - fit) ** 2))
  found = judge.off_physical(jnp.asarray(jump), SEEN)
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  assert expected > 2 * judge.MAX_OFF
  # what rises ever faster is not: gravity has one direction
  rising = np.stack([0 * TIMES, -paths.fall(30.0)], -1)
  assert judge.off_physical(jnp.asarray(rising), SEEN) > judge.MAX_OFF


def chosen(per_kind):
  """So many prompts of each category."""
  rows = []
  for number in prompts.CATEGORIES:
    of_kind = [p for p in prompts.all_prompts() if p.category == number]
    rows += [of_kind[i] for i in RNG.choice(len(of_kind), per_kind)]
  return rows


@pytest.fixture(scope="module")
def look():
  """(prompts, fault) -> videos, their batch and the verdicts, compiled once."""

  @jax.jit
  def run(keys, batch):
    videos = render.render_prompts(keys, batch)
    return videos, judge.groups(videos[:, None], batch)

  def call(rows, fault=NOTHING):
    batch = prompts.batch(rows)
    batch.extras.fault[:] = fault
    videos, parts = run(jax.random.split(jax.random.key(0), len(rows)), batch)
    return videos, batch, {k: np.asarray(v)[:, 0] for k, v in parts.items()}

  return call


@pytest.mark.job
@pytest.mark.turns(3)
def test_what_is_rendered_is_read_right_and_what_goes_wrong_is_seen(look):
  rows = chosen(4)
  videos, batch, parts = look(rows)
  assert videos.shape == (24, paths.FRAMES, paths.SIDE, paths.SIDE, 3)
  for name in ("strict", "possible"):
    assert (parts[name] == 1).all()
  for name in ("dense", "follows", "acts", "physical"):
    assert parts[name].min() > 0.85
  strips = np.asarray(videos[:4]).transpose(0, 2, 1, 3, 4)
  strips = strips.reshape(4, paths.SIDE, -1, 3)
  lines = judge.describe(strips)
  assert [f"a {line}" for line in lines] == [p.text for p in rows[:4]]
  given = {k: v[:, None] for k, v in parts.items()}
  reward = rewards.REGISTRY["moves"](videos[:, None], batch, verdict=given)
  np.testing.assert_array_equal(reward["moves"][:, 0], parts["dense"])
  nothing = videos[:, None].at[0].set(np.nan)
  failed = rewards.REGISTRY["acts"](nothing, batch, verdict=given)["acts"]
  assert np.isnan(failed[0, 0]) and np.isfinite(failed[1:]).all()

  for fault, lost in ((JUMPS, "follows"), (CHANGES, "objects")):
    *_, parts = look(rows, fault)
    assert parts["strict"].max() == 0 and parts["possible"].mean() < 0.1
    assert parts[lost].mean() < 0.8


def test_a_share_of_the_videos_to_train_on_is_wrong():
  rows = [p for p in prompts.prompts("train") if p.category != prompts.FIRST]
  batch = prompts.batch(rows[:300])
  same = captions.wrong(batch, 0.0, RNG).extras
  np.testing.assert_array_equal(same.items, batch.extras.items)
  assert not same.fault.any()
  extras = captions.wrong(batch, 1.0, RNG).extras
  shares = [(extras.fault == f).mean() for f in (NOTHING, JUMPS, CHANGES)]
  np.testing.assert_allclose(shares, 1 / 3, atol=0.1)
  moved = (extras.items != batch.extras.items).any((1, 2))
  np.testing.assert_array_equal(moved, extras.fault == NOTHING)
  # what is shown stays as asked, and two objects keep their axis
  np.testing.assert_array_equal(
    extras.items[..., :2], batch.extras.items[..., :2]
  )
  assert (
    extras.items[extras.fault > 0] == batch.extras.items[extras.fault > 0]
  ).all()
  for a, b in extras.items[extras.items[:, 1, 0] >= 0]:
    assert prompts._is_pair(tuple(a.tolist()), tuple(b.tolist()))
