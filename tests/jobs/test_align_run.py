"""The align job from end to end, tiny: what it writes and what it learns."""

import base64
import json
import re

import jax
import numpy as np
import pytest

from jaxreward import setup
from jaxreward.tasks.scenes import grammar
from jaxreward.training import weights, writers
from tests import tiny

pytestmark = [pytest.mark.job, pytest.mark.turns(2, 0)]

RUNS = {
  "nft": (
    "align_scenes.py:smoke",
    {
      "eval.evaluators.own.fn": f"{tiny.HERE}:lightness",
      "eval.evaluators.own.scale": 2.0,
      "eval.evaluators.statistics": "none",
    },
  ),
  "nft_lora": ("align_scenes.py:smoke", {"lora.rank": 2}),
  "grpo": ("align_scenes.py:flow_grpo,smoke", {}),
  "grpo_lora": (
    "align_scenes.py:flow_grpo,smoke",
    {"lora.rank": 2, "ema.decay": 0.0},
  ),
}
SETTINGS = {"optimizer.learning_rate": 3e-3, "eval.guidance_scales": "1.0,2.0"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, weights_file):
  """Working directory of a run by name, made when it is asked for."""
  done = {}

  def get(name):
    if name not in done:
      spec, overrides = RUNS[name]
      config = tiny.load(
        spec, tiny.MODEL, tiny.REWARD, tiny.FAST, SETTINGS,
        {"init.checkpoint": weights_file}, overrides,
      )  # fmt: skip
      done[name] = tiny.run(config, tmp_path_factory.mktemp(name) / "run")
    return done[name]

  return get


@pytest.fixture(
  params=[
    "nft",
    "grpo_lora",
    pytest.param("nft_lora", marks=pytest.mark.slow),
    pytest.param("grpo", marks=pytest.mark.slow),
  ]
)
def workdir(request, runs, one_device):
  return runs(request.param)


def test_a_row_per_step_and_all_finite(workdir):
  rows = tiny.rows(workdir)
  assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
  assert {row["job"] for row in rows} == {"align"}
  assert all("nonfinite" not in row for row in rows)
  assert [row["step"] for row in rows if "eval/accuracy" in row] == [0, 2, 4]
  assert not any("seconds" in key for row in rows for key in row)


def test_the_panel_is_on_by_default(workdir):
  row = tiny.rows(workdir)[1]
  names = {
    "accuracy",
    "trained_reward",
    "diversity",
    "edge_density",
    "colour_entropy",
    "brightness",
    "texture",
    "zero_variance_groups",
  }
  assert {f"panel/{name}" for name in names} <= set(row)
  kinds = [k for k in row if k.startswith("train/accuracy/")]
  assert len(kinds) >= 5
  assert row["failed/redness"] == 0
  assert row["reward"] == pytest.approx(row["reward/redness"], rel=1e-5)
  assert row["panel/trained_reward"] == pytest.approx(row["reward"], rel=1e-5)


def test_evaluators_are_those_of_the_config(runs):
  """A user's own is logged and written; one that is left out is not."""
  plain, own = runs("grpo_lora"), runs("nft")
  assert {"eval/lightness", "eval/diversity"} <= set(tiny.rows(own)[-1])
  assert "eval/lightness" not in tiny.rows(plain)[-1]
  for workdir, names in ((own, {"lightness"}), (plain, {"brightness"})):
    found = json.loads((workdir / "evaluation.json").read_text())
    for side in ("before", "after"):
      for result in found[side].values():
        assert {"lightness", "brightness"} & set(result) == names
  # Twice the mean of pictures of a light background.
  assert 0 < found["after"]["guidance_scale=1.0"]["brightness"] < 1


def test_it_learns(workdir):
  """The reward is easy, so a handful of steps show."""
  rows = tiny.rows(workdir)
  assert rows[4]["eval/reward/redness"] != rows[0]["eval/reward/redness"]
  assert all(row["skipped_updates"] == 0 for row in rows[1:])
  assert all(row["update_norm"] > 0 for row in rows[1:])


def test_only_ratio_objectives_have_a_gap_and_it_is_zero(runs):
  rows = tiny.rows(runs("grpo_lora"))
  assert [row["log_prob_gap"] for row in rows[1:]] == [0.0] * 4
  assert "log_prob_gap" not in tiny.rows(runs("nft"))[1]


def test_evaluation_is_complete(workdir):
  found = json.loads((workdir / "evaluation.json").read_text())
  assert set(found) >= {"before", "after", "difference"}
  for side in ("before", "after"):
    assert set(found[side]) == {"guidance_scale=1.0", "guidance_scale=2.0"}
    for result in found[side].values():
      assert set(result["kinds"]) == set(grammar.KINDS)
      assert "redness" in result["rewards"]
      assert 0 <= result["strict"] <= 1
      assert {"texture", "diversity"} <= set(result)
  assert found["after"]["guidance_scale=1.0"]["kl"] > 0
  gain = found["difference"]
  assert gain["low"] <= gain["value"] <= gain["high"]
  before, after = (
    found[side]["guidance_scale=1.0"]["strict"] for side in ("before", "after")
  )
  assert gain["value"] == pytest.approx(after - before, abs=1e-6)


