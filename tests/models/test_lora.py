"""Adapters: step 0 is the base, fused equals adapted, only adapters learn."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models import lora
from jaxreward.types import Policy

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (5, 4))
RANK, ALPHA = 2, 6.0


class Block(nn.Module):
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, _):
    h = nn.Dense(8, name="up", dtype=self.dtype)(nn.LayerNorm(name="norm")(x))
    h = nn.Dense(x.shape[-1], name="down", dtype=self.dtype)(jax.nn.relu(h))
    return (x + h).astype(x.dtype), None


class Net(nn.Module):
  """Scanned and rematerialised blocks, a head from setup, used twice."""

  remat: bool = True
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    block = nn.remat(Block, prevent_cse=False) if self.remat else Block
    self.blocks = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=3,
    )(self.dtype)
    self.head = nn.Dense(4, dtype=self.dtype)

  def __call__(self, x):
    x, _ = self.blocks(x, None)
    return self.head(self.head(x))


def functions(**kwargs):
  net = Net(**kwargs)
  init = jax.jit(lambda key: net.init(key, X)["params"])
  apply = lambda params, x: net.apply({"params": params}, x)
  return init, apply


def adapted(targets=".*", **kwargs):
  init, apply = functions(**kwargs)
  wrap = lambda f: lora.with_lora(f, rank=RANK, alpha=ALPHA, targets=targets)
  return jax.jit(wrap(init.__wrapped__)), wrap(apply)


def busy(params, seed=7):
  """Adapters with B away from zero."""
  base, adapter = lora.split(params)
  leaves, tree = jax.tree.flatten(adapter)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  drawn = [
    0.3 * jax.random.normal(key, leaf.shape)
    for key, leaf in zip(keys, leaves, strict=True)
  ]
  return lora.merge(base, jax.tree.unflatten(tree, drawn))


def equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_names_and_shapes():
  params = adapted()[0](KEY)
  shapes = jax.tree.map(jnp.shape, lora.split(params)[1])
  assert shapes == {
    "blocks": {
      "up": {"lora": {"a": (3, 4, RANK), "b": (3, RANK, 8)}},
      "down": {"lora": {"a": (3, 8, RANK), "b": (3, RANK, 4)}},
    },
    "head": {"lora": {"a": (4, RANK), "b": (RANK, 4)}},
  }
  for leaf in jax.tree.leaves(lora.split(params)[1]):
    assert leaf.dtype == jnp.float32


@pytest.mark.turns(3)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("remat", [True, False])
def test_step_zero_is_the_base_bit_for_bit(remat, dtype):
  init, apply = functions(remat=remat, dtype=dtype)
  lora_init, lora_apply = adapted(remat=remat, dtype=dtype)
  plain, params = init(KEY), lora_init(KEY)
  base, adapter = lora.split(params)
  equal(base, plain)
  for name in ("up", "down"):
    leaves = adapter["blocks"][name]["lora"]
    assert not np.any(leaves["b"])
    # Each layer draws its own A, within +-1 / sqrt(in).
    bound = 1 / np.sqrt(leaves["a"].shape[1])
    assert np.max(np.abs(leaves["a"])) <= bound
    assert np.max(np.abs(leaves["a"])) > bound / 2
    assert not np.array_equal(leaves["a"][0], leaves["a"][1])
  got, want = jax.jit(lora_apply)(params, X), jax.jit(apply)(plain, X)
  assert got.dtype == want.dtype
  assert np.array_equal(got, want)


def test_one_layer_matches_float64():
  dense = nn.Dense(3)
  wrap = lambda f: lora.with_lora(f, rank=RANK, alpha=ALPHA)
  params = busy(jax.jit(wrap(dense.init))(KEY, X)["params"])
  got = jax.jit(wrap(dense.apply))({"params": params}, X)
  p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
  x = np.asarray(X, np.float64)
  want = x @ p["kernel"] + p["bias"]
  want += ALPHA / RANK * (x @ p["lora"]["a"]) @ p["lora"]["b"]
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.turns(2)
def test_fused_weights_equal_the_adapted_model():
  _, apply = functions()
  lora_init, lora_apply = adapted()
  params = busy(lora_init(KEY))
  fused = lora.fuse(params, alpha=ALPHA)
  assert jax.tree.structure(fused) == jax.tree.structure(lora.split(params)[0])
  apply = jax.jit(apply)
  got, plain = apply(fused, X), apply(lora.split(params)[0], X)
  want = jax.jit(lora_apply)(params, X)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  assert np.max(np.abs(plain - got)) > 0.1


def test_fusing_an_untouched_adapter_changes_nothing():
  params = adapted()[0](KEY)
  equal(lora.fuse(params, alpha=ALPHA), lora.split(params)[0])


@pytest.mark.turns(2)
@pytest.mark.parametrize("remat", [True, False])
def test_gradients_reach_the_adapter_alone_and_are_right(remat):
  lora_init, lora_apply = adapted(remat=remat)
  base, adapter = lora.split(busy(lora_init(KEY)))
  loss = lambda a: jnp.sum(jnp.sin(lora_apply(lora.merge(base, a), X)))
  grads = jax.jit(jax.grad(loss))(adapter)
  assert jax.tree.structure(grads) == jax.tree.structure(adapter)
  for leaf in jax.tree.leaves(grads):
    assert np.any(leaf)
  # The same derivative through the fused plain weights.
  _, apply = functions(remat=remat)
  through = lambda a: jnp.sum(
    jnp.sin(apply(lora.fuse(lora.merge(base, a), alpha=ALPHA), X))
  )
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, rtol=2e-3, atol=2e-4),
    grads,
    jax.jit(jax.grad(through))(adapter),
  )


def test_at_step_zero_only_b_has_gradients():
  lora_init, lora_apply = adapted()
  base, adapter = lora.split(lora_init(KEY))
  loss = lambda a: jnp.sum(jnp.sin(lora_apply(lora.merge(base, a), X)))
  head = jax.jit(jax.grad(loss))(adapter)["head"]["lora"]
  assert np.any(head["b"])
  assert not np.any(head["a"])


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("targets", "found"),
  [
    ("up$", {"blocks/up"}),
    ("blocks/", {"blocks/up", "blocks/down"}),
    ("(down|head)$", {"blocks/down", "head"}),
    ("nothing", set()),
  ],
)
def test_targets_choose_by_path(targets, found):
  params = adapted(targets)[0](KEY)
  paths = {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
  }
  assert {p.removesuffix("/lora/a") for p in paths if p.endswith("/a")} == found


def test_split_and_merge_are_inverse():
  params = adapted()[0](KEY)
  base, adapter = lora.split(params)
  equal(lora.merge(base, adapter), params)
  assert lora.split(base)[1] == {}
  with pytest.raises(ValueError, match="kernel"):
    lora.merge(base, {"head": {"kernel": X}})


@pytest.mark.turns(2)
def test_the_plain_model_is_untouched_afterwards():
  init, apply = functions()
  plain = init(KEY)
  before = apply(plain, X)
  lora_init, lora_apply = adapted()
  lora_apply(lora_init(KEY), X)
  assert np.array_equal(apply(plain, X), before)
  assert not jax.tree.leaves(lora.split(functions()[0](KEY))[1])


def policy_of():
  net = Net()
  apply = lambda p, x: net.apply({"params": p["net"]}, x)
  return Policy(
    init=lambda key: {"net": net.init(key, X)["params"]},
    encode=lambda params, tokens: tokens,
    velocity=lambda params, x, t, cond: apply(params, x) * t[:, None],
    to_pixels=lambda x, decoder=None: x,
    latent_shape=(2, 2, 1),
    sharding_rules=(("(kernel|bias|scale)$", ()),),
  )


@pytest.mark.turns(2)
def test_adapted_policy():
  policy = policy_of()
  new = lora.adapt_policy(policy, rank=RANK, alpha=ALPHA, targets="head")
  params, t = new.init(KEY), jnp.ones(5)
  plain = policy.velocity(policy.init(KEY), X, t, None)
  assert np.array_equal(new.velocity(params, X, t, None), plain)
  moved = new.velocity(busy(params), X, t, None)
  assert not np.allclose(moved, plain, atol=1e-3)
  assert new.sharding_rules[:1] == policy.sharding_rules
  assert len(new.sharding_rules) == 2


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    (dict(targets="query"), "matches no dense layer"),
    (dict(targets="(up"), "lora.targets"),
    (dict(rank=0), "lora.rank is 0"),
  ],
)
def test_errors_name_the_mend(kwargs, message):
  with pytest.raises(UserError, match=message):
    lora.adapt_policy(policy_of(), **(dict(rank=RANK, alpha=ALPHA) | kwargs))
