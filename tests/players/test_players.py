"""Losses of players against float64, and players in an update."""

import dataclasses
import types as std_types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import advantages, feeds, objectives, players, types
from jaxreward.setup import playing
from jaxreward.training import state as training
from tests import tiny
from tests.differences import numeric_gradient

RNG = np.random.default_rng(0)
types_of = std_types.SimpleNamespace


def logits(*values, places=3):
  whole = np.array(values, np.float32)
  return whole, np.repeat(whole[:, None], places, 1)


@pytest.mark.parametrize(
  ("real", "image", "want"), [(0.0, 0.0, 1.3), (1.0, -1.0, 0.0), (3, -2, 0.0)]
)
def test_the_published_ends_of_the_hinge(real, image, want):
  full = np.ones(2, bool)
  pair = logits(image, image), logits(real, real)
  loss, _ = players.hinge(*pair, full, full, places=0.3)
  assert float(loss.value()) == pytest.approx(want, abs=1e-6)


def test_the_hinge_in_float64():
  b, n = 5, 4
  arrays = [
    RNG.normal(0, 1.5, shape).astype(np.float32)
    for shape in ((b,), (b, n), (b,), (b, n))
  ]
  fake, fake_at, real, real_at = (x.astype(np.float64) for x in arrays)
  mask = np.array([1, 1, 0, 1, 1], bool)
  there = np.array([1, 0, 1, 1, 1], bool)
  dirty = [np.where(_wide(mask, x), x, np.nan) for x in arrays[:2]]
  loss, metrics = players.hinge(
    tuple(dirty), tuple(arrays[2:]), mask, there, places=0.3
  )
  relu = lambda x: np.maximum(x, 0)
  half = lambda r, f: (relu(1 - r) + relu(1 + f)) / 2
  rows = half(real, fake) + 0.3 * half(real_at, fake_at).mean(1)
  kept = mask & there
  assert float(loss.value()) == pytest.approx(rows[kept].mean(), rel=1e-5)
  right = ((real > 0) + 1.0 - (fake > 0)) / 2
  assert float(metrics["accuracy"].value()) == pytest.approx(
    right[kept].mean(), rel=1e-6
  )


def _wide(mask, like):
  return mask.reshape(-1, *(1,) * (like.ndim - 1))


def test_a_gate_that_is_closed_weighs_nothing():
  """Open only while the policy's pictures score higher than references."""
  player = players.discriminator(width=2, depth=1, hidden=2, gated=True)
  prepare = player.loss.prepare
  full = np.ones(4, bool)
  for above in (True, False):
    fake, real = (1.0, -1.0) if above else (-1.0, 1.0)
    pair = logits(*[fake] * 4), logits(*[real] * 4)
    read = prepare.read(*pair, full, full)
    columns = {k: jnp.asarray(v)[None] for k, v in read.items()}
    gate = prepare.finish(columns)["open"][0]
    loss, _ = player.loss(*pair, full, full, gate)
    assert bool(gate.all()) is above
    assert float(loss.weight) == (4.0 if above else 0.0)


@pytest.mark.turns(2)
def test_one_form_of_features_scores_and_trains():
  """Pictures of other contrast score alike where features have length 1."""
  player = players.discriminator(width=4, depth=2, hidden=8)
  sizes = players.Sizes((12, 12, 3), (12, 12, 3), None)
  params = player.init(jax.random.key(0), sizes)
  params = tiny.shaken(params, 0.3)
  images = RNG.uniform(size=(3, 12, 12, 3)).astype(np.float32)
  arrays = players.Arrays(player, params, {"image": images})
  whole, places = arrays("image_logits")
  want = 0.7 * np.asarray(whole) + 0.3 * np.asarray(places).mean(1)
  np.testing.assert_allclose(arrays("image_score"), want, rtol=1e-5)
  assert np.ptp(want) > 1e-3


def test_weights_of_the_published_form():
  """Clip .5 and temperature 2: A of (-1.5, 0, .3)."""
  value = np.array([1.5, 0.2, -0.3], np.float32)
  reward = np.array([0.0, 0.2, 0.0], np.float32)
  v = np.ones((3, 2), np.float32)
  loss, _ = objectives.ac_flow(
    v, v * 0, v * 0, value, reward, np.ones(3, bool)
  )  # each error is 1, so that the loss is the mean weight
  want = np.mean([0.367879, 1.0, 1.822119])
  assert float(loss.value()) == pytest.approx(want, rel=1e-5)


