"""Losses of rows, aspects and users, and their heads, against float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxreward import reward_models as rm
from jaxreward.data import preferences, tastes
from jaxreward.errors import UserError
from jaxreward.reward_models import gaussian_losses, user_heads

RNG = np.random.default_rng(0)
F = np.float32
WINS = F([[np.nan, 1], [0, np.nan]])  # labels of two images


def log_sigmoid(x):
  return -np.logaddexp(0.0, -np.asarray(x, np.float64))


def log_softmax(x):
  return x - scipy.special.logsumexp(x, -1, keepdims=True)


def value(mean):
  return float(mean.value())


def slopes(loss, x, at, h=1e-2):
  """The gradient of a loss at some entries, by central differences."""
  x = np.asarray(x, F)
  grad = np.asarray(jax.grad(lambda x: loss(x).value())(jnp.asarray(x)))
  for place in at:
    step = np.zeros_like(x)
    step[place] = h
    up, down = value(loss(x + step)), value(loss(x - step))
    np.testing.assert_allclose(grad[place], (up - down) / (2 * h), atol=2e-3)


def test_focal_and_fidelity_at_known_values():
  d, p = np.array([1.0, -0.5, 3.0]), np.array([1.0, 0.0, 0.5])
  scores = np.stack([d, 0 * d], -1).astype(F)
  q = 1 / (1 + np.exp(-d))
  each = -p * (1 - q) ** 2 * np.log(q) - (1 - p) * q**2 * np.log(1 - q)
  assert value(rm.focal(scores, p.astype(F))) == pytest.approx(each.mean())
  plain = value(rm.bradley_terry(scores, p.astype(F)))
  assert value(rm.focal(scores, p.astype(F), gamma=0.0)) == pytest.approx(plain)
  phi = scipy.stats.norm.cdf(d / math.sqrt(0.5))
  each = 1 - np.sqrt(p * phi) - np.sqrt((1 - p) * (1 - phi))
  stds = np.full((3, 2), 0.5, F)
  loss = rm.fidelity(scores, stds, p.astype(F))
  assert value(loss) == pytest.approx(each.mean(), abs=1e-6)
  slopes(lambda s: rm.focal(s, p.astype(F)), scores, [(0, 0), (1, 1)])
  slopes(lambda s: rm.fidelity(s, stds, p.astype(F)), scores, [(0, 0), (2, 1)])


@pytest.mark.turns(2)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_far_scores_stay_finite(dtype):
  scores = jnp.asarray([[1e4, 0], [-1e4, 0], [0, 0]], dtype)
  stds, kl = jnp.ones((3, 2), dtype), jnp.ones(3)
  keys = jax.random.split(jax.random.key(0), 3)
  losses = {
    "focal": rm.focal, "variational": lambda s: rm.variational(s, 1.0, kl),
    "fidelity": lambda s: rm.fidelity(s, stds),
    "contrast": lambda s: rm.contrast_policy(
      s[:, None], stds[:, None], jnp.ones((3, 1)), keys
    ),
    "rank": lambda s: rm.rank_policy(
      s, stds, jnp.broadcast_to(WINS, (3, 2, 2)), keys
    ),
    "concordant": lambda s: rm.concordant_policy(
      s, stds, jnp.broadcast_to(WINS, (3, 2, 2)), keys
    ),
  }  # fmt: skip
  for name, loss in losses.items():
    total, slope = jax.value_and_grad(lambda s, f=loss: f(s).total)(scores)
    assert np.isfinite(total) and jnp.isfinite(slope).all(), name


def test_sampled_scores_are_rewarded_by_what_they_beat():
  won, lost = gaussian_losses.contrast_rewards(F([3, 4, 2]), F([1, 3, 2]))
  np.testing.assert_allclose(won, [2 / 3, 1, 1 / 3], rtol=1e-6)
  np.testing.assert_allclose(lost, [1, 1 / 3, 2 / 3], rtol=1e-6)
  # Gradient steps part the means of the better and the worse image.
  mean, stds = jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 2))
  loss = lambda m, key: rm.contrast_policy(
    m, stds, jnp.zeros((1, 1)), key[None], samples=32
  ).value()
  step = jax.jit(lambda m, i: m - 0.2 * jax.grad(loss)(m, jax.random.key(i)))
  for i in range(20):
    mean = step(mean, i)
  assert float(mean[0, 0, 1] - mean[0, 0, 0]) > 1.0  # the second was preferred


@pytest.mark.turns(2)
def test_sampled_scores_are_rewarded_by_the_fidelity_of_their_ranks():
  tau, g = RNG.normal(size=(2, 3, 4)), RNG.random((2, 3, 3))
  g[:, range(3), range(3)] = g[0, 1, 2] = np.nan
  want = np.zeros(tau.shape)
  for r, i, n in np.ndindex(tau.shape):
    terms = []
    for z in np.flatnonzero(np.isfinite(g[r, i])):
      var = tau[r, [i, z]].var(-1, ddof=1).sum() + 1e-6
      p = scipy.stats.norm.cdf((tau[r, i, n] - tau[r, z].mean()) / var**0.5)
      agree, other = p * g[r, i, z], (1 - p) * (1 - g[r, i, z])
      terms.append(math.sqrt(agree + 1e-6) + math.sqrt(other + 1e-6))
    want[r, i, n] = np.mean(terms)
  rewards = gaussian_losses.fidelity_rewards
  np.testing.assert_allclose(rewards(F(tau), F(g)), want, rtol=1e-5)
  shifted = rewards(F(tau + 2), F(g))  # common to all scores
  np.testing.assert_allclose(shifted, want, rtol=1e-5)
  h = math.sqrt(1 / 8)  # variance 1/4 of both
  pair = F([[[4, 4 - 2 * h], [3 + h, 3 - h]]])
  for wins, known in ((WINS, 0.960870), (1 - WINS, 0.281448)):
    got = rewards(pair, wins[None])[0, 0, 0]
    assert float(got) == pytest.approx(known, abs=2e-5)
  # Gradient steps order the means of three images as their labels do.
  mean, stds = jnp.zeros((1, 3)), jnp.ones((1, 3))
  order = np.sign(np.subtract.outer([1, 0, 2], [1, 0, 2])) / 2 + 0.5
  order[range(3), range(3)] = np.nan
  loss = lambda m, key: rm.rank_policy(
    m, stds, F(order[None]), key[None], samples=32
  ).value()
  step = jax.jit(lambda m, i: m - 0.2 * jax.grad(loss)(m, jax.random.key(i)))
  for i in range(20):
    mean = step(mean, i)
  assert list(np.argsort(mean[0])) == [1, 0, 2]


def test_sampled_scores_are_rewarded_by_the_pairs_they_order():
  order = np.array([2, 0, 1])  # the first image is the best
  g = np.sign(np.subtract.outer(order, order)) / 2 + 0.5
  g[range(3), range(3)] = np.nan
  tau = np.stack([order, -order, 0 * order], -1)[None]
  rewards = np.asarray(gaussian_losses.concordant(F(tau), F(g[None])))[0]
  np.testing.assert_allclose(rewards.mean(0), [1, 0, 0.5])
  tied = g.copy()
  tied[0, 2] = tied[2, 0] = 0.5  # nobody is told to order these
  crossed = F([[[1], [0], [2]]])
  rewards = gaussian_losses.concordant(crossed, F(tied[None]))
  np.testing.assert_allclose(rewards[0, :, 0], [1, 1, 1])
  draws = RNG.normal(size=(1, 3, 4000))
  by_chance = gaussian_losses.concordant(F(draws), F(g[None])).mean()
  np.testing.assert_allclose(by_chance, 0.5, atol=0.02)
  mean, stds = jnp.zeros((1, 3)), jnp.ones((1, 3))
  loss = lambda m, key: rm.concordant_policy(
    m, stds, F(g[None]), key[None], samples=32
  ).value()
  step = jax.jit(lambda m, i: m - 0.2 * jax.grad(loss)(m, jax.random.key(i)))
  for i in range(20):
    mean = step(mean, i)
  assert list(np.argsort(mean[0])) == [1, 2, 0]


def test_aspects_by_rating_and_order():
  scores, ratings = RNG.normal(size=(2, 3, 2)), RNG.random((2, 3, 2))
  ratings[0, 1, 0] = np.nan
  error = np.nanmean((scores - ratings) ** 2)
  order = [
    -log_sigmoid(scores[r, i, a] - scores[r, j, a])
    for r, i, j, a in np.ndindex(2, 3, 3, 2)
    if ratings[r, i, a] > ratings[r, j, a]
  ]
  loss = lambda s, w=0.5: rm.aspect_ratings_and_order(
    s, ratings.astype(F), order_weight=w
  )
  want = error + 0.5 * np.mean(order)
  assert value(loss(scores.astype(F))) == pytest.approx(want, rel=1e-5)
  slopes(loss, scores, [(0, 0, 0), (0, 1, 0), (1, 2, 1)])


def test_answers_per_aspect():
  """Two rows of three images; a tie, and pairs that nobody answered."""
  scores = RNG.normal(size=(2, 3, 2))
  prob = np.full((2, 3, 3, 2), np.nan, F)
  for r, i, j, a, p in ((0, 0, 1, 0, 1), (0, 1, 2, 1, 0), (1, 0, 2, 0, 0.5)):
    prob[r, i, j, a], prob[r, j, i, a] = p, 1 - p
  d = lambda r, i, j, a: scores[r, i, a] - scores[r, j, a]
  tie = d(1, 0, 2, 0)
  want = -np.mean([
    log_sigmoid(d(0, 0, 1, 0)), log_sigmoid(-d(0, 1, 2, 1)),
    (log_sigmoid(tie) + log_sigmoid(-tie)) / 2,
  ])  # fmt: skip
  loss = lambda s: rm.aspect_answers(s, prob)
  assert value(loss(scores.astype(F))) == pytest.approx(want, rel=1e-5)
  slopes(loss, scores, [(0, 0, 0), (0, 2, 1), (1, 2, 0)])
  nobody = rm.aspect_answers(scores.astype(F), np.full_like(prob, np.nan))
  assert float(nobody.total) == float(nobody.weight) == 0


def test_stages_and_progress():
  shares = np.array([0.2, 0.5, 0.3], F)
  logits, tau = RNG.normal(size=(1, 4, 3)), RNG.random((1, 4))
  ratings = np.array([[0.1, 0.45, 1.0, np.nan]], F)
  stage, want_tau = (0, 1, 2), (0.5, 0.5, 1.0)
  log_p = log_softmax(logits)[0]
  want = np.mean([
    -log_p[i, stage[i]] + 2 * (tau[0, i] - want_tau[i]) ** 2 for i in range(3)
  ])  # fmt: skip
  loss = lambda x: rm.stage_and_progress(
    x, tau.astype(F), shares[None], ratings, progress_weight=2.0
  )
  assert value(loss(logits.astype(F))) == pytest.approx(want, rel=1e-5)
  slopes(loss, logits, [(0, 0, 0), (0, 2, 1)])


def test_four_outcomes():
  logits = RNG.normal(size=(6, 4))
  label = np.array([1, 0, 0.5, 0.5, 0.5, np.nan], F)
  ratings = F([[1, 0], [0, 1], [1, 1], [0, 0], [np.nan, 1], [1, 1]])
  log_p = log_softmax(logits)
  want = -np.mean([log_p[i, c] for i, c in enumerate((0, 1, 2, 3))])
  loss = lambda x: rm.four_outcomes(x, label, ratings)
  mean = loss(logits.astype(F))
  assert value(mean) == pytest.approx(want, rel=1e-5) and mean.weight == 4
  # Without ties, and logits +-u/2, Bradley-Terry.
  u = RNG.normal(size=5)
  low = np.stack([u / 2, -u / 2, 0 * u - 50, 0 * u - 50], -1).astype(F)
  bt = rm.bradley_terry(np.stack([u, 0 * u], -1).astype(F))
  four = rm.four_outcomes(low, 1.0, np.ones((5, 2), F))
  assert value(four) == pytest.approx(value(bt), rel=1e-5)
  slopes(loss, logits, [(0, 0), (2, 3), (4, 1)])


def test_the_same_policy_is_nearer_than_another():
  r, source = RNG.normal(size=(1, 4, 4)), np.array([[0, 0, 1, 2]])
  want = np.mean([
    -log_sigmoid(r[0, i, j] - r[0, i, k])
    for i, j in ((0, 1), (1, 0)) for k in (2, 3)
  ])  # fmt: skip
  mean = rm.same_policy(r.astype(F), source)
  assert value(mean) == pytest.approx(want, rel=1e-5) and mean.weight == 4
  slopes(lambda x: rm.same_policy(x, source), r, [(0, 0, 1), (0, 1, 2)])


def test_images_match_their_own_prompts():
  cross, prob = RNG.normal(size=(3, 2, 3)), np.full((3, 2, 2), np.nan, F)
  prob[:, 0, 1], prob[:, 1, 0] = F([1, 0, 1]), F([0, 1, 0])
  s = cross[np.arange(3), [0, 1, 0]]
  costs = [
    max(0, 0.5 - s[k, k] + s[k, j]) + max(0, 0.5 - s[k, k] + s[j, k])
    for k in range(3) for j in range(3) if j != k
  ]  # fmt: skip
  loss = lambda x: rm.hinge_matching(x, prob, margin=0.5)
  mean = value(loss(cross.astype(F)))
  assert mean == pytest.approx(sum(costs) / 6, rel=1e-5)
  hard = value(
    rm.hinge_matching(cross.astype(F), prob, margin=0.5, hardest=True)
  )
  assert hard >= mean
  diagonal = np.zeros((3, 2, 3), F)
  diagonal[np.arange(3), :, np.arange(3)] = 1.0
  assert value(rm.hinge_matching(diagonal, prob, margin=0.9)) == 0
  rows = log_softmax(s)[np.arange(3), np.arange(3)]
  columns = log_softmax(s.T)[np.arange(3), np.arange(3)]
  contrast = value(rm.contrastive(cross.astype(F), prob))
  assert contrast == pytest.approx(-(rows + columns).mean() / 2, rel=1e-5)


def features(rows=4, group=3, width=5):
  rng = np.random.default_rng(0)
  joint = rng.normal(size=(rows, group, width)).astype(F)
  prob = np.asarray(rng.random((rows, group, group)) > 0.5, F)
  return {
    "joint": joint, "prompt": joint[:, 0], "prob": prob,
    "user": np.array([0, 0, 1, 1]), "keys": jax.random.split(jax.random.key(1), rows),
  }  # fmt: skip


def shaken(head, arrays, scale=0.5):
  params = head.init(jax.random.key(0), arrays)
  rng = np.random.default_rng(2)
  return jax.tree.map(
    lambda x: x + scale * rng.normal(size=x.shape).astype(F), params
  )


@pytest.mark.turns(2)
def test_gates_follow_the_prompt_and_unlabeled_aspects_close():
  head, arrays = rm.HEADS["experts"](sizes=(2, 1)), features()
  out = head.outputs(shaken(head, arrays), arrays)
  np.testing.assert_allclose(out["aspect_weights"].sum(-1), 1, rtol=1e-5)
  # An aspect of one criterion is that criterion; the other a mean of two.
  criteria, aspects = (
    np.asarray(out["criteria"]),
    np.asarray(out["aspect_scores"]),
  )
  np.testing.assert_allclose(aspects[..., 1], criteria[..., 2], rtol=1e-5)
  low, high = criteria[..., :2].min(-1), criteria[..., :2].max(-1)
  assert (aspects[..., 0] >= low - 1e-6).all()
  assert (aspects[..., 0] <= high + 1e-6).all()
  one = rm.HEADS["experts"](sizes=(1,))
  out = one.outputs(shaken(one, arrays), arrays)
  np.testing.assert_allclose(out["value"], out["criteria"][..., 0], rtol=1e-5)
  # The gate's gradient lowers the aspect without labels alone.
  labels = np.full((1, 2, 2), 0.5, F)
  labels[..., 1] = np.nan
  member = np.eye(2, dtype=F)[None]
  zeros = np.zeros((1, 2), F)
  loss = lambda v: rm.mixed_experts(
    zeros, F([1.0]), zeros, zeros, labels, labels * 0 + 0.5, v, member, labels
  ).value()
  np.testing.assert_allclose(
    jax.grad(loss)(F([[0.5, 0.5]])), [[0, 0.3 / (0.5 + 1e-5)]], rtol=1e-4
  )


@pytest.mark.turns(2)
def test_outcomes_swap_with_the_images():
  head, arrays = rm.HEADS["outcomes"](), features()
  out = head.outputs(shaken(head, arrays), arrays)
  p = np.asarray(jax.nn.softmax(out["pair_logits"], -1))
  np.testing.assert_allclose(p[..., 0], p[..., 1].swapaxes(1, 2), atol=1e-6)
  np.testing.assert_allclose(p[..., 2:], p[..., 2:].swapaxes(1, 2), atol=1e-6)
  alone = {"joint": arrays["joint"][:, :1]}
  assert np.isfinite(head.outputs(shaken(head, arrays), alone)["value"]).all()


@pytest.mark.turns(2)
def test_a_mixture_is_a_distance_and_prototypes_permute():
  point, ideal = jnp.eye(2), jnp.array([0.8, 0.6])
  gap = user_heads.distance(point, ideal)
  assert float(gap[1] - gap[0]) == pytest.approx(0.261972, abs=1e-5)
  head, arrays = rm.HEADS["ideal_point"](users=2, prototypes=3), features()
  params = shaken(head, arrays)
  order = np.array([2, 0, 1])
  other = params | {
    "prototypes": params["prototypes"][order], "users": params["users"][:, order]
  }  # fmt: skip
  values = [head.outputs(p, arrays)["value"] for p in (params, other)]
  np.testing.assert_allclose(*values, rtol=1e-5)
  average = head.outputs(params, arrays | {"user": np.full(4, -1)})["value"]
  even = head.outputs(params, arrays | {"taste": np.zeros((4, 3), F)})["value"]
  np.testing.assert_allclose(average, even, rtol=1e-6)


@pytest.mark.turns(2)
def test_a_latent_depends_on_the_user_s_other_rows_alone():
  golden = user_heads.gaussian_kl(F([0.5, -0.5]), F([0, math.log(0.5)]))
  assert float(golden) == pytest.approx(0.346574, abs=1e-6)
  head, arrays = rm.HEADS["latent"](width=4), features()
  params = shaken(head, arrays)
  run = jax.jit(lambda a: head.outputs(params, a)["value"])
  base = run(arrays)
  changed = arrays["prob"].copy()
  changed[0] = 1 - changed[0]  # of row 0, by user 0
  moved = np.abs(np.asarray(run(arrays | {"prob": changed}) - base)).max(-1)
  assert moved[1] > 1e-5 and (moved[[0, 2, 3]] < 1e-6).all()
  taste = head.adapt(params, arrays, np.zeros((4, 3)))
  assert float(jnp.linalg.norm(taste)) == pytest.approx(2.0, rel=1e-3)
  turned = {k: arrays[k][::-1] for k in ("joint", "prob")}
  np.testing.assert_allclose(
    head.adapt(params, turned, np.zeros((4, 3))), taste, atol=1e-5
  )


def test_a_new_user_is_a_ridge_fit():
  head, arrays = rm.HEADS["personal"](users=2, width=3, ridge=0.5), features()
  params = shaken(head, arrays)
  raw = head.outputs(params, arrays | {"taste": np.zeros((4, 4), F)})["value"]
  columns = [
    head.outputs(params, arrays | {"taste": np.tile(row, (4, 1))})["value"]
    - raw
    for row in np.eye(4, dtype=F)
  ]
  x = np.stack(columns, -1).reshape(-1, 4).astype(np.float64)
  ratings = RNG.random((4, 3)).astype(F)
  ratings[0, 1] = np.nan
  y = (ratings - np.asarray(raw)).reshape(-1)
  keep = np.isfinite(y)
  x, y = x[keep], y[keep]
  want = np.linalg.solve(x.T @ x + 0.5 * np.eye(4), x.T @ y)
  np.testing.assert_allclose(
    head.adapt(params, arrays, ratings), want, atol=1e-3
  )


@pytest.mark.turns(2)
def test_opposite_users_are_told_apart_and_met_by_comparisons():
  """Two groups want the opposite of one feature; a pooled score is at chance."""
  rng = np.random.default_rng(3)
  joint = rng.normal(size=(64, 2, 3)).astype(F)
  user = np.arange(64) % 4
  first = (joint[:, 0, 0] > joint[:, 1, 0]) ^ (user % 2 == 1)
  prob = np.full((64, 2, 2), np.nan, F)
  prob[:, 0, 1], prob[:, 1, 0] = first, ~first
  head = rm.HEADS["ideal_point"](users=4, prototypes=2, width=4, hidden=0)
  arrays = {"joint": joint, "prob": prob, "user": user}
  params = head.init(jax.random.key(0), arrays)

  @jax.jit
  def step(params):
    loss = lambda p: rm.bradley_terry(
      head.outputs(p, arrays)["value"], first.astype(F)
    ).value()
    return jax.tree.map(
      lambda x, g: x - 0.5 * g, params, jax.grad(loss)(params)
    )

  for _ in range(300):
    params = step(params)

  def accuracy(extra):
    v = np.asarray(head.outputs(params, {"joint": joint} | extra)["value"])
    return ((v[:, 0] > v[:, 1]) == first).mean()

  assert accuracy({"user": user}) > 0.95
  assert 0.3 < accuracy({"user": np.full(64, -1)}) < 0.7
  mine = user == 1  # as somebody new, by 16 comparisons
  some = {k: arrays[k][mine] for k in ("joint", "prob")}
  taste = head.adapt(params, some, np.zeros((16, 2)))
  alike = user % 2 == 1  # and others of the same taste
  v = head.outputs(
    params, {"joint": joint[alike], "taste": np.tile(taste, (32, 1))}
  )["value"]
  assert ((v[:, 0] > v[:, 1]) == first[alike]).mean() > 0.9


def test_planted_users():
  rows = preferences.Preferences(
    *[np.zeros((4, 2), F)] * 2, np.zeros(4, np.int32), *[np.zeros((4, 2))] * 4,
    np.zeros(2, np.int32), aspects=np.full((4, 2, 1), 0.9, F),
  )  # fmt: skip
  labelled = tastes.planted(rows, 2, 0.5, 0)
  want = np.where(np.asarray(labelled.user)[:, None] == 0, 0.45, 0.05)
  np.testing.assert_allclose(labelled.score, want * np.ones((4, 2)), rtol=1e-5)
  assert sorted(np.asarray(labelled.user).tolist()) == [0, 0, 1, 1]


@pytest.mark.parametrize(
  ("make", "words"),
  [
    (lambda: rm.HEADS["aspects"](count=0), "count=0"),
    (lambda: rm.HEADS["experts"](sizes=(2, 0)), "sizes="),
    (lambda: rm.HEADS["stages"](shares=(0.5, 0.6)), "add up"),
    (lambda: rm.HEADS["ideal_point"](users=0), "users=0"),
    (lambda: rm.HEADS["personal"](ridge=0.0), "ridge=0"),
    (lambda: rm.HEADS["latent"](width=0), "width=0"),
    (lambda: rm.focal(np.zeros((1, 2), F), gamma=-1.0), "gamma=-1"),
  ],
)
def test_options_that_mean_nothing(make, words):
  with pytest.raises(UserError, match=words):
    make()
