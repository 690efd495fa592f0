"""One iteration of the align job on 1, 2, 4 and 8 devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import feeds, rng, setup
from jaxreward.flow import rollout, sampler, steppers
from jaxreward.jobs import evaluate
from tests import tiny, turns

pytestmark = [pytest.mark.job, pytest.mark.turns(4, 1)]

# devices, data, fsdp
MESHES = {
  "1x1": (1, 1, 1),
  "2x1": (2, 2, 1),
  "4x1": (4, 4, 1),
  "8x1": (8, 8, 1),
  "4x2": (8, 4, 2),
  "2x4": (8, 2, 4),
  "1x8": (8, 1, 8),
}
THREE_AXES = {"2x2x2": (8, 2, 2, 2)}
# Of these a commit runs one, beside the others: see `tests.turns`.
TURNING = ("2x1", "4x1", "8x1", "2x4")
OBJECTIVES = ("flow_grpo", "diffusion_nft")
# Plain descent: its step is linear in the gradient. Adam divides a gradient of
# nearly zero by its own size, which makes a rounding error a whole step.
SETTINGS = {
  "optimizer.name": "sgd",
  "optimizer.learning_rate": 1e-2,
  "rollout.prompts": 6,
  "rollout.group": 4,
  "rollout.num_steps": 3,
  "rollout.window_size": 0,
  "rollout.microbatch": 12,
}
# Sums over the batch are taken in another order on another mesh: errors are
# float32 rounding (6e-8) times what a few dozen layers and steps make of it.
TOLERANCE = 2e-4


def by_turns(*meshes: str) -> list:
  """Meshes, `slow` those of `TURNING` that are not due."""
  others = [mesh for mesh in MESHES if mesh not in TURNING]
  due = TURNING[turns.drawn(len(TURNING), turns.turn())]
  return turns.slow_but(meshes, [*others, due])


def config_of(objective, *overrides):
  given = dict(SETTINGS)
  if objective == "flow_grpo":
    given["align.old_log_prob"] = "sealed"
  return tiny.load(
    f"align_scenes.py:{objective},smoke",
    tiny.MODEL, tiny.REWARD, tiny.FAST, given, *overrides,
  )  # fmt: skip


@dataclasses.dataclass
class Result:
  """Two iterations of one mesh, on the host."""

  trajectories: list
  metrics: list
  params: np.ndarray
  start: np.ndarray
  state: object
  iteration: tiny.Iteration


def run(iteration, steps=2):
  """Iterations from the start, for comparison."""
  state = iteration.state
  start = tiny.flat(state.params)
  trajectories, metrics = [], []
  for _ in range(steps):
    state, row, trajectory = iteration.step(state)
    trajectories.append(jax.device_get(trajectory))
    metrics.append(tiny.numbers(row))
  return Result(
    trajectories, metrics, tiny.flat(state.params), start, state, iteration
  )


@functools.cache
def result(objective, mesh):
  config = config_of(objective)
  return run(tiny.Iteration(config, tiny.mesh_of(*MESHES[mesh])))


def moved(found):
  return found.params - found.start


def assert_close(found, expected, tolerance=TOLERANCE):
  """Metrics, and the way the parameters have gone, to float tolerance."""
  for got, want in zip(found.metrics, expected.metrics, strict=True):
    assert got.keys() == want.keys()
    for name in want:
      if name == "log_prob_gap":
        continue  # zero on every mesh, tested on its own
      scale = max(abs(want[name]), 1e-3)
      assert abs(got[name] - want[name]) < tolerance * scale, name
  error = np.linalg.norm(moved(found) - moved(expected))
  assert error < tolerance * np.linalg.norm(moved(expected))


def samples(trajectory, which):
  """Latents [P, G, ...] of one step, whatever the layout."""
  return rollout.to_groups(trajectory.latents[which], 6, 4)


@pytest.mark.parametrize("mesh", by_turns(*list(MESHES)[1:]))
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_metrics_and_parameters_agree(objective, mesh):
  found, expected = result(objective, mesh), result(objective, "1x1")
  assert np.linalg.norm(moved(expected)) > 1e-3
  assert expected.metrics[0]["advantage_abs"] > 0.1
  assert_close(found, expected)


@pytest.mark.parametrize("mesh", by_turns(*list(MESHES)[1:]))
def test_initial_noise_is_the_same_bits(mesh):
  found, expected = result("flow_grpo", mesh), result("flow_grpo", "1x1")
  for got, want in zip(found.trajectories, expected.trajectories, strict=True):
    np.testing.assert_array_equal(samples(got, 0), samples(want, 0))
  first, second = expected.trajectories
  assert (samples(first, 0) != samples(second, 0)).mean() > 0.99


@pytest.mark.parametrize("mesh", by_turns(*list(MESHES)[1:]))
def test_pictures_agree(mesh):
  found, expected = result("flow_grpo", mesh), result("flow_grpo", "1x1")
  for got, want in zip(found.trajectories, expected.trajectories, strict=True):
    np.testing.assert_allclose(samples(got, -1), samples(want, -1), atol=1e-3)


@functools.cache
def step_noise(mesh, microbatch):
  """What every step draws: a table whose steps forget all but their noise."""
  config = config_of("flow_grpo", {"rollout.microbatch": microbatch})
  mesh = tiny.mesh_of(*MESHES[mesh])
  plan = tiny.make_plan(config, mesh)
  one, none = np.ones(3, np.float32), np.zeros(3, np.float32)
  table = plan.table.replace(c_x=none, c_v=none, std=one)
  plan = dataclasses.replace(plan, table=table)
  iteration = tiny.Iteration(config, mesh, plan=plan)
  trajectory, _, _ = iteration.sample(iteration.state)
  return np.stack([samples(trajectory, i) for i in range(4)])


@pytest.mark.parametrize("mesh", by_turns("4x1", "4x2", "1x8"))
@pytest.mark.parametrize("microbatch", [12, 7])
def test_step_noise_is_the_same_bits(mesh, microbatch):
  want = step_noise("1x1", 24)
  assert 0.98 < want.std() < 1.02
  flat = want.reshape(4 * 24, -1)
  assert len(np.unique(flat[:, 0])) == len(flat)  # no two draws are the same
  np.testing.assert_array_equal(step_noise(mesh, microbatch), want)


@pytest.mark.parametrize("mesh", by_turns("1x1", "4x2", "1x8"))
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_rerun_on_one_mesh_is_the_same_bits(objective, mesh):
  first = result(objective, mesh)
  again = run(first.iteration)
  assert again.metrics == first.metrics
  assert tiny.same_bits(again.trajectories, first.trajectories)
  assert tiny.same_bits(again.state, first.state)


@pytest.mark.parametrize("mesh", by_turns(*MESHES))
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_state_stays_where_it_was(objective, mesh):
  found = result(objective, mesh)
  before = jax.tree.leaves(found.iteration.parts.state)
  after = jax.tree.leaves(found.state)
  for x, y in zip(before, after, strict=True):
    assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
    assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)


@pytest.mark.parametrize("mesh", by_turns("4x2", "2x4", "1x8"))
def test_fsdp_cuts_parameters_moments_and_averages(mesh):
  state = result("diffusion_nft", mesh).state
  parts = MESHES[mesh][2]
  for tree in (state.params, state.opt_state, state.ema, state.old):
    whole = sum(x.size for x in jax.tree.leaves(tree))
    local = sum(
      x.addressable_shards[0].data.size for x in jax.tree.leaves(tree)
    )
    assert local < whole / parts * 1.6


@pytest.mark.parametrize("mesh", by_turns("2x1", "8x1", "4x2", "1x8"))
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_device_draws_its_own_samples(objective, mesh):
  iteration = result(objective, mesh).iteration
  trajectory, _, _ = iteration.sample(iteration.state)
  devices = MESHES[mesh][0]
  steps, rows, *_ = trajectory.latents.shape
  shard = trajectory.latents.addressable_shards[0].data
  assert shard.shape[:2] == (steps, rows // devices)


@pytest.mark.parametrize("mesh", by_turns("1x1", "4x2"))
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_nothing_is_compiled_after_the_first_step(
  objective, mesh, compile_counter
):
  iteration = result(objective, mesh).iteration
  state, _, _ = iteration.step(iteration.state)
  compile_counter.reset()
  for _ in range(3):
    state, _, _ = iteration.step(state)
  assert compile_counter.names == []


@pytest.mark.parametrize("mesh", by_turns("1x1", "4x2", "2x4"))
def test_the_ratio_is_one_before_the_first_update(mesh):
  for row in result("flow_grpo", mesh).metrics:
    assert row["log_prob_gap"] == 0.0


# Geometry


@functools.cache
def with_microbatch(objective, rows, mesh="1x1"):
  config = config_of(objective, {"rollout.microbatch": rows})
  return run(tiny.Iteration(config, tiny.mesh_of(*MESHES[mesh])))


@pytest.mark.parametrize("rows", [24, 8, 7, 5])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_micro_batch_changes_nothing(objective, rows):
  """24 rows: one chunk. 7 and 5 leave a last chunk that is padded."""
  found = with_microbatch(objective, rows)
  padding = ~found.trajectories[0].mask
  assert padding.any() == (24 % rows > 0)
  assert_close(found, result(objective, "1x1"))
  assert found.iteration.plan.layout.chunks == -(-24 // rows)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_samples_need_not_divide_by_devices(objective):
  """9 samples on 8 devices: 7 rows of padding, the same numbers."""
  overrides = {"rollout.prompts": 3, "rollout.group": 3, "align.updates": 2}
  config = config_of(objective, overrides)
  one = run(tiny.Iteration(config, tiny.mesh_of(1)))
  all_of_them = run(tiny.Iteration(config, tiny.mesh_of(8, 4, 2)))
  assert one.trajectories[0].mask.shape == (9,)
  assert all_of_them.trajectories[0].mask.shape == (16,)
  assert_close(all_of_them, one)


def _spoil(trajectory, rows):
  """NaN in everything that the rows hold."""
  latents = jnp.where(rows[:, None, None, None], jnp.nan, trajectory.latents)
  log_probs = jnp.where(rows, jnp.nan, trajectory.log_probs)
  return trajectory.replace(latents=latents, log_probs=log_probs)


@pytest.mark.parametrize("mesh", by_turns("1x1", "4x2"))
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_padding_may_hold_anything(objective, mesh):
  rows = 7 if mesh == "1x1" else 16  # of 24 samples, on 8 devices
  iteration = with_microbatch(objective, rows, mesh).iteration
  trajectory, _, images = iteration.sample(iteration.state)
  scores = {"redness": tiny.redness(images, None)}
  padding = ~trajectory.mask
  assert padding.any()
  clean, rows = iteration.update(iteration.state, trajectory, scores)
  spoiled = jax.jit(_spoil)(trajectory, padding)
  assert np.isnan(spoiled.latents).any()
  same, same_rows = iteration.update(iteration.state, spoiled, scores)
  assert tiny.same_bits(clean, same)
  assert tiny.numbers(rows) == tiny.numbers(same_rows)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_failed_picture_teaches_nothing(objective):
  """NaN in a picture and its score leaves the other members' lesson."""
  iteration = result(objective, "1x1").iteration
  trajectory, _, images = iteration.sample(iteration.state)
  scores = tiny.redness(images, None).at[1, 2].set(jnp.nan)
  row = 1 * 4 + 2
  failed = jnp.arange(24) == row
  kept, _ = iteration.update(iteration.state, trajectory, {"redness": scores})
  spoiled = jax.jit(_spoil)(trajectory, failed)
  state, metrics = iteration.update(
    iteration.state, spoiled, {"redness": scores}
  )
  assert tiny.numbers(metrics)["skipped_updates"] == 0
  assert tiny.same_bits(kept, state)
  whole, _ = iteration.update(
    iteration.state, trajectory, {"redness": tiny.redness(images, None)}
  )
  assert not tiny.same_bits(kept.params, whole.params)