def test_temperature_zero_is_flow_matching():
  v, x0, noise = RNG.normal(size=(3, 4, 5)).astype(np.float32)
  value, reward = RNG.normal(size=(2, 4)).astype(np.float32)
  mask = np.array([1, 0, 1, 1], bool)

  def loss(v):
    return objectives.ac_flow(
      v, x0, noise, value, reward, mask, temperature=0.0
    )[0].value()

  grad = jax.grad(loss)(v)
  want = np.where(mask[:, None], 2 * (v - (noise - x0)) / 5 / 3, 0.0)
  np.testing.assert_allclose(grad, want, rtol=1e-4, atol=1e-7)


def test_credit_of_steps_beyond_the_critic():
  signal = RNG.normal(2, 1, (3, 4))
  mask = RNG.random((3, 4)) > 0.2
  values = RNG.normal(0, 1, (3, 4, 5))
  dirty = np.where(mask, signal, np.nan).astype(np.float32)
  got = advantages.REGISTRY["critic"](
    dirty, mask, values.astype(np.float32), clip=0.8
  )
  kept = signal[mask]
  shaped = (signal - kept.mean()) / (kept.std() + 1e-4)
  want = np.clip(shaped[..., None] - values, -0.8, 0.8)
  np.testing.assert_allclose(
    got, np.where(mask[..., None], want, 0.0), atol=2e-5
  )


@pytest.mark.turns(2)
def test_a_critic_knows_words_of_every_kind():
  player = players.critic(width=2, depth=1, hidden=4)
  for words in (
    np.array([[1, 2, 0], [3, 0, 0]], np.int32),
    {"words": RNG.normal(size=(2, 3, 4)).astype(np.float32),
     "mask": np.ones((2, 3), bool)},
  ):  # fmt: skip
    like = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), words
    )
    sizes = players.Sizes((8, 8, 3), (2, 4, 4, 3), like)
    params = tiny.shaken(player.init(jax.random.key(0), sizes), 0.3)
    rows = dict(
      x_t=np.ones((2, 2, 4, 4, 3), np.float32), t=np.float32(0.5),
      prompt_index=np.arange(2),
    )  # fmt: skip
    value = players.Arrays(player, params, rows, words)("value")
    assert value.shape == (2,) and value[0] != value[1]


# In an update

SLOW = {
  "players.critic.every": 2, "players.critic.steps": 2,
  "players.critic.until": 2,
  "align.hold_policy": 1, "rollout.prompts": 4, "align.updates": 1,
  "rollout.microbatch": 8,
}  # fmt: skip


def critic_run(devices=1, **given):
  config = tiny.load(
    "recipes/ac_flow.py:smoke", tiny.FAST, tiny.REWARD, SLOW, given
  )
  return tiny.Iteration(config, tiny.mesh_of(devices))


@pytest.fixture(scope="module")
def run():
  return critic_run()


@pytest.mark.job
def test_the_policy_waits_and_the_critic_has_its_turns(run):
  before = run.state
  first, metrics, _ = run.step(run.copy(before))
  assert tiny.numbers(metrics)["critic/skipped_updates"] == 0.0
  for name in ("params", "opt_state", "ema", "old"):
    assert tiny.same_bits(getattr(first, name), getattr(before, name))
  critic = first.players["critic"]
  assert int(critic.updates) == 2 and int(first.updates) == 0
  assert not tiny.same_bits(critic.params, before.players["critic"].params)
  held = run.copy(first)
  second, metrics, _ = run.step(first)
  assert tiny.same_bits(second.players["critic"], held.players["critic"])
  assert "critic/loss" not in tiny.numbers(metrics)
  assert not tiny.same_bits(second.params, held.params)
  third, metrics, _ = run.step(second)  # its turn again, but it rests from here
  assert tiny.same_bits(third.players["critic"], held.players["critic"])
  assert "critic/loss" not in tiny.numbers(metrics)


@pytest.mark.job
def test_a_player_that_is_not_finite_stays_as_it_is(run):
  state = run.state
  broken = state.players["critic"].replace(
    params=jax.tree.map(lambda x: x * jnp.nan, state.players["critic"].params)
  )
  before = run.copy(broken)
  after, metrics, _ = run.step(state.replace(players={"critic": broken}))
  assert tiny.numbers(metrics)["critic/skipped_updates"] == 1.0
  assert tiny.same_bits(after.players["critic"].opt_state, before.opt_state)


