"""Pretrain, evaluate, sample and the pipeline, each from end to end, tiny."""

import io
import json
import os
import re

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from jaxreward import setup, tasks, workdirs
from jaxreward.jobs import evaluate, pretrain
from jaxreward.tasks.scenes import grammar
from jaxreward.training import weights
from tests import tiny

pytestmark = [pytest.mark.job, pytest.mark.turns(3, 1)]

EVAL = {"eval.guidance_scales": "1.0,2.0", "eval.samples": 12}


def page_of(workdir):
  """The run's page without the pictures and charts that it holds."""
  page = (workdir / "report.html").read_text()
  assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
  return re.sub(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+", "", page)


def test_pretrain_trains_evaluates_and_exports(command, tmp_path):
  workdir = tmp_path / "run"
  assert command("pretrain_scenes.py:smoke", workdir, tiny.MODEL, EVAL) == 0
  rows = tiny.rows(workdir, "pretrain")
  assert [row["step"] for row in rows] == list(range(7))
  assert [row["step"] for row in rows if "eval/accuracy" in row] == [0, 3, 6]
  assert all("nonfinite" not in row for row in rows)
  assert rows[-1]["loss"] < 1.0 * rows[1]["loss"]
  found = json.loads((workdir / "evaluation.json").read_text())["policy"]
  assert set(found) == {"guidance_scale=1.0", "guidance_scale=2.0"}
  config = tiny.load("pretrain_scenes.py:smoke", tiny.MODEL)
  like = jax.eval_shape(setup.make_policy(config).init, jax.random.key(0))
  params = weights.load_params(workdir / "policy.safetensors", like)
  assert np.isfinite(tiny.flat(params)).all()
  page = page_of(workdir)
  assert "Pretraining run" in page and 'alt="Chart: Loss"' in page
  assert f"{100 * found['guidance_scale=1.0']['strict']:.1f} % show" in page
  # in half the room
  size = (workdir / "policy.safetensors").stat().st_size
  assert size < 2.2 * sum(x.size for x in jax.tree.leaves(like)) + 20_000


def test_what_pretrain_exports_is_what_evaluate_reads(
  command, tmp_path, small_model
):
  first, second = tmp_path / "a", tmp_path / "b"
  given = EVAL | {"pretrain.export_dtype": "float32"}
  assert command("pretrain_scenes.py:smoke", first, tiny.MODEL, given) == 0
  small = {"eval.num_steps": 3, "eval.microbatch": 24, "rewards.s.fn": "strict"}
  checkpoint = {"init.checkpoint": str(first / "policy.safetensors")}
  smoke = tiny.load("pretrain_scenes.py:smoke", tiny.MODEL, EVAL)
  same = {
    f"eval.{k}": v
    for k, v in smoke.eval.items()
    if isinstance(v, int) and k != "every"
  }
  assert (
    command(
      "evaluate_scenes.py", second, tiny.MODEL, EVAL, small, same, checkpoint
    )
    == 0
  )
  one, two = (
    json.loads((w / "evaluation.json").read_text())["policy"]
    for w in (first, second)
  )
  for scale in one:
    rewards = two[scale].pop("rewards")
    assert rewards["s"] == pytest.approx(two[scale]["strict"], abs=1e-6)
    assert one[scale].pop("rewards") == {}
    for name in ("strict", "texture", "diversity", "brightness"):
      assert two[scale][name] == pytest.approx(one[scale][name], rel=1e-4)


def test_a_benchmark_is_drawn_and_judged(command, tmp_path):
  """Prompts of the same words have noise of their own, drawn at once or not."""
  (tmp_path / "p.txt").write_text("a red circle\na red circle\n")
  given = tiny.FAST | {
    "eval.benchmark.prompts": tmp_path / "p.txt", "eval.benchmark.group": 1,
    "eval.benchmark.rows_at_once": 1, "rewards.detector": "none",
    "rewards.s.fn": "strict",
  }  # fmt: skip
  workdir = tmp_path / "run"
  assert command("evaluate.py:scenes,smoke", workdir, tiny.MODEL, given) == 0
  names = [f"images/{i:05d}/samples/0000.png" for i in range(2)]
  first, second = (np.asarray(Image.open(workdir / name)) for name in names)
  assert first.shape == (36, 36, 3) and np.any(first != second)
  found = json.loads((workdir / "evaluation.json").read_text())["benchmark"]
  assert found["sides"]["policy"]["scores"]["s"]["n"] == 2


def test_an_evaluation_is_the_same_every_time(command, tmp_path, small_model):
  given = EVAL | {"init.checkpoint": "", "eval.num_steps": 3}
  texts = []
  for name in ("a", "b"):
    workdir = tmp_path / name
    assert command("evaluate_scenes.py", workdir, tiny.MODEL, given) == 0
    texts.append((workdir / "evaluation.json").read_text())
    page = page_of(workdir)
    assert "<title>Evaluation</title>" in page and "strict accuracy" in page
  assert texts[0] == texts[1]
  other = given | {"eval.seed": 21}
  workdir = tmp_path / "c"
  assert command("evaluate_scenes.py", workdir, tiny.MODEL, other) == 0
  assert (workdir / "evaluation.json").read_text() != texts[0]


def test_evaluation_does_not_see_the_micro_batch(
  command, tmp_path, small_model
):
  given = {"init.checkpoint": "", "eval.num_steps": 3}
  found = []
  for rows in (24, 7):
    workdir, more = tmp_path / str(rows), {"eval.microbatch": rows}
    scales = {"eval.guidance_scales": "1.0", "eval.samples": 12}
    code = command(
      "evaluate_scenes.py", workdir, tiny.MODEL, given, scales, more
    )
    assert code == 0
    text = (workdir / "evaluation.json").read_text()
    found.append(json.loads(text)["policy"]["guidance_scale=1.0"])
  assert found[0]["strict"] == found[1]["strict"]
  for name in ("texture", "diversity", "brightness", "edge_density"):
    assert found[0][name] == pytest.approx(found[1][name], rel=1e-4)


def test_the_evaluation_set_spreads_over_kinds():
  prompts = grammar.prompts("heldout")
  data = evaluate.evaluation_set(
    tasks.TASKS["scenes"], prompts, 480, 4, seed=20
  )
  kinds = np.bincount([p.category for p in data.prompts], minlength=6)
  assert (kinds == kinds[0]).all()
  assert len(data.prompts) * 4 >= 480
  assert len(np.unique(data.batch.ids)) == len(data.prompts)
  assert all(p.split == "heldout" for p in data.prompts)
  # rows of one meaning in other words are one cluster of pictures
  assert data.meanings.shape == (len(data.prompts) * 4,)
  assert len(np.unique(data.meanings)) < len({p.text for p in data.prompts})
  assert data.kinds.tolist() == np.repeat(data.batch.category, 4).tolist()
  few = evaluate.evaluation_set(
    tasks.TASKS["scenes"], prompts[:1], 10, 4, seed=20
  )
  assert len(few.prompts) == 3 and len(np.unique(few.batch.ids)) == 3


def test_sample_writes_pictures_and_what_they_show(
  command, tmp_path, small_model
):
  workdir = tmp_path / "run"
  given = {
    "init.checkpoint": "", "sample.prompts": 5, "sample.group": 2,
    "sample.num_steps": 2, "sample.microbatch": 4, "sample.scale": 2,
  }  # fmt: skip
  assert command("sample_scenes.py", workdir, tiny.MODEL, given) == 0
  rows = json.loads((workdir / "samples.json").read_text())
  assert len(rows) == 10
  texts = [p.text for p in grammar.prompts("heldout")]
  for row in rows:
    assert set(row) == {"file", "prompt", "seen", "right"}
    assert row["prompt"] in texts
    image = Image.open(
      io.BytesIO((workdir / "samples" / row["file"]).read_bytes())
    )
    assert image.size == (72, 72)
  assert (workdir / "samples.png").exists()


def test_samples_do_not_see_the_micro_batch_or_the_mesh(
  command, tmp_path, small_model
):
  pictures = []
  for rows, fsdp in ((8, 1), (3, 1), (8, 4)):
    workdir = tmp_path / f"{rows}-{fsdp}"
    given = {
      "mesh.fsdp": fsdp,
      "init.checkpoint": "", "sample.prompts": 4, "sample.group": 2,
      "sample.num_steps": 2, "sample.microbatch": rows, "sample.scale": 1,
    }  # fmt: skip
    assert command("sample_scenes.py", workdir, tiny.MODEL, given) == 0
    files = sorted((workdir / "samples").iterdir())
    pictures.append(np.stack([np.asarray(Image.open(f)) for f in files]))
  first, *others = (x.astype(int) for x in pictures)
  assert max(np.abs(first - other).max() for other in others) <= 1


IN_A_ROW = {"job": "pipeline", "jobs": "align,evaluate"}


def test_a_pipeline_evaluates_the_policy_that_it_has_aligned(
  command, tmp_path, small_model
):
  workdir = tmp_path / "run"
  given = IN_A_ROW | {"optimizer.learning_rate": 3e-3}
  spec = "align_scenes.py:smoke"
  code = command(spec, workdir, tiny.MODEL, tiny.REWARD, tiny.FAST, given)
  assert code == 0
  found = json.loads((workdir / "evaluation.json").read_text())
  before, after, policy = (
    found[side]["guidance_scale=1.0"] for side in ("before", "after", "policy")
  )
  moved = {
    name: abs(after[name] - before[name])
    for name in ("texture", "brightness", "diversity")
  }
  assert max(moved.values()) > 0
  for name, distance in moved.items():
    assert abs(policy[name] - after[name]) <= 1e-3 * distance, name
  assert policy["kinds"] == after["kinds"]
  assert policy["kl"] > 0
  assert policy["kl"] == pytest.approx(after["kl"], rel=1e-4)


def test_a_policy_that_no_job_has_written(command, tmp_path, small_model):
  spec, given = "align_scenes.py:smoke", (tiny.MODEL, tiny.REWARD, tiny.FAST)
  alone = {"job": "evaluate"}
  assert command(spec, tmp_path / "a", *given, alone) == 2
  assert "config.eval.checkpoint=workdir:policy: there is no" in command.error
  assert "align or pretrain" in command.error
  row = IN_A_ROW | {"jobs": "evaluate,align"}
  assert command(spec, tmp_path / "b", *given, row) == 2
  assert "no job before evaluate" in command.error
  wrong = alone | {"eval.checkpoint": "workdir:polcy"}
  assert command(spec, tmp_path / "c", *given, wrong) == 2
  assert 'did you mean "workdir:policy"' in command.error
  itself = {"init.checkpoint": "workdir:policy"}
  assert command(spec, tmp_path / "d", *given, itself) == 2
  assert "config.init.checkpoint=workdir:policy: this job" in command.error


PIPELINE = {"eval.samples": 24, "eval.guidance_scales": "1.0"}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
  """The quickstart in miniature."""
  config = tiny.load("quickstart.py:smoke", PIPELINE)
  return tiny.run(config, tmp_path_factory.mktemp("quickstart") / "run")


@pytest.fixture
def quickstart(one_device, pipeline):
  return pipeline


@pytest.mark.slow
def test_the_quickstart_makes_a_report(quickstart):
  for name in (
    "report.html",
    "evaluation.json",
    "policy.safetensors",
    "reward_model.safetensors",
    "reward_model.json",
    "metrics.jsonl",
    "timings.jsonl",
    "config.json",
  ):
    assert (quickstart / name).exists(), name
  page = (quickstart / "report.html").read_text()
  assert page.count("data:image/png;base64,") >= 12
  words = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
  assert "NaN" not in words


@pytest.mark.slow
def test_the_quickstart_tells_all_it_found(quickstart):
  found = json.loads((quickstart / "evaluation.json").read_text())
  assert set(found) >= {"before", "after", "difference", "reward_model"}
  assert {"accuracy", "low", "high", "n", "strict"} <= set(
    found["reward_model"]
  )
  after = found["after"]["guidance_scale=1.0"]
  assert set(after["rewards"]) == {"detector", "learned"}


@pytest.mark.slow
def test_the_learned_reward_watches_and_is_not_trained_on(quickstart):
  rows = tiny.rows(quickstart, "align")
  assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
  for row in rows[1:]:
    assert row["panel/heldout_reward"] == pytest.approx(
      row["reward/learned"], rel=1e-5
    )
    assert row["reward"] == pytest.approx(row["reward/detector"], rel=1e-5)
  jobs = [row["job"] for row in tiny.rows(quickstart)]
  assert jobs == sorted(jobs, key=["train_reward", "align"].index)


@pytest.mark.slow
def test_a_finished_pipeline_started_again_does_nothing(
  quickstart, compile_counter
):
  written = lambda: {p: os.stat(p).st_mtime_ns for p in quickstart.glob("*.*")}
  kept = written()
  assert len(kept) >= 8
  config = tiny.load("quickstart.py:smoke", PIPELINE)
  tiny.run(config, quickstart)
  assert written() == kept
  assert compile_counter.names == []


def test_the_record_of_a_policy_holds_the_command_that_ran(tmp_path):
  workdir = epath.Path(tmp_path)
  given = ["--config=configs/pretrain_scenes.py:smoke", "--config.seed=7"]
  workdirs.record_command(workdir, given)
  config = tiny.load("pretrain_scenes.py:smoke", {"seed": 7})
  found = pretrain.manifest(config, workdir)
  expected = "python -m jaxreward.main " + " ".join(given)
  assert found["command"] == expected
  assert found["seed"] == 7
