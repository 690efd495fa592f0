"""The job compile_check, through the command line."""

import json
import math

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from jaxreward import main
from jaxreward.compilation import report, topology
from jaxreward.compilation.report import MeshReport, RunReport
from jaxreward.errors import UserError
from jaxreward.jobs import align, compile_check
from jaxreward.models.vlm import qwen_vl
from jaxreward.models.vlm import tiny as vlm_tiny
from jaxreward.rewards import scoring
from jaxreward.setup import data_checks, rewards
from jaxreward.tasks.scenes import grammar
from jaxreward.training import async_rollout
from jaxreward.training import mesh as mesh_lib
from tests import tiny

SMOKE = "align_scenes.py:flow_grpo,smoke"
CHECK = tiny.FAST | {"job": "compile_check", "topology": "cpu:8"}
FAST = CHECK | tiny.MODEL


@pytest.fixture(autouse=True)
def many_devices(monkeypatch):
  """JAX has started: a job of this process keeps its platform and cache."""
  monkeypatch.setattr(topology, "require", lambda found: None)


def found(workdir):
  return json.loads((workdir / compile_check.REPORT_FILE).read_text())


@pytest.mark.slow
def test_a_table_and_json_for_eight_cpus(tmp_path, small_model, capfd):
  meshes = {"compile_check.meshes": "2x4x1"}
  assert main.main(tiny.flags(SMOKE, tmp_path, FAST, meshes)) == 0
  text = capfd.readouterr().out
  told = found(tmp_path)
  assert "data=8, fsdp=1, tensor=1: compiles (how much" in text
  assert "total per device" in text and "reference" in text
  assert "Best: data=" in text
  assert told["devices"] == 8 and len(told["meshes"]) == 2
  whole, cut = told["meshes"]
  assert list(whole["programs"]) == ["rollout", "detector", "rewards", "update"]
  for one in (whole, cut):
    assert one["fits"]
    update = one["programs"]["update"]
    # Every device computes its share; the compiler leaves out what nobody
    # reads, and little is done twice.
    share = update["counted_flops_all_devices"] / 8
    assert 0.8 * share <= update["compiled_flops"] <= 2 * share
    assert update["memory"]["argument"] > 0
  # Shares of the parameters are smaller, and must be gathered.
  assert cut["state_bytes"] < whole["state_bytes"] / 2
  kinds = lambda m: {
    (c["kind"], c["axes"]) for c in m["programs"]["update"]["collectives"]
  }
  assert any(kind == "all-reduce" for kind, _ in kinds(whole))
  assert ("all-gather", "fsdp") in kinds(cut)
  assert ("all-gather", "fsdp") not in kinds(whole)


@pytest.mark.slow
def test_a_run_on_files_encodes_in_place_of_drawing(tmp_path):
  spec = "recipes/flow_dpo_offline.py:smoke"
  assert main.main(tiny.flags(spec, tmp_path, FAST)) == 0
  assert list(found(tmp_path)["meshes"][0]["programs"]) == ["encode", "update"]


@pytest.mark.job
@pytest.mark.turns(3)
def test_little_memory_does_not_fit_and_says_what_to_change(
  tmp_path, small_model, command
):
  small = {"compile_check.memory": 1e-4, "rollout.microbatch": 16}
  assert command(SMOKE, tmp_path, FAST, small) == 0
  told = found(tmp_path)
  (mesh,) = told["meshes"]
  assert not mesh["fits"] and told["best"] is None
  advice = "\n".join(mesh["advice"])
  for part in ("config.mesh.fsdp=", "lora.rank", "remat=full", "microbatch=8"):
    assert part in advice


@pytest.mark.parametrize(
  ("overrides", "words"),
  [
    ({"topology": "v5e:16x61"}, ('config.topology="v5e:16x61"', "v5e:16x16")),
    ({"topology": "cpu:7"}, ("mesh data=2", "7")),
    ({"compile_check.meshes": "4x2"}, ("compile_check.meshes", "4x2")),
    ({"compile_check.meshes": "1x3x1"}, ("needs 3 devices", "8")),
    ({"compile_check.effort": -2.0}, ("compile_check.effort=-2", "-1")),
    ({"objective.name": "flow_gpro"}, ("objective.name", "flow_grpo")),
  ],
)
def test_one_line_for_what_cannot_be_compiled(
  tmp_path, command, overrides, words
):
  overrides = {"mesh.data": 2, "mesh.fsdp": 4} | overrides
  if "topology" not in overrides:
    overrides |= {"mesh.data": -1}
  assert command(SMOKE, tmp_path, FAST, overrides) == 2
  for word in words:
    assert word in command.error


def test_no_working_directory_is_needed(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  seen = []
  effort = lambda: jax.config.values["jax_exec_time_optimization_effort"]
  monkeypatch.setattr(
    compile_check,
    "compile_mesh",
    lambda *_: seen.append(effort()) or _nothing(),
  )
  argv = tiny.flags(SMOKE, "", FAST, {"compile_check.effort": -0.5})
  argv = [one for one in argv if not one.startswith("--workdir")]
  assert main.main(argv) == 0
  assert seen == [-0.5] and effort() == 0
  assert found(tmp_path)["compiler_effort"] == -0.5
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    compile_check.REPORT_FILE
  ]


def _nothing():
  return MeshReport((8, 1, 1), refused="nothing was asked for")


def test_a_mesh_that_cuts_nothing_evenly_is_explained():
  config = tiny.load(SMOKE, FAST, {"model.width": 20, "model.heads": 2})
  report = compile_check.compile_mesh(
    config, epath.Path("."), jax.devices()[:8], (1, 8, 1)
  )
  assert "cannot be split over mesh.fsdp = 8" in report.refused
  assert not report.fits(0.0)


