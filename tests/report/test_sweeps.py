"""Tables of sweeps, from the files that their runs leave."""

import importlib.util
import json

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


def write_one(folder, i, config, evaluation):
  (folder / str(i)).mkdir()
  (folder / str(i) / "config.json").write_text(json.dumps(config))
  (folder / str(i) / "evaluation.json").write_text(json.dumps(evaluation))


def write(folder, runs):
  for i, run in enumerate(runs):
    write_one(folder, i, *run)


def test_mean_and_deviation_over_seeds():
  assert sweeps.percent([0.5, 0.7]) == "60.0 ± 14.1 (2)"
  assert sweeps.percent([0.5]) == "50.0 ± 0.0 (1)"
  assert sweeps.percent([]) == "–"


def _of_loss(name, noise, accuracy):
  training = {"loss": {"name": name}, "label_noise": noise}
  return {"train_reward": training}, {"reward_model": {"accuracy": accuracy}}


def _of_head(head, **shares):
  users = {name: {"accuracy": share} for name, share in shares.items()}
  return {"reward_model": {"head": {"name": head}}}, {"users": users}


def _of_signal(head, composition, strict):
  config = {"reward_model": {"head": {"name": head}}}
  model = {"accuracy": 0.8, "calibration_error": 0.05}
  at = lambda strict: {"guidance_scale=1.0": {"strict": strict}}
  results = {"reward_model": model, "before": at(0.5), "after": at(strict)}
  return config | {"composition": {"name": composition}}, results


def _of_model(backbone, rows, knows, reaches):
  config = {
    "reward_model": {"backbone": {"name": backbone}},
    "train_reward": {"train_rows": rows, "label_noise": 0.05},
  }
  judged = {"rewards": {"learned": {"spearman": knows}}}
  after = {"guidance_scale=1.0": {"strict": reaches}}
  return config, {"judged": judged, "after": after}


def _of_round(policies, accuracy, before, after):
  sampling = {"gallery": [f"runs/{i}" for i in range(policies)]}
  at = lambda strict: {"guidance_scale=1.0": {"strict": strict}}
  results = {"before": at(before), "after": at(after)}
  model = {"reward_model": {"accuracy": accuracy}}
  return {"train_reward": {"sampling": sampling}}, model | results


@pytest.mark.parametrize(
  ("name", "runs", "lines"),
  [
    (
      "itercomp",
      [_of_round(0, 0.8, 0.5, 0.6), _of_round(2, 0.9, 0.6, 0.7)],
      [
        "| 1 | 80.0 ± 0.0 (1) | 50.0 ± 0.0 (1) | 60.0 ± 0.0 (1) |",
        "| 2 | – | – | – |",
        "| 3 | 90.0 ± 0.0 (1) | 60.0 ± 0.0 (1) | 70.0 ± 0.0 (1) |",
      ],
    ),
    (
      "label_noise",
      [_of_loss("bradley_terry", 0.0, 0.9), _of_loss("hinge", 0.4, 0.6)],
      [
        "| Bradley-Terry | 90.0 ± 0.0 (1) | – | – | – |",
        "| smoothed | 90.0 ± 0.0 (1) | – | – | – |",
        "| hinge | – | – | – | 60.0 ± 0.0 (1) |",
      ],
    ),
    (
      "users",
      [_of_head("scalar", known=0.6, unseen=0.5), _of_head("latent", adapted=0.8)],
      [
        "| pooled | 60.0 ± 0.0 (1) | 50.0 ± 0.0 (1) | – |",
        "| latent | – | – | 80.0 ± 0.0 (1) |",
      ],
    ),
    (
      "pessimism",
      [
        _of_signal("gaussian", "lower_bound", 0.7),
        _of_signal("gaussian", "lower_bound", 0.8),
        _of_signal("gaussian", "weighted_sum", 0.6),
      ],
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
      [_of_model("scenes", 768, 0.8, 0.6), _of_model("policy", 768, 0.7, 0.7),
       _of_model("scenes", 48, 0.6, 0.8)],
      ["| scenes | 80.0 ± 0.0 (1) | 60.0 ± 0.0 (1) |", "Asymmetry: 2.00"],
    ),
  ],
)  # fmt: skip
def test_runs_stand_in_their_cells(tmp_path, name, runs, lines):
  write(tmp_path, runs)
  table = load(name).table(tmp_path).splitlines()
  assert set(lines) <= set(table)
  assert table[1].count("---") == table[0].count("|") - 1
  assert len(list(load(name).get_sweep())) >= len(lines)


def test_methods_are_compared_by_the_runs_that_are_there(tmp_path):
  sweep = load("objectives")
  numbers = dict(
    rewards=dict(proxy=1.5), strict=0.7, diversity=0.1, texture=0.02
  )
  for i, strict in enumerate((0.6, 0.7, 0.8, 0.9, 0.7)):
    after = numbers | dict(strict=strict, kl=2.0)
    evaluation = dict(before=numbers, after=after)
    each = {k: {"guidance_scale=1.0": v} for k, v in evaluation.items()}
    write_one(tmp_path, i, {}, each)
  first, second = list(sweep.METHODS)[:2]
  before, best, other = sweep.table(tmp_path).splitlines()[2:5]
  assert before.startswith("| before | 0 | 1.500 ± 0.000 | 0.700 ± 0.000 |")
  assert best.startswith(
    f"| {second} | {sweep.iterations(second)} | 1.500 ± 0.000 |"
  )
  assert "| 0.800 ± 0.141 |" in best and f"| {first} |" in other
  assert "| 0.700 ± 0.100 | 0.100 ± 0.000 | 2.000 ± 0.000 |" in other


def test_every_method_spends_as_much_as_the_others():
  sweep, compare = (
    load("objectives"),
    config_lib.load_module("configs/compare.py"),
  )
  entries = list(sweep.get_sweep())
  for entry, (name, _) in zip(entries, sweep.runs(), strict=True):
    spent = entry["align.iterations"] * sweep.METHODS[name][0]
    assert abs(spent / sweep.SPENT - 1) < 0.02
  swept = {entry["config"].partition(":")[2] for entry in entries}
  assert swept == set(compare.METHODS) and len(swept) >= 16


@pytest.mark.parametrize("method", ["gardo", "flow_grpo,smoke"])
def test_a_method_follows_the_proxy_alone(method):
  config = config_lib.load(f"configs/compare.py:{method}")
  weights = {k: r.get("weight", 1.0) for k, r in config.rewards.items()}
  assert [name for name, weight in weights.items() if weight] == ["proxy"]
  assert list(config.heldout_rewards) == ["detector"] and config.job == "align"