def test_forward_noise_belongs_to_the_sample():
  """Times and noise of the forward process do not see layout or order."""
  found = {}
  for rows in (24, 7):
    iteration = with_microbatch("diffusion_nft", rows).iteration
    plan, batch = iteration.plan, tiny.prompts_of(iteration.config)
    trajectory, _, _ = iteration.sample(iteration.state)
    trajectory = trajectory.replace(latents=jnp.zeros_like(trajectory.latents))
    ones = jnp.ones((plan.prompts, plan.group))
    micro = feeds.cut(
      plan.feed.make(
        trajectory, feeds.Credit(ones, ones, ones > 0), batch.ids, plan,
        rng.stream_key(0, "forward", 0),
      ),
      plan,
    )  # fmt: skip
    k, chunks = len(plan.trained), plan.layout.chunks

    def rows_of(x, k=k, chunks=chunks):
      x = x.reshape(k, chunks, -1, *x.shape[3:]).swapaxes(1, 2)
      return np.asarray(x.reshape(k, -1, *x.shape[3:])[:, :24])

    found[rows] = rows_of(micro["t"]), rows_of(micro["x_t"])
  for a, b in zip(found[24], found[7], strict=True):
    np.testing.assert_array_equal(a, b)
  times = np.sort(found[24][0], 0)
  u = times / (2.5 - 1.5 * times)  # the shift, undone
  assert (u[0] <= 0.5).all() and (u[1] >= 0.5).all()  # one in each half


