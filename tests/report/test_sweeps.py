"""Tables of sweeps, from the files that their runs leave."""

import importlib.util
import json

import pytest

from jaxreward.report import sweeps


def load(name):
  spec = importlib.util.spec_from_file_location(
    name, f"configs/sweeps/{name}.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def write(folder, runs):
  for i, (config, evaluation) in enumerate(runs):
    (folder / str(i)).mkdir()
    (folder / str(i) / "config.json").write_text(json.dumps(config))
    (folder / str(i) / "evaluation.json").write_text(json.dumps(evaluation))


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
