"""The scene policy: what each output depends on, precision, remat, sizes."""

import functools
import itertools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from jaxreward.errors import UserError
from jaxreward.flow import guidance
from jaxreward.models.policies import scene_dit
from jaxreward.tasks.scenes import grammar
from jaxreward.training import mesh as meshes
from jaxreward.training import sharding
from tests import tiny

SMALL = dict(width=16, depth=2, heads=2, text_layers=1, mlp_ratio=2)
ROWS = 4


def perturb(params, scale=0.1):
  """Moves the parts that start at zero, on which most tests would pass idly."""
  return jax.tree.map(jnp.asarray, tiny.shaken(params, scale, seed=1))


@functools.cache
def start(**kwargs):
  policy = scene_dit.make_policy(**{**SMALL, **kwargs})
  return policy, jax.jit(policy.init)(jax.random.key(0))


@functools.cache
def inputs():
  chosen = grammar.prompts("train")[:: len(grammar.prompts("train")) // ROWS]
  tokens = jnp.asarray(grammar.batch(chosen[:ROWS]).tokens)
  x = jax.random.normal(jax.random.key(2), (ROWS, 36, 36, 3))
  return x, jnp.array([0.0, 0.3, 0.9, 1.0]), tokens


@functools.cache
def program(policy):
  return jax.jit(
    lambda p, x, t, tokens: policy.velocity(p, x, t, policy.encode(p, tokens))
  )


@functools.cache
def gradient(policy):
  def loss(p, x, t, tokens):
    v = policy.velocity(p, x, t, policy.encode(p, tokens))
    return jnp.square(v * t.reshape(-1, 1, 1, 1)).mean()

  return jax.jit(jax.value_and_grad(loss))


def assert_same_slopes(policy, other, params, *given):
  """Losses and gradients of two policies agree to float tolerance."""
  loss, grads = gradient(policy)(params, *given)
  loss2, grads2 = gradient(other)(params, *given)
  np.testing.assert_allclose(loss, loss2, rtol=1e-6)
  scale = max(np.abs(g).max() for g in jax.tree.leaves(grads))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale),
    grads,
    grads2,
  )


@pytest.mark.job
@pytest.mark.turns(3)
def test_output_starts_at_x0_zero():
  policy, params = start()
  x, t, tokens = inputs()
  expected = x / np.maximum(t, scene_dit.T_MIN).reshape(-1, 1, 1, 1)
  np.testing.assert_allclose(
    program(policy)(params, x, t, tokens), expected, rtol=1e-6
  )


@pytest.mark.turns(2)
def test_velocity_is_finite_at_both_ends_and_float32():
  policy, params = start()
  x, t, tokens = inputs()
  v = program(policy)(perturb(params), x, t, tokens)
  assert v.dtype == jnp.float32 and v.shape == x.shape
  assert np.isfinite(v).all()
  loss, grads = gradient(policy)(perturb(params), x, t, tokens)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves((loss, grads)))


def test_velocity_is_the_path_through_the_predicted_x0():
  x, t = np.ones((2, 3, 3, 1)), np.array([0.5, 0.01])
  x0 = np.full_like(x, 0.2)
  v = scene_dit.velocity_from_x0(
    jnp.asarray(x), jnp.asarray(x0), jnp.asarray(t)
  )
  np.testing.assert_allclose(v[0], 0.8 / 0.5, rtol=1e-6)
  np.testing.assert_allclose(v[1], 0.8 / scene_dit.T_MIN, rtol=1e-6)


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_row_depends_on_its_own_sample_alone():
  """The Jacobian of row i by the inputs of row j is zero, and not for j = i."""
  policy, params = start()
  params = perturb(params)
  x, t, tokens = inputs()
  cond = policy.encode(params, tokens)

  @jax.jit
  def jacobian(x, kv, direction):
    _, pull = jax.vjp(
      lambda x, kv: policy.velocity(params, x, t, cond | {"kv": kv}), x, kv
    )
    return pull(direction)

  for row in range(ROWS):
    direction = jnp.zeros_like(x).at[row].set(1.0)
    for grad in jacobian(x, cond["kv"], direction):
      moved = np.abs(np.asarray(grad)).reshape(ROWS, -1).sum(1) > 0
      assert list(np.flatnonzero(moved)) == [row]


