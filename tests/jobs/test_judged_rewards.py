"""The job evaluate judges rewards on a file of preferences."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from tests import tiny

pytestmark = pytest.mark.job

REWARDS = """
def bright(images, prompts):
  return images.mean((2, 3, 4))

def dark(images, prompts):
  return -images.mean((2, 3, 4))
"""


def test_rewards_are_judged_side_by_side(tmp_path):
  generator = np.random.default_rng(0)
  rows = []
  for i in range(12):
    for side, low in (("a", 150), ("b", 20)):
      image = generator.integers(low, low + 60, (20, 16, 3), np.uint8)
      Image.fromarray(image).save(tmp_path / f"{i}{side}.png")
    pair = (f"{i}a.png", f"{i}b.png")
    label = "b" if i % 2 else "a"  # the light one
    names = dict(zip(("image_a", "image_b"), pair[:: -1 if i % 2 else 1]))  # noqa: B905
    prompt = f"a {('red', 'blue')[i % 2]} thing {i // 2}"
    rows.append(dict(prompt=prompt, label=label, **names))
  (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
  (tmp_path / "own.py").write_text(REWARDS)
  config = tiny.load(
    "evaluate_scenes.py:smoke",
    {
      "data.grammar": "free", "rewards.detector": "none",
      "rewards.bright.fn": f"{tmp_path}/own.py:bright",
      "rewards.dark.fn": f"{tmp_path}/own.py:dark",
      "eval.preferences": tmp_path / "pairs.jsonl",
      "eval.judging.inside": tmp_path / "pairs.jsonl",
      "eval.judging.side": 8, "eval.judging.rows_at_once": 5, "mesh.data": 1,
      "eval.judging.combine": "positive",
    },
  )  # fmt: skip
  workdir = tiny.run(config, tmp_path / "run")
  text = (pathlib.Path(workdir) / "evaluation.json").read_text()
  judged = json.loads(text)["judged"]
  bright, dark = (judged["rewards"][name] for name in ("bright", "dark"))
  assert (bright["accuracy"], dark["accuracy"], bright["n"]) == (1.0, 0.0, 12)
  assert judged["differences"]["dark"]["value"] == -1.0
  for view in ("mirrored", "reworded"):
    assert bright[view]["order"]["accuracy"] == 1.0
    assert bright[view]["shift"] == pytest.approx(0, abs=1e-5)
  assert bright["corrupted"]["covered"]["noticed"]["accuracy"] == 1.0
  assert dark["corrupted"]["covered"]["noticed"]["accuracy"] == 0.0
  assert bright["contrast"]["prompts"]["accuracy"] == 0.0  # it reads no words
  assert bright["contrast"]["images"]["n"] == 6
  assert bright["gap"] == 0.0
  fitted = judged["rewards"]["fitted weights"]
  assert fitted["accuracy"] == 1.0 and fitted["weights"]["bright"] > 0
  assert fitted["weights"]["dark"] == 0.0
  assert "judged on preferences" in (workdir / "report.html").read_text()