def test_no_two_samples_share_noise():
  """Prompts that stand twice in a batch included."""
  config = config_of("flow_grpo", {"rollout.prompts": 40, "rollout.group": 2})
  batch = tiny.prompts_of(config)
  assert len(np.unique(batch.ids)) == 40
  layout = rollout.make_layout(40, 2, 80)
  keys = rng.sample_keys(
    rng.stream_key(0, "rollout", 3),
    jnp.asarray(batch.ids)[layout.prompt_index],
    layout.member,
  )
  noise = sampler.initial_noise(keys, (4,))
  assert len(np.unique(np.asarray(noise), axis=0)) == 80


def test_rows_are_left_alone_without_a_mesh():
  tree = {"a": jnp.arange(4)}
  assert setup.batch_devices() == 1
  assert setup.spread_rows(tree) is tree
  with jax.set_mesh(tiny.mesh_of(8, 2, 4)):
    assert setup.batch_devices() == 8


def test_the_samplers_constants_are_not_the_meshs():
  """The table is made on the host, in float64, once."""
  config = config_of("flow_grpo")
  one = tiny.make_plan(config, tiny.mesh_of(1))
  eight = tiny.make_plan(config, tiny.mesh_of(8, 2, 4))
  assert isinstance(one.table, steppers.StepTable)
  assert tiny.same_bits(one.table, eight.table)