def test_prompts_are_encoded_one_by_one():
  policy, params = start()
  params = perturb(params)
  *_, tokens = inputs()
  encode = jax.jit(policy.encode)
  whole = encode(params, tokens)
  for row in range(ROWS):
    alone = encode(params, tokens[row : row + 1])
    jax.tree.map(
      lambda a, b, row=row: np.testing.assert_allclose(a[0], b[row], atol=2e-5),
      alone,
      whole,
    )
  assert not np.allclose(whole["pooled"][0], whole["pooled"][1])


def test_padding_words_change_nothing():
  """Whatever the embedding of <pad> is, a prompt's velocity is the same."""
  policy, params = start()
  params = perturb(params)
  x, t, tokens = inputs()
  other = jax.tree.map(lambda a: a, params)
  table = params["text"]["embedding"]
  ramp = jnp.linspace(-5.0, 5.0, table.shape[1])
  other["text"]["embedding"] = table.at[0].add(ramp)
  assert (tokens == 0).any()
  before = program(policy)(params, x, t, tokens)
  np.testing.assert_array_equal(before, program(policy)(other, x, t, tokens))
  # The empty prompt is made of that word, and does change.
  empty = jnp.zeros_like(tokens)
  blank = [program(policy)(p, x, t, empty) for p in (params, other)]
  assert np.isfinite(blank[0]).all()
  assert np.abs(blank[0] - blank[1]).max() > 1e-3


def test_position_of_padding_changes_nothing():
  policy, params = start()
  params = perturb(params)
  x, t, tokens = inputs()
  one = jnp.zeros_like(tokens).at[:, :2].set(tokens[:, :2])
  other = jax.tree.map(lambda a: a, params)
  place = params["text"]["position"]
  other["text"]["position"] = place.at[2:].add(3.0)
  np.testing.assert_array_equal(
    program(policy)(params, x, t, one), program(policy)(other, x, t, one)
  )


def test_words_and_their_order_matter():
  policy, params = start()
  params = perturb(params)
  x, _, _ = inputs()
  texts = (
    "a circle left of a square",
    "a square left of a circle",
    "a circle above a square",
  )
  tokens = jnp.asarray([grammar.tokenize(text) for text in texts])
  run = program(policy)
  same = jnp.broadcast_to(x[:1], (ROWS, *x.shape[1:]))
  rows = jnp.concatenate([tokens, tokens[:1]])
  v = np.asarray(run(params, same, jnp.full(ROWS, 0.5), rows))
  for a, b in itertools.combinations(range(3), 2):
    assert np.abs(v[a] - v[b]).max() > 1e-3
  np.testing.assert_array_equal(v[0], v[3])


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.parametrize(
  "kwargs",
  [
    {"remat": "dots"},
    {"remat": "full"},
    {"unroll": 2},
    {"remat": "dots", "unroll": 2},
  ],
  ids=str,
)
def test_remat_and_unroll_change_no_value_and_no_gradient(kwargs):
  policy, params = start()
  other, other_params = start(**kwargs)
  jax.tree.map(np.testing.assert_array_equal, params, other_params)
  params = perturb(params)
  assert_same_slopes(policy, other, params, *inputs())


@pytest.mark.turns(2)
def test_bfloat16_stays_near_float32():
  policy, params = start()
  half, half_params = start(dtype="bfloat16")
  assert {leaf.dtype for leaf in jax.tree.leaves(half_params)} == {
    jnp.dtype("float32")
  }
  params = perturb(params)
  x, t, tokens = inputs()
  t = jnp.maximum(t, 0.3)  # a small t amplifies the error of x0 by 1 / t
  full = program(policy)(params, x, t, tokens)
  gap = np.abs(program(half)(params, x, t, tokens) - full)
  spread = np.abs(x / t.reshape(-1, 1, 1, 1) - full).std()
  assert 0 < gap.mean() < 0.05 * spread
  assert gap.max() < 0.5 * spread