@pytest.mark.job
@pytest.mark.optimized
@pytest.mark.turns(3)
def test_devices_change_no_player():
  """Rows of a player are spread like those of the policy.

  Both programs are compiled alike: Adam's first step is of gradients' signs.
  """
  found = []
  for one in (critic_run(), critic_run(4)):
    state, metrics, _ = one.step(one.state)
    found.append((tiny.flat(state.players["critic"].params), metrics))
  np.testing.assert_allclose(found[0][0], found[1][0], atol=3e-5)
  losses = [tiny.numbers(m)["critic/loss"] for _, m in found]
  assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_values_of_steps_come_from_their_own_latents():
  """[P, G, T], from V at the latents and the time of each step."""
  player = players.Player(
    lambda key, sizes: {}, players.squared_error,
    offers={"value": lambda a: a("x_t").mean((1, 2, 3)) + 10 * a("t")},
    reads=(), gives=("value",),
  )  # fmt: skip
  role = playing.Role("critic", player, tx=None)
  config = tiny.load("align_scenes.py:flow_grpo,smoke")
  plan = tiny.make_plan(config, tiny.mesh_of(1))
  latents = RNG.normal(size=(5, 24, 2, 2, 3)).astype(np.float32)
  trajectory = types.Trajectory(
    latents=latents, log_probs=None, velocities=None,
    prompt_index=plan.layout.prompt_index, member=plan.layout.member,
    mask=plan.layout.mask,
  )  # fmt: skip
  got = playing.step_values((role,), {"critic": {}}, trajectory, None, plan)
  t = np.asarray(plan.table.t, np.float64)
  want = latents[:-1].astype(np.float64).mean((2, 3, 4)) + 10 * t[:, None]
  assert got.shape == (6, 4, 4)
  np.testing.assert_allclose(
    np.asarray(got).reshape(24, 4), want.T, rtol=1e-4, atol=1e-4
  )


def samples(plan):
  """A trajectory whose last latents are known, one of them broken."""
  latents = RNG.uniform(size=(1, 24, 36, 36, 3)).astype(np.float32)
  latents[0, 5] = np.nan
  return types.Trajectory(
    latents=latents, log_probs=None, velocities=None,
    prompt_index=plan.layout.prompt_index, member=plan.layout.member,
    mask=plan.layout.mask,
  )  # fmt: skip


@pytest.mark.turns(2)
def test_rows_of_a_player():
  """Noise and times anew for each of its steps, references of the same prompt."""
  config = tiny.load("recipes/adv_grpo.py:smoke", {"rollout.microbatch": 8})
  plan = tiny.make_plan(config, tiny.mesh_of(1))
  trajectory = samples(plan)
  names = (
    "image", "real_image", "real_mask", "keys", "x0", "x_t", "t", "noise",
    "signal", "shaped", "mask",
  )  # fmt: skip
  player = players.Player(lambda *_: {}, players.squared_error, {}, names)
  render = playing.players.bind(config)[0].render
  role = playing.Role("d", player, tx=None, steps=2, render=render)
  signal = RNG.normal(size=(6, 4)).astype(np.float32)
  batch = tiny.prompts_of(config)
  rows = jax.jit(
    lambda trajectory, key: playing.make_rows(
      role, trajectory, trajectory.latents[0], jnp.asarray(signal),
      jnp.ones((6, 4), bool), batch, plan, key,
    )
  )(trajectory, jax.random.key(0))  # fmt: skip
  assert rows["t"].shape == (2, 3, 8)
  mask = np.asarray(rows["mask"])
  assert mask.sum() == 2 * 23 and np.asarray(rows["real_mask"]).all()
  t, x0, noise, x_t = (
    np.asarray(rows[k], np.float64) for k in ("t", "x0", "noise", "x_t")
  )
  wide = t[..., None, None, None]
  np.testing.assert_allclose(x_t, (1 - wide) * x0 + wide * noise, atol=1e-5)
  assert not np.isclose(noise[0], noise[1]).any(axis=(2, 3, 4)).all()
  assert (t[0] != t[1]).all()
  np.testing.assert_array_equal(x0[0], x0[1])
  assert x0[mask].min() >= 0 and not x0[~mask].any()  # a bad row is zeros
  # Row b of the samples lies in chunk b mod C: signals follow their pictures.
  flat = np.asarray(rows["signal"])[0].T.reshape(-1)
  np.testing.assert_array_equal(
    flat, np.where(np.arange(24) == 5, 0, signal.reshape(-1))
  )
  real = np.asarray(rows["real_image"])
  assert real.min() >= 0 and real.max() <= 1
  assert not np.array_equal(real[0], real[1])  # drawn anew
  keys = np.asarray(rows["keys"]).reshape(-1, 2)
  assert len(np.unique(keys, axis=0)) == 2 * 24  # of step, prompt and member


