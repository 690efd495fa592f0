"""Tables of sweeps, from the files that their runs leave."""

import importlib.util
import json
import pathlib

import pytest

from jaxreward import config as config_lib
from jaxreward.report import sweeps


def load(name):
  spec = importlib.util.spec_from_file_location(
    name, f"configs/sweeps/{name}.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def write(folder, evaluations):
  """Evaluations of a sweep's runs, by the number of their entry."""
  for i, evaluation in evaluations.items():
    (folder / str(i)).mkdir()
    (folder / str(i) / "evaluation.json").write_text(json.dumps(evaluation))


def test_mean_and_deviation_over_seeds():
  assert sweeps.percent([0.5, 0.7]) == "60.0 ± 14.1 (2)"
  assert sweeps.percent([0.5]) == "50.0 ± 0.0 (1)"
  assert sweeps.percent([]) == "–"


def model(accuracy, error=0.05):
  return dict(reward_model={"accuracy": accuracy, "calibration_error": error})


def of_users(**shares):
  return dict(users={name: {"accuracy": x} for name, x in shares.items()})


def at(strict):
  return {"guidance_scale=1.0": {"strict": strict}}


def aligned(before, after, accuracy=0.8):
  return model(accuracy) | dict(before=at(before), after=at(after))


def judged(knows, reaches):
  rewards = {"learned": {"spearman": knows}}
  return dict(judged={"rewards": rewards}, after=at(reaches))


def _of_families(gain):
  names = ("done", "untouched", "recognised", "drawn", "rendered_equivalence")
  at = lambda share: {
    "guidance_scale=1.0": {"rewards": dict.fromkeys(names, share)}
  }
  return {"before": at(0.5), "after": at(0.5 + gain)}


@pytest.mark.parametrize(
  ("name", "runs", "lines"),
  [
    (
      "five_families",
      {0: _of_families(0.1), 1: _of_families(0.3)},
      [
        "| identity | `recognised` | 50.0 ± 0.0 (2) | 70.0 ± 14.1 (2)"
        " | 20.0 ± 14.1 (2) |",
      ],
    ),
    (
      "itercomp",
      {0: aligned(0.5, 0.6), 1: model(0.3), 2: aligned(0.6, 0.7, 0.9)},
      [
        "| 1 | 80.0 ± 0.0 (1) | 50.0 ± 0.0 (1) | 60.0 ± 0.0 (1) |",
        "| 2 | – | – | – |",
        "| 3 | 90.0 ± 0.0 (1) | 60.0 ± 0.0 (1) | 70.0 ± 0.0 (1) |",
      ],
    ),
    (
      "label_noise",
      {0: model(0.9), 56: model(0.6)},
      [
        "| Bradley-Terry | 90.0 ± 0.0 (1) | – | – | – |",
        "| smoothed | 90.0 ± 0.0 (1) | – | – | – |",
        "| hinge | – | – | – | 60.0 ± 0.0 (1) |",
      ],
    ),
    (
      "users",
      {0: of_users(known=0.6, unseen=0.5), 9: of_users(adapted=0.8)},
      [
        "| pooled | 60.0 ± 0.0 (1) | 50.0 ± 0.0 (1) | – |",
        "| latent | – | – | 80.0 ± 0.0 (1) |",
      ],
    ),
    (
      "pessimism",
      {6: aligned(0.5, 0.7), 7: aligned(0.5, 0.8), 3: aligned(0.5, 0.6)},
      [
        "| value | – | – | – | – |",
        "| Gaussian, mean | 80.0 ± 0.0 (1) | 5.0 ± 0.0 (1) | 50.0 ± 0.0 (1)"
        " | 60.0 ± 0.0 (1) |",
        "| Gaussian, mean less deviation | 80.0 ± 0.0 (2) | 5.0 ± 0.0 (2)"
        " | 50.0 ± 0.0 (2) | 75.0 ± 7.1 (2) |",
      ],
    ),
    (
      "assess_vs_optimise",
      {0: judged(0.8, 0.6), 1: judged(0.6, 0.8), 3: judged(0.7, 0.7)},
      ["| scenes | 80.0 ± 0.0 (1) | 60.0 ± 0.0 (1) |", "Asymmetry: 2.00"],
    ),
  ],
)  # fmt: skip
def test_runs_stand_in_their_cells(tmp_path, name, runs, lines):
  write(tmp_path, runs)
  table = load(name).table(tmp_path).splitlines()
  assert set(lines) <= set(table)
  assert table[1].count("---") == table[0].count("|") - 1
  assert len(load(name).get_sweep()) > max(runs)


def test_methods_are_compared_by_the_runs_that_are_there(tmp_path):
  sweep = load("objectives")
  numbers = dict(
    rewards=dict(proxy=1.5), strict=0.7, diversity=0.1, texture=0.02
  )
  of = lambda strict: dict(
    before={"guidance_scale=1.0": numbers},
    after={"guidance_scale=1.0": numbers | dict(strict=strict, kl=2.0)},
  )
  write(tmp_path, dict(enumerate(map(of, (0.6, 0.7, 0.8, 0.9, 0.7)))))
  counts = sweep.affordable()
  first, second = list(counts)[:2]
  before, best, other = sweep.table(tmp_path, counts).splitlines()[2:5]
  assert before.startswith("| before | 0 | 1.500 ± 0.000 | 0.700 ± 0.000 |")
  assert best.startswith(f"| {second} | {counts[second]} | 1.500 ± 0.000 |")
  assert "| 0.800 ± 0.141 |" in best and f"| {first} |" in other
  assert "| 0.700 ± 0.100 | 0.100 ± 0.000 | 2.000 ± 0.000 |" in other


def test_every_method_spends_as_much_as_the_others():
  sweep, compare = (
    load("objectives"),
    config_lib.load_module("configs/compare.py"),
  )
  entries = sweep.get_sweep()
  for name, entry in sweep.runs(sweep.affordable()):
    assert entry in entries
    spent = entry["align.iterations"] * sweep.METHODS[name][0]
    assert abs(spent / (sweep.BUDGET * 24.3) - 1) < 0.02
  swept = {entry["config"].partition(":")[2] for entry in entries}
  assert swept == set(compare.METHODS) and len(swept) >= 16


def test_methods_have_as_many_seconds_as_the_others():
  """What is measured per evaluation, times the evaluations of an iteration."""
  timed, sweep = load("objectives_by_seconds"), load("objectives")
  assert len(timed.get_sweep()) == 3 * len(sweep.SECONDS) >= 30
  for name, count in timed.COUNTS.items():
    spent, evaluations = sweep.SECONDS[name]
    each = sweep.METHODS[name][0] * spent / evaluations
    assert abs(count * each / (60 * 24.3 * 0.27 / 12.5) - 1) < 0.02


@pytest.mark.parametrize("method", ["gardo", "flow_grpo,smoke"])
def test_a_method_follows_the_proxy_alone(method):
  config = config_lib.load(f"configs/compare.py:{method}")
  weights = {k: r.get("weight", 1.0) for k, r in config.rewards.items()}
  assert [name for name, weight in weights.items() if weight] == ["proxy"]
  assert list(config.heldout_rewards) == ["detector"] and config.job == "align"


def test_curves_are_drawn_of_the_runs_that_are_there(tmp_path, capsys):
  """One picture per page, over evaluations of the network."""
  spec = importlib.util.spec_from_file_location("curves", "docs/curves.py")
  curves = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(curves)
  entries = curves.sweep.get_sweep()
  for label in ("flow_grpo", "dancegrpo"):
    entry = curves.sweep.PAGES["policy_gradient"][label]
    run = tmp_path / str(entries.index(entry))
    run.mkdir()
    config = dict(job="align", rollout=dict(prompts=4, group=5))
    (run / "config.json").write_text(json.dumps(config))
    rows = [
      {"step": n, "eval/reward/proxy": n / 10, "eval/accuracy": 0.5}
      for n in (0, 10)
    ] + [{"step": 11, "loss": 1.0}]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
  job, panels = curves.lines(tmp_path, "policy_gradient")
  first, second = panels["learned reward"]
  assert (job, first.label, second.label) == ("align", "flow_grpo", "dancegrpo")
  assert list(first.values) == [0.0, 1.0]
  assert first.steps[-1] == pytest.approx(10 * 24.3 * 4 * 5 / 1e6)
  # Half of the budget for all, also where the config's name is another's.
  for page, label in (
    ("regularizers_and_defences", "flow_grpo, no KL"),
    ("policy_gradient", "dancegrpo"), ("players_and_references", "fixed"),
  ):  # fmt: skip
    count = curves.sweep.PAGES[page][label]["align.iterations"]
    cost = curves.unit(label, config) / curves.unit("flow_grpo", config)
    assert count * cost == pytest.approx(30, abs=1)
  assert curves.unit("flow_grpo, no KL", config) == pytest.approx(
    20.3 * 4 * 5 / 1e6
  )
  curves.main(tmp_path, tmp_path)
  files = {p.stem: p.read_bytes() for p in tmp_path.glob("*.png")}
  assert {"policy_gradient", "credit"} <= set(files) < set(curves.sweep.PAGES)
  assert all(len(data) < 40_000 for data in files.values())
  assert (
    "families/credit.md: ![flow_grpo](credit.png)" in capsys.readouterr().out
  )
  pages = {p.stem for p in pathlib.Path("docs/families").glob("*.md")}
  assert set(curves.sweep.PAGES) == pages
