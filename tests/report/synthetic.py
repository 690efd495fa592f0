"""A made-up run: pictures, metrics, timings and an evaluation."""

import json

import numpy as np

from jaxreward.evaluation import accuracy, tables
from jaxreward.report import grids

KINDS = ("single", "two", "counting", "colours", "position", "attribution")
COLOURS = {
  "red": (0.87, 0.2, 0.18),
  "green": (0.2, 0.63, 0.25),
  "blue": (0.17, 0.35, 0.8),
  "yellow": (0.93, 0.78, 0.15),
  "purple": (0.5, 0.22, 0.62),
}
SHAPES = ("circle", "square", "triangle", "cross")


def picture(rng, objects, grain=0.0):
  """[36, 36, 3] with the named objects in cells of a 3 x 3 grid."""
  image = np.full((36, 36, 3), 0.93)
  y, x = np.mgrid[:36, :36] + 0.5
  cells = rng.permutation(9)[: len(objects)]
  for cell, (colour, shape) in zip(cells, objects, strict=True):
    cy, cx = cell // 3 * 12 + 6, cell % 3 * 12 + 6
    dy, dx = np.abs(y - cy), np.abs(x - cx)
    inside = {
      "circle": dy**2 + dx**2 < 20,
      "square": (dy < 4) & (dx < 4),
      "triangle": (dx < (y - cy + 4) / 2) & (dy < 4),
      "cross": ((dy < 1.4) | (dx < 1.4)) & (dy < 4.4) & (dx < 4.4),
    }[shape]
    image[inside] = COLOURS[colour]
  return np.clip(image + grain * rng.normal(size=image.shape), 0, 1)


def cards(rng, per_kind=7):
  """(before, after, texts) for every kind."""
  before, after, texts = [], [], []
  names = list(COLOURS)
  for kind in KINDS:
    for i in range(per_kind):
      count = 1 if kind in ("single", "colours") else 2
      asked = [
        (names[rng.integers(5)], SHAPES[rng.integers(4)]) for _ in range(count)
      ]
      other = [(names[rng.integers(5)], shape) for _, shape in asked]
      ok = i % 3 == 0, i % 4 != 3
      shown = [asked if good else other for good in ok]
      before.append(picture(rng, shown[0], 0.03))
      after.append(picture(rng, shown[1], 0.02))
      say = lambda objects: ", ".join(f"{c} {s}" for c, s in objects)
      texts.append(
        {
          "prompt": " and ".join(f"a {c} {s}" for c, s in asked),
          "kind": kind,
          "seen_before": say(shown[0]),
          "seen_after": say(shown[1]),
          "ok_before": ok[0],
          "ok_after": ok[1],
        }
      )
  return np.array(before), np.array(after), texts


def numbers(rng, rate, n=480, **more):
  """The evaluation of one setting at about this accuracy."""
  kind = np.arange(n) % len(KINDS)
  strict = rng.random(n) < rate - 0.06 * (kind - 2.5)
  rewards = {"detector": rate + 0.02, "learned": 2.1 * rate - 0.7}
  result = accuracy.summarise(strict, kind, names=KINDS)
  return result | {"rewards": rewards, **more}


def evaluation(rng):
  """Before and after at three scales of guidance, and a reward model."""
  before = dict(diversity=0.212, kl=0.0, texture=0.011, out_of_range=0.001)
  after = dict(diversity=0.197, kl=0.034, texture=0.0127, out_of_range=0.002)
  scales = (1.0, 2.0, 3.0)
  sides = {
    name: {
      f"guidance_scale={scale}": numbers(rng, rate + 0.06 * i, **more)
      for i, scale in enumerate(scales)
    }
    for name, rate, more in (("before", 0.55, before), ("after", 0.81, after))
  }
  share = np.linspace(0.55, 0.95, 5)
  bins = [
    {"confidence": c, "accuracy": c - 0.02, "n": 100 + 40 * i}
    for i, c in enumerate(share)
  ]
  model = accuracy.share(rng.random(1200) < 0.93) | {"calibration": bins}
  return sides | {"reward_model": model}


def metric_rows(rng, steps=90):
  """Rows of metrics.jsonl for a reward model and an alignment."""
  rows = []
  for step in range(40):
    rows.append(
      {
        "job": "train_reward",
        "step": step * 10,
        "loss": 0.69 * np.exp(-step / 15) + 0.02 * rng.normal(),
        "accuracy": 0.93 - 0.4 * np.exp(-step / 8),
        "calibration_error": 0.1 * np.exp(-step / 10) + 0.02,
      }
    )
  rise = lambda t: 1 - np.exp(-3 * t)
  for step in range(steps):
    t = step / steps
    noise = lambda size: size * rng.normal()
    row = {
      "job": "align",
      "step": step,
      "panel/trained_reward": 0.55 + 0.3 * rise(t) + noise(0.03),
      "panel/heldout_reward": 0.5 + 0.2 * rise(t) + noise(0.03),
      "panel/diversity": 0.21 - 0.015 * t + noise(0.003),
      "kl": 0.035 * t + abs(noise(0.001)),
      "clip_fraction_high": 0.03 + 0.02 * t + abs(noise(0.008)),
      "clip_fraction_low": 0.02 + 0.02 * t + abs(noise(0.008)),
      "grad_norm": 0.5 + 0.1 * rng.random(),
      "log_prob_gap": 0.0,
      "panel/texture": 0.011 + 0.002 * t + noise(3e-4),
      "panel/edge_density": 0.06 + noise(0.001),
      "panel/colour_entropy": 1.4 + noise(0.05),
      "panel/brightness": 0.82 + noise(0.01),
      "panel/zero_variance_groups": 0.1 + 0.3 * t,
      "panel/disagreement": 0.2 + noise(0.02),
      "always_null": None,
      "learning_rate": 1e-4 * (1 - t),
    }
    if step % 15 == 0:
      for i, kind in enumerate(KINDS):
        value = 0.55 + 0.27 * rise(t) - 0.06 * (i - 2.5) + noise(0.02)
        row[f"eval/accuracy/{kind}"] = min(value, 1.0)
    rows.append(row)
  return rows


def timing_rows(rng, steps=90):
  """Rows of timings.jsonl; the first holds compilation."""
  rows = []
  for step in range(steps):
    extra = 12.0 if step == 0 else 0.0
    parts = {"sample": 1.1 + extra, "reward": 0.2, "update": 2.3 + extra}
    rows.append(
      {"job": "align", "step": step}
      | {k: v * (1 + 0.05 * rng.random()) for k, v in parts.items()}
    )
  return rows


def write_lines(path, rows):
  path.write_text("".join(json.dumps(tables.plain(r)) + "\n" for r in rows))


def workdir(path, seed=0):
  """Fills the folder as a run would; returns the texts of its cards."""
  rng = np.random.default_rng(seed)
  before, after, texts = cards(rng)
  texts[0]["prompt"] = "a <script>alert('x')</script> circle & \"more\""
  grids.save_cards(path / "grids" / "cards.npz", before, after, texts)
  tables.write_json(path / "evaluation.json", evaluation(rng))
  config = {"job": "pipeline", "seed": seed, "model": {"name": "scene_dit"}}
  tables.write_json(path / "config.json", config)
  write_lines(path / "metrics.jsonl", metric_rows(rng))
  write_lines(path / "timings.jsonl", timing_rows(rng))
  return texts