@functools.cache
def evaluation(mesh):
  config = config_of("diffusion_nft", {"eval.samples": 18, "eval.group": 3})
  policy = tiny.small_policy()
  params = jax.jit(policy.init)(jax.random.key(0))
  found = evaluate.make_evaluator(config, policy, {})
  with jax.set_mesh(tiny.mesh_of(*MESHES[mesh])):
    return found(params, 2.0)


@pytest.mark.parametrize("mesh", by_turns("8x1", "4x2"))
def test_evaluations_agree(mesh):
  result, images, _ = evaluation(mesh)
  expected, pictures, _ = evaluation("1x1")
  assert images.shape == pictures.shape == (6, 3, 36, 36, 3)
  np.testing.assert_allclose(images, pictures, atol=1e-4)
  for name in ("texture", "diversity", "brightness", "edge_density"):
    assert result[name] == pytest.approx(expected[name], rel=1e-4)


@functools.cache
def transformer(objective, mesh):
  """The scene model, with its own table of shardings and adapters."""
  overrides = {"lora.rank": 2} if objective == "flow_grpo" else {}
  config = config_of(objective, overrides)
  mesh = tiny.mesh_of(*(MESHES | THREE_AXES)[mesh])
  return run(tiny.Iteration(config, mesh, real=True), steps=1)


@pytest.mark.parametrize(
  ("objective", "mesh"),
  [
    ("flow_grpo", "2x2x2"),
    pytest.param("diffusion_nft", "4x2", marks=pytest.mark.slow),
    pytest.param("flow_grpo", "2x4", marks=pytest.mark.slow),
    pytest.param("diffusion_nft", "1x8", marks=pytest.mark.slow),
  ],
)
def test_the_scene_model_agrees(objective, mesh):
  found, expected = transformer(objective, mesh), transformer(objective, "1x1")
  assert np.linalg.norm(moved(expected)) > 1e-5
  assert_close(found, expected)
  if objective == "flow_grpo":  # cut parameters: a last bit may differ
    assert found.metrics[0]["log_prob_gap"] < 1e-6