def test_parameter_count():
  """Counted layer by layer from the documented sizes."""
  d, depth, layers, ratio, patch = 32, 3, 2, 3, 12
  policy = scene_dit.make_policy(width=d, depth=depth, heads=2)
  params = jax.eval_shape(policy.init, jax.random.key(0))
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  linear = lambda i, o: i * o + o
  text = (len(grammar.VOCAB) + grammar.MAX_WORDS) * d
  text += layers * (
    linear(d, 3 * d) + linear(d, d) + linear(d, 3 * d) + linear(3 * d, d)
  )
  text += linear(d, depth * 2 * d)
  pixels = 3 * patch**2
  image = linear(pixels, d) + (36 // patch) ** 2 * d + 3 * linear(d, d)
  image += depth * (
    linear(d, 6 * d)
    + linear(d, 3 * d)
    + linear(d, d)
    + linear(d, ratio * d)
    + linear(ratio * d, d)
  )
  image += linear(d, 2 * d) + linear(d, pixels)
  assert count == text + image


@pytest.mark.parametrize(
  ("kwargs", "field"),
  [
    ({"patch": 7}, "model.patch=7"),
    ({"width": 30, "heads": 4}, "model.width=30"),
    ({"remat": "dot"}, 'did you mean "dots"'),
  ],
)
def test_sizes_that_do_not_fit_are_refused(kwargs, field):
  with pytest.raises(UserError, match=field):
    scene_dit.make_policy(**kwargs)


CONFIGURATIONS = [
  {},
  {"depth": 4, "heads": 2},
  {"depth": 1, "text_layers": 1, "patch": 6},
  {"depth": 3, "text_layers": 3, "mlp_ratio": 4, "patch": 4},
  {"condition": "class"},
  {"user": 12, "soft_tokens": 3, "soft_layers": 2},
  {"frames": 3, "language": "motion"},
]
MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (1, 4, 2), (1, 2, 4)]


@pytest.mark.turns(3)
@pytest.mark.parametrize("kwargs", CONFIGURATIONS, ids=str)
def test_every_parameter_has_one_rule_that_divides_on_any_mesh(kwargs):
  policy = scene_dit.make_policy(width=128, **kwargs)
  params = jax.eval_shape(policy.init, jax.random.key(0))
  for sizes in MESHES:
    mesh = meshes.make_mesh(*sizes)
    specs = sharding.param_specs(params, policy.sharding_rules, mesh)
    specs = jax.tree.leaves(specs, is_leaf=_is_spec)
    for leaf, spec in zip(jax.tree.leaves(params), specs, strict=True):
      NamedSharding(mesh, spec).shard_shape(leaf.shape)  # divides, or raises


def _is_spec(x):
  return isinstance(x, jax.sharding.PartitionSpec)


def test_kernels_are_cut_as_megatron_cuts_them():
  """qkv and up by output, out and down by input; the layer axis stays whole."""
  policy = scene_dit.make_policy(width=128, depth=4)
  params = jax.eval_shape(policy.init, jax.random.key(0))
  mesh = meshes.make_mesh(1, 2, 4)
  specs = sharding.param_specs(params, policy.sharding_rules, mesh)
  blocks = specs["blocks"]
  for name in ("qkv", "up", "modulation"):
    assert tuple(blocks[name]["kernel"]) == (None, "fsdp", "tensor")
  for name in ("out", "down"):
    assert tuple(blocks[name]["kernel"]) == (None, "tensor", "fsdp")
  assert tuple(specs["text"]["embedding"]) == (None, "fsdp")
  whole = [
    path
    for path, spec in jax.tree_util.tree_flatten_with_path(
      specs, is_leaf=_is_spec
    )[0]
    if not any(spec)
  ]
  names = {jax.tree_util.keystr(path, simple=True) for path in whole}
  assert all("bias" in name for name in names)


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)])
def test_sharded_parameters_give_the_same_velocity(sizes):
  policy, params = start(width=32, heads=2)
  params = perturb(params)
  x, t, tokens = inputs()
  expected = program(policy)(params, x, t, tokens)
  mesh = meshes.make_mesh(*sizes)
  specs = sharding.param_specs(params, policy.sharding_rules, mesh)
  places = jax.tree.map(
    lambda s: NamedSharding(mesh, s), specs, is_leaf=_is_spec
  )
  with jax.set_mesh(mesh):
    actual = program(policy)(jax.device_put(params, places), x, t, tokens)
  np.testing.assert_allclose(actual, expected, atol=5e-4)