@pytest.mark.parametrize("count", [1, 6, 8])
def test_all_factorings(count):
  found = compile_check.factorings(count)
  brute = {
    (a, b, c)
    for a in range(1, count + 1)
    for b in range(1, count + 1)
    for c in range(1, count + 1)
    if a * b * c == count
  }
  assert len(found) == len(set(found)) and set(found) == brute


@pytest.mark.turns(2)
def test_what_is_compiled_is_what_align_runs(caplog):
  """The same programs and shapes as those of a run with arrays."""
  config = tiny.load(SMOKE, FAST, tiny.REWARD)
  mesh = mesh_lib.make_mesh(2, 4, devices=jax.devices()[:8])
  with caplog.at_level("INFO", logger="absl"):
    run = tiny.Iteration(config, mesh)
  # A run says at its start where everything lies.
  assert "total per device: " in caplog.text
  for part in ("parameters", "optimizer", "average", "reference"):
    assert f"{part} " in caplog.text.split("total per device: ")[1]
  base = jax.eval_shape(lambda: run.policy.init(jax.random.key(0)))
  made = align.make_programs(
    config, mesh, run.policy, base, run.plan, run.weights
  )
  shaped = compile_check.prompt_shapes(config, run.policy, mesh)
  with jax.set_mesh(mesh):
    lower = lambda draw, state, *rest: draw.lower(
      async_rollout.draw_params(state), state.step, *rest
    )
    real = lower(run.parts.draw, run.parts.state, run.parts.base, run.batch)
    abstract = lower(made.draw, made.state, made.base, shaped)
  assert real.as_text() == abstract.as_text()
  for x, y in zip(
    jax.tree.leaves(run.parts.state), jax.tree.leaves(made.state), strict=True
  ):
    assert (x.shape, x.dtype, x.sharding) == (y.shape, y.dtype, y.sharding)


def test_a_reward_that_cannot_be_read_counts_nothing(tmp_path):
  config = tiny.load(SMOKE, tiny.MODEL)
  config.unlock()
  entry = dict(fn="clip_score", weight=1.0, weights=str(tmp_path / "none"))
  config.rewards = dict(
    clip=entry, jpeg=dict(fn="jpeg_compressibility", weight=1.0)
  )
  absent, batch = {}, grammar.batch(grammar.prompts("train")[:2])
  mesh = mesh_lib.make_mesh(-1)
  found = rewards.abstract(config, epath.Path(tmp_path), mesh, absent)
  assert list(absent) == ["clip"] and "config.rewards.clip" in absent["clip"]
  assert not found["clip"].fn(jnp.ones((2, 3, 4, 4, 3)), batch).any()
  run = RunReport(
    topology.find("cpu:8"), 0.0, [MeshReport((8, 1, 1), left_out=("clip",))]
  )
  assert "Not counted, for want of weights: clip." in report.to_text(run)
  assert report.to_json(run)["meshes"][0]["left_out"] == ["clip"]


def test_a_judge_of_a_size_is_compiled_and_never_run(tmp_path, monkeypatch):
  """Its name stands for shapes, placed by its rules; a run wants weights."""
  monkeypatch.setitem(qwen_vl.SIZES, "small", vlm_tiny.MODEL)
  monkeypatch.setattr(vlm_tiny, "public_tokens", vlm_tiny.tokens)
  config = tiny.load(SMOKE, tiny.MODEL)
  config.unlock()
  judge = dict(fn="vlm_pointwise", weight=1.0, weights="small", length=512)
  config.rewards = dict(judge=judge)
  mesh = mesh_lib.make_mesh(2, 4, devices=jax.devices()[:8])
  absent = {}
  assert not data_checks.of_rewards(config, epath.Path(tmp_path))
  judges = rewards.abstract(config, epath.Path(tmp_path), mesh, absent)
  params, weights = judges["judge"].context["params"], vlm_tiny.params()
  assert not absent
  shape = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shape(params) == shape(weights)
  leaves = jax.tree.leaves(params)
  assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
  assert any("fsdp" in leaf.sharding.spec for leaf in leaves)
  images = jax.ShapeDtypeStruct((8, 2, 32, 32, 3), jnp.float32)
  batch = grammar.batch(grammar.prompts("train")[:8])
  scores = scoring.trace(judges, images, batch).out_info["judge"]
  assert scores.value.shape == (8, 2)
  with pytest.raises(UserError, match=r'weights="small": a model without'):
    rewards.load(config, epath.Path(tmp_path), mesh=mesh)


@pytest.mark.turns(2)
def test_the_update_of_a_reward_model_is_traced_on_rows_of_files(monkeypatch):
  """Padded to the devices, in bytes, with what the run keeps counted."""
  programs = []

  def build(traced, axes, live_bytes):
    programs.append((traced, live_bytes))
    return axes

  monkeypatch.setattr(compile_check.executables, "build", build)
  config = tiny.load(
    "recipes/pick_score.py:smoke", {"compile_check.job": "train_reward"}
  )
  mesh = compile_check.compile_mesh(
    config, epath.Path("."), jax.devices()[:8], (8, 1, 1)
  )
  ((traced, live_bytes),) = programs
  assert not mesh.refused and mesh.programs["update"]["data"] == 8
  current, rows, _ = traced.args_info[0]
  images = rows.batch.images
  assert (images.shape, images.dtype) == ((8, 4, 36, 36, 3), jnp.uint8)
  params = sum(math.prod(x.shape) for x in jax.tree.leaves(current.params))
  assert live_bytes > 4 * 4 * params  # trained, averaged, two moments