@pytest.mark.turns(2)
def test_a_rival_is_the_next_of_the_group_and_both_have_to_count():
  config = tiny.load("recipes/adv_grpo.py:smoke", {"rollout.microbatch": 8})
  plan = tiny.make_plan(config, tiny.mesh_of(1))
  trajectory = samples(plan)  # the sixth is broken
  names = ("x0", "rival", "signal", "rival_signal", "mask")
  player = players.Player(lambda *_: {}, players.squared_error, {}, names)
  signal = RNG.normal(size=(6, 4)).astype(np.float32)
  rows = playing.make_rows(
    playing.Role("d", player, tx=None), trajectory, None, jnp.asarray(signal),
    jnp.ones((6, 4), bool), tiny.prompts_of(config), plan, jax.random.key(0),
  )  # fmt: skip
  flat = {
    k: np.asarray(v)[0].swapaxes(0, 1).reshape(24, *v.shape[3:])
    for k, v in rows.items()
  }
  place = np.arange(24)
  following = place // 4 * 4 + (place + 1) % 4
  np.testing.assert_array_equal(flat["mask"], (place != 5) & (following != 5))
  kept = flat["mask"]
  for name, other in (("x0", "rival"), ("signal", "rival_signal")):
    np.testing.assert_array_equal(
      flat[other][kept], flat[name][following][kept]
    )


@pytest.mark.parametrize("loss", ["outcome", "pairs"])
def test_rewards_of_steps_are_log_ratios_of_the_copy(loss):
  """beta (log p_phi - log p_old): above 0 where the copy finds a step likelier."""
  player = players.process_reward(beta=3.0, loss=loss)
  log_probs = lambda path, index: jnp.asarray(path.mean(-1)[:, 1:] + index)
  network = lambda params: types_of(path_log_probs=log_probs)
  rows = {"prompt_index": np.array([[2], [0]])}
  for path, old in (
    ("path", "path_log_probs"), ("rival_path", "rival_log_probs"),
  ):  # fmt: skip
    rows |= {path: RNG.normal(size=(2, 4, 5)), old: RNG.normal(size=(2, 3))}
  arrays = players.Arrays(player, {}, rows, None, None, network)
  offers = {"step_rewards": ("path", "path_log_probs")}
  if loss == "pairs":
    offers["rival_rewards"] = ("rival_path", "rival_log_probs")
  assert player.offers.keys() == offers.keys()
  for name, (path, old) in offers.items():
    want = 3 * (log_probs(rows[path], rows["prompt_index"]) - rows[old])
    np.testing.assert_allclose(arrays(name), want, rtol=1e-6)


def test_what_a_player_says_of_predictions_has_a_gradient_in_them_alone():
  player = players.Player(
    lambda key, sizes: {}, players.squared_error,
    offers={"latent_score": lambda a: a.params * jnp.square(a("x0")).sum(1)},
    reads=(), predicts=("latent_score",),
  )  # fmt: skip
  role = playing.Role("proxy", player, tx=None)

  def total(params, x0):
    arrays = playing.prediction_arrays((role,), {"proxy": params}, None)
    return arrays["latent_score"](x0, {"x0": 0 * x0}).sum()

  x0 = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
  of_params, of_x0 = jax.grad(total, (0, 1))(jnp.float32(1.5), x0)
  assert of_params == 0
  np.testing.assert_allclose(of_x0, 3 * x0, rtol=1e-6)


def test_a_drift_climbs_the_values_of_its_player():
  """Along the gradient in the latents of the player's average, per row."""
  player = players.Player(
    lambda key, sizes: {}, players.squared_error,
    offers={
      "value": lambda a: (
        a.params * jnp.square(a("x_t")).sum(1) / 2 + a("t") * a("prompt_index")
      )
    },
    reads=(), gives=("value",),
  )  # fmt: skip
  plan = dataclasses.replace(
    tiny.make_plan(tiny.load("align_scenes.py:smoke"), tiny.mesh_of(1)),
    drift=feeds.Drift("critic", 0.1, 0.5),
  )
  state = {
    "critic": training.Player(
      params=None, opt_state=None, ema=jnp.float32(-2.0), updates=0
    )
  }
  climb = playing.value_gradient(
    (playing.Role("critic", player, tx=None),), state, None, plan
  )
  assert climb is not None
  x = RNG.normal(size=(3, 4)).astype(np.float32)
  got = climb(jnp.asarray(x), jnp.full(3, 0.5), jnp.arange(3))
  np.testing.assert_allclose(got, -2 * x, rtol=1e-6)