EDITING = {"takes_source": True}


def sources():
  return jax.random.uniform(jax.random.key(5), (ROWS, 36, 36, 3))


@pytest.mark.job
@pytest.mark.turns(3)
def test_an_editing_policy_starts_as_the_one_without_a_source():
  """Same weights, no source or any source: the same bits."""
  plain, params = start()
  policy, fresh = start(**EDITING)
  x, t, tokens = inputs()
  params = perturb(params)
  whole = dict(params, source_in=fresh["source_in"])
  whole["text"] = dict(params["text"], edit_words=fresh["text"]["edit_words"])
  assert not jax.tree.leaves(fresh["source_in"])[0].any()
  expected = program(plain)(params, x, t, tokens)
  np.testing.assert_array_equal(program(policy)(whole, x, t, tokens), expected)
  given = {"tokens": tokens, "source": sources()}
  np.testing.assert_allclose(
    program(policy)(whole, x, t, given), expected, atol=1e-6
  )


@pytest.mark.turns(2)
def test_the_source_matters_row_by_row_and_a_missing_one_is_none():
  policy, params = start(**EDITING)
  params = perturb(params)
  x, t, tokens = inputs()
  source = sources()
  run = lambda s: program(policy)(params, x, t, {"tokens": tokens, "source": s})
  both, other = run(source), run(source.at[1].set(1 - source[1]))
  changed = np.abs(both - other).max((1, 2, 3))
  assert changed[1] > 1e-4 and not np.delete(changed, 1).any()
  missing = run(source.at[1:].set(np.nan))
  without = program(policy)(params, x, t, tokens)
  np.testing.assert_array_equal(missing[1:], without[1:])
  np.testing.assert_array_equal(missing[0], both[0])


@pytest.mark.job
@pytest.mark.turns(3)
def test_the_gradient_reaches_the_weights_of_the_source_at_zero():
  policy, params = start(**EDITING)
  moved = dict(perturb(params), source_in=params["source_in"])
  x, t, tokens = inputs()
  given = {"tokens": tokens, "source": sources().at[0].set(np.nan)}
  _, g = gradient(policy)(moved, x, t, given)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(g))
  assert np.abs(g["source_in"]["kernel"]).max() > 0


def test_instructions_have_words_of_their_own():
  policy, params = start(**EDITING)
  params = perturb(params)
  x, t, _ = inputs()
  texts = ("make the red circle blue", "remove the red circle",
           "move the red circle top left", "sharpen the picture")  # fmt: skip
  tokens = jnp.stack([grammar.tokenize(s, edits=True) for s in texts])
  first = program(policy)(params, x, t, tokens)
  words = params["text"]["edit_words"]
  table = dict(params["text"], edit_words=words.at[0].multiply(-1))  # "make"
  other = program(policy)(dict(params, text=table), x, t, tokens)
  changed = np.abs(first - other).max((1, 2, 3))
  assert changed[0] > 1e-4 and not changed[1:].any()


CLASSES = {"condition": "class"}
ITEMS = ("a circle", "three crosses", "a red square", "four blue triangles")


def class_tokens(*texts):
  return jnp.stack([grammar.tokenize(text) for text in texts])