def test_report_stands_alone_with_pictures_and_figures(workdir):
  page = (workdir / "report.html").read_text()
  assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
  pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
  assert len(pictures) >= 12  # before and after, six kinds
  for text in pictures[:4]:
    assert base64.b64decode(text).startswith(b"\x89PNG")
  assert "efore" in page and "fter" in page
  blobs = re.findall(
    r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page, re.S
  )
  figures = [json.loads(blob) for blob in blobs]
  assert figures and any(figures)


def test_weights_fit_the_plain_model(workdir, weights_file):
  """With adapters too: they are fused into what is exported."""
  config = tiny.load("align_scenes.py:smoke", tiny.MODEL)
  policy = setup.make_policy(config)
  like = jax.eval_shape(policy.init, jax.random.key(0))
  found = weights.load_params(workdir / "policy.safetensors", like)
  base = weights.load_params(weights_file, like)
  assert np.isfinite(tiny.flat(found)).all()
  assert (tiny.flat(found) != tiny.flat(base)).any()


def test_adapters_leave_other_weights_alone(runs, weights_file):
  config = tiny.load("align_scenes.py:smoke", tiny.MODEL)
  like = jax.eval_shape(setup.make_policy(config).init, jax.random.key(0))
  path = runs("grpo_lora") / "policy.safetensors"
  found = weights.load_params(path, like)
  base = weights.load_params(weights_file, like)
  assert tiny.same_bits(found["patch_in"], base["patch_in"])
  assert tiny.same_bits(found["time_in"], base["time_in"])
  assert not tiny.same_bits(found["blocks"], base["blocks"])


def test_timings_by_part(workdir):
  lines = (workdir / "timings.jsonl").read_text().splitlines()
  row = json.loads(lines[-1])
  assert {"sample", "reward", "update"} <= set(row)


def test_nothing_is_compiled_after_the_first_step(
  tmp_path, small_model, compile_counter, monkeypatch
):
  """The whole loop: data, rollout, rewards, update, panel, evaluation."""
  compiled = {}
  write = writers.MetricsWriter.write

  def counting(self, step, metrics):
    compiled[step] = compile_counter.count
    write(self, step, metrics)

  monkeypatch.setattr(writers.MetricsWriter, "write", counting)
  config = tiny.load(
    "align_scenes.py:smoke", tiny.MODEL, tiny.REWARD, tiny.FAST,
    {"align.iterations": 6, "eval.every": 3},
  )  # fmt: skip
  tiny.run(config, tmp_path / "run")
  assert compiled[0] > 0
  assert compiled[1] == compiled[6], compile_counter.names[compiled[1] :]


def test_a_finished_run_started_again_does_nothing_more(
  runs, weights_file, monkeypatch
):
  workdir = runs("nft")
  kept = {
    name: (workdir / name).read_bytes()
    for name in ("metrics.jsonl", "policy.safetensors", "evaluation.json")
  }
  steps = []
  write = writers.MetricsWriter.write
  monkeypatch.setattr(
    writers.MetricsWriter,
    "write",
    lambda self, step, m: (steps.append(step), write(self, step, m)),
  )
  spec, overrides = RUNS["nft"]
  config = tiny.load(
    spec, tiny.MODEL, tiny.REWARD, tiny.FAST, SETTINGS,
    {"init.checkpoint": weights_file}, overrides,
  )  # fmt: skip
  tiny.run(config, workdir)
  assert steps == []
  for name, content in kept.items():
    assert (workdir / name).read_bytes() == content, name


def test_equal_rewards_teach_nothing_and_break_nothing(
  command, tmp_path, small_model
):
  (tmp_path / "flat.py").write_text(
    "def flat(images, prompts):\n  return 0 * images[..., 0].mean((2, 3)) + 0.1\n"
  )
  for spec in ("align_scenes.py:smoke", "align_scenes.py:flow_grpo,smoke"):
    reward = {
      "rewards.detector": "none",
      "rewards.flat.fn": f"{tmp_path}/flat.py:flat",
    }
    workdir = tmp_path / spec.rpartition(":")[2].replace(",", "_")
    given = {"align.iterations": 2}
    assert command(spec, workdir, tiny.MODEL, reward, tiny.FAST, given) == 0
    rows = tiny.rows(workdir)[1:]
    assert len(rows) == 2
    for row in rows:
      assert "nonfinite" not in row
      assert row["zero_variance_share"] == 1.0
      assert row["advantage_abs"] == 0.0
      assert row["skipped_updates"] == 0