def test_scores_of_pictures_that_are_not_finite():
  config = tiny.load("recipes/adv_grpo.py:smoke", {"rollout.microbatch": 8})
  plan = tiny.make_plan(config, tiny.mesh_of(1))
  images = jnp.asarray(samples(plan).latents[0])
  player = players.Player(
    lambda *_: {}, players.squared_error,
    {"mean": lambda arrays: arrays("image").mean((1, 2, 3))}, (), score="mean",
  )  # fmt: skip
  role = playing.Role("d", player, tx=None, weight=2.0)
  got = np.asarray(playing.scores((role,), {"d": {}}, images, plan)["d"])
  want = np.asarray(images, np.float64).mean((1, 2, 3)).reshape(6, 4)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert np.isnan(got).sum() == 1


@pytest.mark.job
@pytest.mark.turns(2)
def test_a_critic_gives_credit_to_steps():
  """At first V is 0 everywhere, so that every step has the whitened reward."""
  given = {
    "players.critic.fn": "critic", "players.critic.width": 4,
    "players.critic.hidden": 8, "advantage.name": "critic",
    "advantage.clip": 100.0, "align.updates": 1,
  }  # fmt: skip
  config = tiny.load(
    "align_scenes.py:flow_grpo,smoke", tiny.FAST, tiny.REWARD, given
  )
  one = tiny.Iteration(config, tiny.mesh_of(1))
  trajectory, _, images = one.sample(one.state)
  scores = {"redness": tiny.redness(images, None)}
  state, metrics = one.update(one.state, trajectory, scores)
  shaped = np.asarray(scores["redness"], np.float64)
  shaped = (shaped - shaped.mean()) / (shaped.std() + 1e-4)
  first = tiny.numbers(metrics)
  assert first["advantage_abs"] == pytest.approx(
    np.abs(shaped).mean(), rel=1e-4
  )
  assert first["log_prob_gap"] == 0.0
  assert first["critic/baseline_error"] == pytest.approx(
    np.square(shaped).mean(), rel=1e-4
  )
  _, metrics, _ = one.step(state)
  assert tiny.numbers(metrics)["skipped_updates"] == 0.0


def test_a_proxy_imitates_preferences():
  """e = (1, 0) and equal scores: .110944; 0 where they differ alike."""
  mask = np.array([True, True, True, False])
  e = np.array([1.0, 1.0, -2.0, np.nan])
  l = np.array([0.0, 4.0, 0.5, np.nan])
  zeros = np.zeros(4)
  p, q = (1 / (1 + np.exp(-x)) for x in (e, l))
  want = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
  for rows in (slice(1), slice(4)):
    mean, metrics = players.imitated_preference(
      l[rows], zeros[rows], e[rows], zeros[rows], mask[rows]
    )
    np.testing.assert_allclose(mean.value(), np.nanmean(want[rows]), rtol=1e-5)
  np.testing.assert_allclose(want[0], 0.110944, atol=1e-6)
  np.testing.assert_allclose(metrics["agreement"].value(), 1 / 3, rtol=1e-6)
  same, _ = players.imitated_preference(e, zeros, e, zeros, mask)
  assert same.value() == 0


def test_sums_of_steps_are_logits_and_orders():
  steps = RNG.normal(0, 1, (4, 3))
  rival = RNG.normal(0, 1, (4, 3))
  signal = np.array([1.0, 0.0, 0.25, np.nan])
  other = np.array([0.5, 0.5, 0.25, 0.0])
  mask = np.array([True, True, True, False])
  p = 1 / (1 + np.exp(-steps.sum(1)))
  want = -(signal * np.log(p) + (1 - signal) * np.log(1 - p))[:3].mean()
  mean, _ = players.implied_outcome(steps, signal, mask)
  np.testing.assert_allclose(mean.value(), want, rtol=1e-5)
  gap = (steps - rival).sum(1)
  mean, metrics = players.ordered(steps, rival, signal, other, mask)
  want = (np.log1p(np.exp(-gap[0])) + np.log1p(np.exp(gap[1]))) / 2
  np.testing.assert_allclose(mean.value(), want, rtol=1e-5)
  assert mean.weight == 2  # a tie says nothing
  right = int(gap[0] > 0) + int(gap[1] < 0)
  np.testing.assert_allclose(metrics["accuracy"].value(), right / 2)