def test_classes_are_the_prompts_of_one_item():
  """Every one of them, each another, and those that the grammar parses."""
  known = [
    p for p in grammar.all_prompts()
    if grammar.KINDS[p.category] in scene_dit.CLASS_KINDS
  ]  # fmt: skip
  assert all(len(p.items) == 1 for p in known)
  found, there = scene_dit.classes(class_tokens(*(p.text for p in known)))
  expected = [(n - 1, c + 1, s) for p in known for n, c, s in p.items]
  np.testing.assert_array_equal(found, expected)
  assert there.all() and len(set(expected)) == len(known) == 4 * 6 * 4
  assert not scene_dit.classes(jnp.zeros((1, 8), int))[1].any()
  assert len(known) == sum(len(p.items) == 1 for p in grammar.all_prompts())


@pytest.mark.job
@pytest.mark.turns(3)
def test_no_class_is_seen_before_training():
  """Modulation starts at zero: every class is the null class, to the bit."""
  policy, fresh = start(**CLASSES)
  moved = perturb(fresh)
  blocks = dict(moved["blocks"], modulation=fresh["blocks"]["modulation"])
  zero = {"final_modulation": fresh["final_modulation"], "blocks": blocks}
  x, t, _ = inputs()
  tokens = class_tokens(*ITEMS)
  run = program(policy)
  unconditional = run(moved | zero, x, t, 0 * tokens)
  np.testing.assert_array_equal(run(moved | zero, x, t, tokens), unconditional)
  trivial = x / np.maximum(t, scene_dit.T_MIN).reshape(-1, 1, 1, 1)
  assert np.abs(unconditional - trivial).max() > 1e-2
  changed = np.abs(run(moved, x, t, tokens) - run(moved, x, t, 0 * tokens))
  assert (changed.max((1, 2, 3)) > 1e-3).all()


@pytest.mark.turns(2)
def test_the_null_class_is_its_own_and_each_part_has_a_row():
  policy, params = start(**CLASSES)
  params = perturb(params)
  x, t, _ = inputs()
  tokens = class_tokens(*ITEMS).at[3].set(0)
  before = program(policy)(params, x, t, tokens)

  def moved_by(name, row):
    table = params["classes"][name].at[row].add(1.0)
    other = params | {"classes": params["classes"] | {name: table}}
    after = program(policy)(other, x, t, tokens)
    gap = np.abs(np.asarray(after) - before).max((1, 2, 3))
    assert not gap[gap < 1e-4].any()
    return (gap > 0).tolist()

  assert moved_by("null", 0) == [False, False, False, True]
  assert moved_by("count", 0) == [True, False, True, False]
  assert moved_by("count", 2) == [False, True, False, False]
  assert moved_by("colour", 0) == [True, True, False, False]
  assert moved_by("shape", 1) == [False, False, True, False]


@pytest.mark.turns(2)
def test_guidance_goes_from_no_class_to_the_class():
  policy, params = start(**CLASSES)
  params = perturb(params)
  x, t, _ = inputs()
  t = jnp.maximum(t, 0.3)  # a small t amplifies the error of x0 by 1 / t
  tokens = class_tokens(*ITEMS)
  pair = guidance.conditioning(policy, params, tokens, 2.0)
  guided = jax.jit(
    lambda scale: guidance.guided_velocity(policy, params, x, t, *pair, scale)
  )
  class_, null = (
    program(policy)(params, x, t, words) for words in (tokens, 0 * tokens)
  )
  np.testing.assert_allclose(guided(jnp.float32(0)), null, atol=2e-5)
  np.testing.assert_allclose(guided(jnp.float32(1)), class_, atol=2e-5)
  expected = null + 3 * (class_ - null)
  np.testing.assert_allclose(guided(jnp.float32(3)), expected, atol=1e-4)


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.parametrize(
  "kwargs", [{"remat": "dots"}, {"remat": "full", "unroll": 2}], ids=str
)
def test_remat_and_unroll_change_nothing_of_classes(kwargs):
  policy, params = start(**CLASSES)
  other, other_params = start(**CLASSES, **kwargs)
  jax.tree.map(np.testing.assert_array_equal, params, other_params)
  params = perturb(params)
  x, t, _ = inputs()
  tokens = class_tokens(*ITEMS)
  assert_same_slopes(policy, other, params, x, t, tokens)


