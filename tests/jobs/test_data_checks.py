"""What jobs look at in files before anything is built."""

import json

import pytest
from etils import epath

from jaxreward import jobs
from jaxreward.data import image_checks
from jaxreward.errors import UserError
from jaxreward.jobs import pipeline
from jaxreward.setup import data_checks
from jaxreward.tasks.scenes import grammar
from tests import tiny
from tests.bad_inputs import rows_images as rows
from tests.bad_inputs import table

PIPELINE = {"jobs": "pretrain,train_reward", "init.checkpoint": ""}


def test_a_pipeline_looks_at_the_jobs_to_come_alone(tmp_path):
  """The pictures of a job that has finished may be gone."""
  table.write(tmp_path, {"pairs.jsonl": rows.lines(rows.pair(), rows.HELD)})
  source = {"train_reward.source": f"{tmp_path}/pairs.jsonl"}
  config = tiny.load("quickstart.py:smoke", PIPELINE, source)
  workdir = epath.Path(tmp_path)
  with pytest.raises(UserError, match=r"good\.png: No such file"):
    jobs.check_data("pipeline", config, workdir)
  marks = json.dumps({"pretrain": 1.0, "train_reward": 1.0})
  (tmp_path / pipeline.MARKS_FILE).write_text(marks)
  jobs.check_data("pipeline", config, workdir)


def test_sound_files_pass_in_every_job(tmp_path, monkeypatch):
  """And each job names the pictures that it will read."""
  seen = []
  monkeypatch.setattr(image_checks, "check", seen.extend)
  texts = [rows.prompt(prompt=f"blue {i}", mask="white.png") for i in range(20)]
  pairs = rows.lines(rows.pair(), rows.HELD)
  files = {"train.jsonl": rows.lines(*texts), "pairs.jsonl": pairs}
  table.write(tmp_path, files | rows.GOOD | rows.THIRD)
  own = {"data.source": f"{tmp_path}/train.jsonl", "data.grammar": "free"}
  pair = {"train_reward.source": f"{tmp_path}/pairs.jsonl"}
  counts = {}
  for job in ("align", "evaluate", "sample"):
    config = tiny.load(rows.EDIT, own, {"job": job, "eval.checkpoint": ""})
    jobs.check_data(job, config, epath.Path(tmp_path))
    counts[job] = len(seen)
    assert {*seen[0].files} == {"image", "mask"}
    seen.clear()
  jobs.check_data(
    "train_reward", tiny.load(rows.PAIRS, pair), epath.Path(tmp_path)
  )
  assert counts["align"] == 20 and 0 < counts["evaluate"] < 20
  assert counts["sample"] == config.sample.prompts
  assert [{*row.files} for row in seen] == [{"image_a", "image_b"}] * 2


@pytest.mark.parametrize("job", ["align", "evaluate"])
def test_references_of_other_wording_pass(job, tmp_path, monkeypatch, caplog):
  """By one rule in every look; prompts without a line are told once."""
  seen = []
  monkeypatch.setattr(image_checks, "check", seen.extend)
  line = rows.lines(rows.reference(prompt="A red  circle."))
  (tmp_path / "references.jsonl").write_text(line)
  shapes, colours = grammar.SHAPES, grammar.COLOURS[:3]
  words = [f"a {colour} {shape}\n" for shape in shapes for colour in colours]
  (tmp_path / "p.txt").write_text("".join(words))
  own = {"data.source": f"{tmp_path}/p.txt"}
  kept = {"rewards.kept.fn": "background"}
  kept["rewards.kept.references"] = str(tmp_path)
  spec = {"align": table.QUICK, "evaluate": "evaluate_scenes.py:smoke"}[job]
  config = tiny.load(spec, own, kept)
  jobs.check(job, config)
  jobs.check_data(job, config, epath.Path(tmp_path))
  assert [{*row.files} for row in seen] == [{"image", "mask"}]
  told = [
    r.getMessage() for r in caplog.records if "no entry" in r.getMessage()
  ]
  assert len(told) == 1 and "nor for 10 others of 12" in told[0]


@pytest.mark.parametrize(
  ("model", "most", "folder"),
  [("wan_t2v", 8, "tokenizer"), ("sd35_medium", 85, "tokenizer_3"),
   ("flux_dev", 8, "tokenizer_2"), ("qwen_image", 8, "tokenizer"),
   ("z_image", 8, "tokenizer")],
)  # fmt: skip
def test_prompts_that_are_cut_are_told_once(
  model, most, folder, monkeypatch, caplog
):
  """A stand-in tokenizer has a token per word."""
  asked = []

  def pretrained(spec):
    asked.append(spec)
    return lambda texts, verbose: {"input_ids": [t.split() for t in texts]}

  monkeypatch.setattr(data_checks.encoders, "pretrained", pretrained)
  names = {"wan_t2v": "wan", "sd35_medium": "sd3", "flux_dev": "flux"}
  name = names.get(model, model)
  config = tiny.load(f"align_public.py:{model},tiny")
  with config.unlocked():
    config.model.words = most
    config.text_encoder = dict(name=name, weights="kept")
  words = 8
  if name == "z_image":  # its marks, here as words
    words -= len(data_checks.qwen3_prompts.TEMPLATE.format("x").split()) - 1
  if name == "qwen_image":  # 34 tokens stand before a prompt, here as words
    words += 35 - len(data_checks.qwen_prompts.TEMPLATE.format("x").split())
  fits = " ".join("a" * words)
  data_checks.warn_of_long(config, ["short", fits])
  assert not caplog.records
  data_checks.warn_of_long(config, ["short", fits, f"{fits} b", f"{fits} c d"])
  assert len(caplog.records) == 1
  assert "2 of 4 prompts are longer than the 8 tokens" in caplog.text
  assert set(asked) == {f"kept:{folder}"}