def surrogate_arrays():
  v, first, noise, x0 = RNG.normal(size=(4, 6, 3))
  index = np.array([0, 1, 0, 1, 0, 1])
  signal = np.array([1.0, 0.3, 0.0, 0.9, 0.4, np.nan])
  mask = np.array([1, 1, 1, 1, 1, 0], bool)
  return v, first, noise, x0, index, signal, mask


def surrogate_value(v, first, noise, x0, index, signal, mask, beta, clip):
  """Mean softplus(z) / beta over rows' groups, in float64."""
  error = lambda v: np.square(v - (noise - x0)).mean(1)
  gain, total = error(v) - error(first), 0.0
  for k in set(index[mask]):
    rows = mask & (index == k)
    r = signal[rows]
    a = np.clip((r - r.mean()) / (r.std() + 1e-4), -clip, clip)
    total += rows.sum() * np.log1p(np.exp(beta * (a * gain[rows]).mean()))
  return total / beta / mask.sum()


@pytest.mark.turns(2)
def test_a_surrogate_has_the_gradient_of_its_group_preference():
  v, first, noise, x0, index, signal, mask = surrogate_arrays()
  beta, clip = 2.0, 1.1
  gain = np.square(v - (noise - x0)).mean(1)
  gain = gain - np.square(first - (noise - x0)).mean(1)
  pull = players.preference_pull(
    gain.reshape(3, 2), signal.reshape(3, 2), mask.reshape(3, 2),
    index.reshape(3, 2), beta=beta, clip=clip,
  ).reshape(6)  # fmt: skip
  bad = np.where(mask[:, None], 0, np.nan)

  def loss(v, reference, most):
    return players.preferred_matching(
      v + bad, first + bad, noise, x0, pull, mask, reference=reference,
      most=most,
    )[0].value()  # fmt: skip

  slopes = jax.grad(loss)
  want = numeric_gradient(
    lambda v: surrogate_value(
      v, first, noise, x0, index, signal, mask, beta, clip
    ),
    v,
  )
  v32 = v.astype(np.float32)
  plain = slopes(v32, 0.0, 1e9)
  np.testing.assert_allclose(plain, want, rtol=1e-4, atol=1e-6)
  tied = slopes(v32, 0.5, 1e9) - plain
  far = 0.5 * 2 / 3 / 5 * (v - first) * mask[:, None]
  np.testing.assert_allclose(tied, far, rtol=1e-4, atol=1e-6)
  stopped = slopes(v32, 0.0, 0.0)  # any distance is too far
  moved_right = np.asarray(pull) * gain < 0
  np.testing.assert_array_equal(
    np.any(stopped, 1), mask & ~moved_right & (np.asarray(pull) != 0)
  )


def test_parts_of_the_return_are_recovered():
  """R = sum_t w . z_t: least squares on the features finds w."""
  path = RNG.normal(0, 1, (40, 5, 3, 3, 2)).astype(np.float32)
  z = np.asarray(players.features(path), np.float64)
  assert z.shape == (40, 4, 6)
  flat = path.reshape(40, 5, -1).astype(np.float64)
  np.testing.assert_allclose(z[:, :, 2], flat[:, 1:].std(-1), rtol=1e-4)
  np.testing.assert_allclose(z[:, -1, 5], 1, rtol=1e-5)  # with itself
  w = RNG.normal(0, 1, 6)
  total = z.sum(1)
  found = np.linalg.lstsq(total, total @ w, rcond=None)[0]
  np.testing.assert_allclose(found, w, atol=1e-4)
  player = players.return_parts(hidden=0)
  params = {"out": {"kernel": jnp.asarray(w[:, None], jnp.float32)}}
  rows = {"path": path}
  got = players.Arrays(player, params, rows)("step_rewards")
  np.testing.assert_allclose(got, z @ w, rtol=1e-3, atol=1e-4)
  loss, _ = players.adds_up(got, total @ w, np.ones(40, bool))
  assert loss.value() < 1e-6