@pytest.mark.job
@pytest.mark.turns(3)
def test_classes_on_a_mesh_give_the_same_velocity():
  policy, params = start(width=32, heads=2, **CLASSES)
  params = perturb(params)
  x, t, _ = inputs()
  tokens = class_tokens(*ITEMS)
  expected = program(policy)(params, x, t, tokens)
  mesh = meshes.make_mesh(2, 2, 2)
  specs = sharding.param_specs(params, policy.sharding_rules, mesh)
  assert tuple(specs["classes"]["colour"]) == (None, "fsdp")
  places = jax.tree.map(
    lambda s: NamedSharding(mesh, s), specs, is_leaf=_is_spec
  )
  with jax.set_mesh(mesh):
    actual = program(policy)(jax.device_put(params, places), x, t, tokens)
  np.testing.assert_allclose(actual, expected, atol=5e-4)


@pytest.mark.parametrize(
  ("kwargs", "said"),
  [
    ({"condition": "klass"}, 'did you mean "class"'),
    ({"condition": "class", "takes_source": True}, "no instruction to edit"),
  ],
)
def test_conditions_that_do_not_fit_are_refused(kwargs, said):
  with pytest.raises(UserError, match=said):
    scene_dit.make_policy(**kwargs)


def test_places_begin_as_row_plus_column():
  """Columns differ alike in every row, and the scale is the standard deviation."""
  draw = scene_dit.axis_normal(4.0)(jax.random.key(0), (9, 5000))
  places = np.asarray(draw).reshape(3, 3, -1)
  across = np.diff(places, axis=1)
  np.testing.assert_allclose(across - across[:1], 0, atol=1e-5)
  np.testing.assert_allclose(places.std(-1), 4.0, rtol=0.05)
  assert abs(np.corrcoef(places[0, 0], places[1, 1])[0, 1]) < 0.06
  assert np.corrcoef(places[0, 0], places[1, 0])[0, 1] == pytest.approx(
    0.5, abs=0.06
  )


def test_tokens_of_videos_are_patches_of_every_frame():
  """Cut out one by one, and laid back."""
  net = types.SimpleNamespace(patch=3, dtype=jnp.float32)
  x = np.random.default_rng(0).normal(size=(2, 4, 6, 6, 3)).astype(np.float32)
  tokens = scene_dit.SceneDiT._patches(net, jnp.asarray(x))
  cuts = [
    x[:, t, i : i + 3, j : j + 3].reshape(2, -1)
    for t in range(4)
    for i in (0, 3)
    for j in (0, 3)
  ]
  np.testing.assert_array_equal(tokens, np.stack(cuts, 1))
  back = scene_dit.SceneDiT._pixels(net, jnp.asarray(tokens), x.shape)
  np.testing.assert_array_equal(back, x)


def test_edits_of_videos_are_refused():
  with pytest.raises(UserError, match="no edits of videos"):
    scene_dit.make_policy(frames=4, takes_source=True)


@pytest.mark.job
@pytest.mark.turns(3)
def test_frames_see_each_other():
  video, params = start(frames=2)
  x, t, tokens = inputs()
  params, both = perturb(params), jnp.stack([x, x], 1)
  draw = lambda x: program(video)(params, x, t, tokens)
  change = draw(both.at[:, 0].add(1.0)) - draw(both)
  assert np.abs(change[1:, 1]).max(axis=(1, 2, 3)).min() > 1e-5


