"""Players that learn of a judge: losses, rows, agreement, and in an update."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxreward import players
from jaxreward.setup import judge_labels, playing
from jaxreward.training import state as training
from tests import tiny

RNG = np.random.default_rng(0)


def test_the_losses_in_float64():
  logit, rival, signal, other = RNG.normal(size=(4, 6)).astype(np.float32)
  signal[1] = other[1]  # a tie
  mask = np.array([1, 1, 0, 1, 1, 1], bool)
  dirty = np.where(mask, signal, np.nan).astype(np.float32)
  loss, metrics = players.ranked(logit, rival, dirty, other, mask)
  margin = np.sign(signal - other) * (logit - rival).astype(np.float64)
  kept = mask & (signal != other)
  want = np.log1p(np.exp(-margin))[kept].mean()
  assert float(loss.value()) == pytest.approx(want, rel=1e-5)
  assert float(loss.weight) == 4
  share = float(metrics["accuracy"].value())
  assert share == pytest.approx((margin > 0)[kept].mean())
  labels = players.student(loss="labels", width=2, depth=1, hidden=2)
  loss, _ = labels.loss(logit, dirty, mask)
  sign = np.where(signal > 0.5, 1.0, -1.0)
  want = np.log1p(np.exp(-sign * logit.astype(np.float64)))[mask].mean()
  assert float(loss.value()) == pytest.approx(want, rel=1e-5)


def mean_player(**options):
  """It scores the mean of an image; a perfect student of the red channel."""
  return players.Player(
    lambda key, sizes: {"x": jnp.ones(())}, players.ranked,
    offers={
      "score": lambda a: 4 * a("image")[..., 0].mean((1, 2)),
      "logit": lambda a: a.params["x"] * a("image").mean((1, 2, 3)),
      "rival_logit": lambda a: a.params["x"] * a("rival_image").mean((1, 2, 3)),
    },
    reads=players.JUDGED_ROWS, score="score", judged=True, **options,
  )  # fmt: skip


@pytest.fixture(scope="module")
def plan():
  config = tiny.load("align_scenes.py:smoke", {"rollout.microbatch": 8})
  return tiny.make_plan(config, tiny.mesh_of(1))  # 6 prompts, groups of 4


def hear(role, plan, player, images, labels, step):
  """One iteration: the score of an image is its mean."""
  return judge_labels.hear(
    role, player, jnp.asarray(images),
    judge_labels.Labels(labels, np.arange(6)[:, None], np.ones(6, bool)),
    jnp.int32(step), plan,
    lambda images, plan, words: images.mean((1, 2, 3)).reshape(6, 4),
  )  # fmt: skip


@pytest.mark.job
@pytest.mark.turns(3)
def test_labels_meet_the_images_they_are_of(plan):
  """Two iterations late: what came before is masked."""
  role = playing.Role("s", mean_player(), tx=None, judge="j", lag=2, floor=0.5)
  images = RNG.random((5, 24, 2, 2, 3)).astype(np.float32)
  images[1, 3] = np.nan
  labels = images.mean((2, 3, 4)).reshape(5, 6, 4)  # of a perfect judge
  labels[0, 1, 0] = np.nan
  player = training.Player(
    None, None, None, 0,
    pending=training.Pending(
      jnp.zeros((2, 24, 2, 2, 3)), jnp.full(training.RECENT, jnp.nan)
    ),
  )  # fmt: skip
  for step in range(5):
    late = labels[step - 2] if step >= 2 else np.full((6, 4), np.nan)
    heard = hear(role, plan, player, images[step], late, step)
    player = heard.player
    if step < 2:
      assert not heard.usable.any() and not heard.trusted
      continue
    want = np.isfinite(labels[step - 2])
    np.testing.assert_array_equal(heard.usable, want)
    kept = want.reshape(-1)
    np.testing.assert_array_equal(heard.images[kept], images[step - 2][kept])
    assert bool(heard.trusted)
    assert float(heard.metrics["s/agreement"].value()) == 1.0
  rows = judge_labels.make_rows(role, heard, plan)
  flat = {
    k: np.asarray(v)[0].swapaxes(0, 1).reshape(24, *v.shape[3:])
    for k, v in rows.items()
  }
  place = np.arange(24)
  following = place // 4 * 4 + (place + 1) % 4
  assert flat["mask"].all()
  np.testing.assert_array_equal(flat["signal"], labels[2].reshape(-1))
  np.testing.assert_array_equal(flat["image"], images[2])
  for name, other in (("image", "rival_image"), ("signal", "rival_signal")):
    np.testing.assert_array_equal(flat[other], flat[name][following])
  np.testing.assert_array_equal(flat["prompt_index"], place // 4)


def test_agreement_is_of_the_newest_pairs():
  recent = jnp.array([1.0, 0.0, 1.0, jnp.nan])
  newest = jnp.array([jnp.nan, 0.5, jnp.nan, 0.0])
  got = judge_labels.remembered(recent, newest)
  np.testing.assert_array_equal(got, [0.5, 0.0, 1.0, 0.0])
  score = np.array([[1.0, 2.0, 2.0, 0.0]])
  labels = np.array([[0.0, 3.0, 1.0, 1.0]])
  usable = np.array([[True, True, True, True]])
  got = judge_labels.agreed(*map(jnp.asarray, (score, labels, usable)))
  np.testing.assert_array_equal(got, [1.0, 0.5, np.nan, 0.0])
  usable[0, 1] = False
  got = judge_labels.agreed(*map(jnp.asarray, (score, labels, usable)))
  np.testing.assert_array_equal(got, [np.nan, np.nan, np.nan, 0.0])


RUN = tiny.FAST | tiny.REWARD | {
  "rollout.prompts": 3, "rollout.group": 4, "align.updates": 1,
  "optimizer.learning_rate": 1e-3, "rewards.redness.weight": 0.0,
  "judged_rewards.judge.fn": f"{tiny.HERE}:redness",
  "players.perfect.fn": f"{__file__}:mean_player",
  "players.perfect.judge": "judge", "players.perfect.weight": 1.0,
}  # fmt: skip
BASE = "align_scenes.py:flow_grpo,smoke"


def make(**given):
  dotted = {k.replace("__", "."): v for k, v in given.items()}
  return tiny.Iteration(tiny.load(BASE, RUN, dotted), tiny.mesh_of(1))


@pytest.mark.job
def test_without_lag_a_perfect_student_is_the_judge():
  direct = tiny.load(
    BASE, RUN, {"rewards.redness.weight": 1.0, "players.perfect": "none"}
  )
  runs = tiny.Iteration(direct, tiny.mesh_of(1)), make()
  states = [one.step(one.state)[0] for one in runs]
  assert not np.array_equal(
    tiny.flat(states[0].params), tiny.flat(runs[0].state.params)
  )
  np.testing.assert_allclose(
    *(tiny.flat(s.params) for s in states), rtol=0, atol=1e-6
  )


@pytest.mark.job
def test_what_failed_teaches_nothing_and_the_policy_waits_for_agreement():
  one = make(players__perfect__lag=1, players__perfect__floor=0.5)

  def update(state, labels):
    words, mask = one.batch.words, one.batch.mask
    with jax.set_mesh(one.mesh):
      trajectory, _, images = one.sample(state)
      heard = judge_labels.Labels(jnp.asarray(labels), words, mask)
      state, metrics = one.parts.update(
        one.copy(state), one.parts.base, trajectory, one.scores(images),
        one.batch, None, None, None, {}, judge_labels.Late(images, {"perfect": heard}),
      )  # fmt: skip
    return state, tiny.numbers(metrics)

  def learned(state):
    player = state.players["perfect"]
    return player.params, player.opt_state

  before = one.state
  failed = np.full((3, 4), np.nan, np.float32)
  state = before
  for _ in range(2):  # none has come yet, and then all failed
    state, metrics = update(state, failed)
    assert tiny.same_bits(state.params, before.params)
    assert tiny.same_bits(learned(state), learned(before))
    assert metrics["perfect/trusted"] == metrics["perfect/labels"] == 0
  ring = state.players["perfect"].pending.images[0]
  labels = tiny.redness(ring.reshape(3, 4, *ring.shape[1:]), None)
  state, metrics = update(state, labels)
  assert metrics["perfect/agreement"] == metrics["perfect/trusted"] == 1
  assert not tiny.same_bits(state.params, before.params)
  assert not tiny.same_bits(learned(state)[0], learned(before)[0])


def _taught(w, x, y, steps=150):
  rival, other = np.roll(x, 1, 0), np.roll(y, 1)
  there = np.ones(len(x), bool)

  def loss(w):
    return players.ranked(x @ w, rival @ w, y, other, there)[0].value()

  step = jax.jit(lambda w: w - 0.5 * jax.grad(loss)(w))
  for _ in range(steps):
    w = step(w)
  return w


def test_labels_of_its_own_samples_hold_an_evaluator_that_a_policy_leaves():
  """What is good turns round beyond where training began: frozen, it is fooled."""
  rng = np.random.default_rng(4)
  quality = lambda x: -np.abs(x - 1).sum(-1)

  def sample(mean):
    x = mean + rng.normal(size=(256, 2)).astype(np.float32) * 0.3
    return x, quality(x)

  agreed = lambda w, x, y: scipy.stats.spearmanr(x @ w, y)[0]
  first, far = sample(0.0), sample(3.0)
  frozen = _taught(jnp.zeros(2), *first)
  assert agreed(frozen, *first) > 0.9
  assert agreed(frozen, *far) < -0.9  # it rewards what is worse
  anchored = _taught(frozen, *far)
  assert agreed(anchored, *far) > 0.9
