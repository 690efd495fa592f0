"""What heads make of their own outputs, and sums of losses, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxreward import reward_models as rm

F = np.float32
RNG = np.random.default_rng(0)
JOINT = RNG.normal(size=(4, 3, 5)).astype(F)
MASK = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], bool)
PROB = (RNG.random((4, 3, 3)) > 0.5).astype(F)
ARRAYS = {"joint": JOINT, "prompt": JOINT[:, 0], "prob": PROB, "mask": MASK}


def outputs(name, arrays=ARRAYS, **options):
  """Outputs in float64, of a head whose parameters are not those of its start."""
  head = rm.HEADS[name](**options)
  params = head.init(jax.random.key(0), arrays)
  noise = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: x + noise.normal(size=x.shape).astype(F), params
  )
  found = jax.jit(head.outputs)(params, arrays)
  return {name: np.asarray(x, np.float64) for name, x in found.items()}


def over_others(x):
  """Mean [P, G] of x [P, image, other] over the other images that are there."""
  mean = np.zeros(x.shape[:2])
  for p, i in np.ndindex(*mean.shape):
    others = [j for j in range(3) if j != i and MASK[p, j]]
    mean[p, i] = x[p, i, others].mean()
  return mean


def test_the_expected_progress():
  share = np.array([0.2, 0.5, 0.3])
  out = outputs("stages", shares=tuple(share))
  p = scipy.special.softmax(out["stage_logits"], -1)
  at = np.array([0, 0.2, 0.7]) + share * out["progress"][..., None]
  np.testing.assert_allclose(out["value"], (p * at).sum(-1), rtol=1e-5)


def test_a_better_or_a_good_pair_counts_for_an_image():
  out = outputs("outcomes")
  better, worse, good, bad = np.moveaxis(
    scipy.special.softmax(out["pair_logits"], -1), -1, 0
  )
  want = over_others(better - worse + good - bad)
  np.testing.assert_allclose(out["value"], want, rtol=1e-4, atol=1e-6)


def test_an_image_is_scored_beside_every_other():
  out = outputs("beside_reference")  # [reference, image]
  want = over_others(out["pair_scores"].swapaxes(1, 2))
  np.testing.assert_allclose(out["value"], want, rtol=1e-4, atol=1e-6)


def test_gates_weigh_aspects_and_cool_down():
  out = outputs("experts", sizes=(2, 1))
  value = np.einsum("pa,pga->pg", out["aspect_weights"], out["aspect_scores"])
  np.testing.assert_allclose(out["value"], value, rtol=1e-4)
  cool = outputs("experts", sizes=(2, 1), temperature=2.0)["aspect_weights"]
  gap = lambda w: np.log(w[:, 0] / w[:, 1])
  np.testing.assert_allclose(
    gap(cool), gap(out["aspect_weights"]) / 2, rtol=1e-3
  )


def test_aspects_may_be_positive():
  plain, positive = (outputs("aspects", positive=x) for x in (False, True))
  want = np.logaddexp(0, plain["aspect_scores"])
  np.testing.assert_allclose(positive["aspect_scores"], want, rtol=1e-4)
  np.testing.assert_allclose(positive["value"], want.mean(-1), rtol=1e-4)


@pytest.mark.turns(2)
def test_a_latent_is_drawn_and_its_kl_is_that_of_the_users_rows():
  """Of one user and large noise, z moves with the keys; alone it has no KL."""
  user = np.array([0, 0, 0, 1])
  keys = lambda n: {"keys": jax.random.split(jax.random.key(n), 4)}
  arrays = ARRAYS | {"user": user}
  quiet = outputs("latent", arrays, width=3)
  first, second = (outputs("latent", arrays | keys(n), width=3) for n in (1, 2))
  moved = np.abs(first["value"] - second["value"]).max(-1)
  assert (moved[:3] > 1e-4).all() and moved[3] == 0
  np.testing.assert_array_equal(first["kl"], quiet["kl"])
  assert (quiet["kl"][:3] > 0).all() and quiet["kl"][3] == 0


def test_the_kl_is_added_to_the_mean_of_pairs():
  scores, kl = RNG.normal(size=(5, 2)).astype(F), F([0.5, 1.5])
  prob = F([1, 0, 0.5, np.nan, 1])
  plain = float(rm.bradley_terry(scores, prob).value())
  found = float(rm.variational(scores, prob, kl, beta=0.1).value())
  assert found == pytest.approx(plain + 0.1, rel=1e-5)


def test_every_term_of_a_mixture_of_experts():
  d, s = RNG.normal(size=(1, 2)), RNG.normal(size=(1, 2))
  ratings, criteria = RNG.random((1, 2)), RNG.normal(size=(1, 2, 3))
  aspects, v = RNG.normal(size=(1, 2, 2)), np.array([[0.6, 0.4]])
  member = np.array([[[1, 0], [1, 0], [0, 1]]])
  known = np.array([[[0.1, 0.5, np.nan], [0.7, np.nan, np.nan]]])
  mse = np.nanmean((criteria - known) ** 2)
  of_first = np.array([0.3, 0.7])  # the second aspect has no label
  want = (
    np.logaddexp(0, -(d[0, 0] - d[0, 1]))
    + np.mean((s - ratings) ** 2)
    + 0.3 * mse
    + 0.3
    * (
      0.3 * mse
      + np.mean((aspects[0, :, 0] - of_first) ** 2)
      + np.logaddexp(0, aspects[0, 0, 0] - aspects[0, 1, 0])
    )
    - 0.3 * np.log(0.6 + 1e-5)
  )
  single = (d, s, ratings, criteria, aspects, v, member, known)
  d, s, ratings, *rest = (jnp.asarray(x, jnp.float32) for x in single)
  loss = rm.mixed_experts(d, jnp.ones(1), s, ratings, *rest)
  assert float(loss.value()) == pytest.approx(want, rel=1e-5)