@pytest.mark.job
@pytest.mark.turns(3)
def test_users_begin_as_the_average_one_and_matter_row_by_row():
  plain, base = start()
  policy, params = start(user=6)
  x, t, tokens = inputs()
  user = jax.random.normal(jax.random.key(3), (ROWS, 6))
  of = lambda rows: program(policy)(params, x, t, {"tokens": tokens, **rows})
  moved = perturb(base)
  params = {**params, **moved, "blocks": params["blocks"] | moved["blocks"]}
  alone = program(plain)(moved, x, t, tokens)
  np.testing.assert_array_equal(of({}), alone)
  np.testing.assert_array_equal(of({"user": user}), of({"user": 0 * user}))
  slopes = jax.jit(jax.grad(lambda p: jnp.square(policy.velocity(
    p, x, t, policy.encode(p, {"tokens": tokens, "user": user})
  )).mean()))(params)  # fmt: skip
  assert np.abs(slopes["blocks"]["user_weight"]).min() > 0
  assert not np.abs(slopes["user_in"]["kernel"]).any()

  params["blocks"] = params["blocks"] | {"user_weight": jnp.array([0.5, -2.0])}
  np.testing.assert_allclose(of({"user": 0 * user}), alone, atol=1e-5)
  other = of({"user": user.at[1].set(0.0)})
  gaps = np.abs(of({"user": user}) - other).max((1, 2, 3))
  assert gaps[1] > 1e-2 and not gaps[[0, 2, 3]].any()


@pytest.mark.job
@pytest.mark.turns(3)
def test_soft_tokens_are_of_a_block_and_a_band_of_time():
  x, _, tokens = inputs()
  t = jnp.array([0.0, 0.305, 0.309, 1.0])
  policy, params = start(soft_tokens=3, soft_layers=1)
  params = perturb(params)
  plain, _ = start()
  base = {k: v for k, v in params.items() if not k.startswith("soft")}
  loss = lambda p: jnp.abs(policy.velocity(
    p, x, t, policy.encode(p, tokens)
  )).mean((1, 2, 3))  # fmt: skip
  slopes = jax.jit(jax.jacrev(loss))(params)["soft_times"]
  bands = np.abs(slopes).max((2, 3)) > 0
  want = np.zeros((ROWS, 100), bool)
  want[np.arange(ROWS), [0, 30, 30, 99]] = True
  np.testing.assert_array_equal(bands, want)

  # A block whose gates are shut passes its input on, soft tokens or not.
  shut = jax.tree.map(
    lambda leaf: leaf.at[0].set(0.0), base["blocks"]["modulation"]
  )
  blocks = {"blocks": base["blocks"] | {"modulation": shut}}
  np.testing.assert_allclose(
    program(policy)(params | blocks, x, t, tokens),
    program(plain)(base | blocks, x, t, tokens), rtol=1e-4, atol=1e-5,
  )  # fmt: skip


@pytest.mark.job
@pytest.mark.turns(3)
def test_soft_tokens_stand_beside_the_words():
  """Those that are the states of the words count as the words once more."""
  x, t, _ = inputs()
  tokens = jnp.asarray(
    grammar.batch([grammar.parse("a red circle")] * ROWS).tokens
  )
  plain, base = start(depth=1)
  base, states = perturb(base), []

  def catch(next_fn, args, kwargs, context):
    if context.module.name == "kv" and context.method_name == "__call__":
      states.append(args[0])
    return next_fn(*args, **kwargs)

  with nn.intercept_methods(catch):
    cond = plain.encode(base, tokens)
  words = states[0].reshape(ROWS, -1, 16)[0, :3]
  twice = {
    "kv": jnp.concatenate([cond["kv"], cond["kv"]], -2),
    "mask": jnp.concatenate([cond["mask"], cond["mask"]], -1),
    "pooled": cond["pooled"],
  }
  policy, fresh = start(depth=1, soft_tokens=3, soft_layers=1)
  times = {"soft_times": jnp.zeros_like(fresh["soft_times"])}
  run = lambda soft: program(policy)(
    base | times | {"soft_tokens": soft[None]}, x, t, tokens
  )
  want = jax.jit(plain.velocity)(base, x, t, twice)
  np.testing.assert_allclose(run(words), want, rtol=1e-3, atol=1e-4)
  assert np.abs(run(-words) - want).max() > 1e-2
