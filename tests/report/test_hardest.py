"""The hardest pairs of a reward model on the page."""

import base64
import io

import numpy as np
from PIL import Image

from jaxreward.report import collect, hardest


def test_pairs_are_drawn_with_their_scores(tmp_path):
  images = np.zeros((2, 2, 8, 8, 3), np.uint8)
  images[0, 0] = 200
  texts = [
    {"prompt": f"a <{i}> cat", "scores": [-1.5, 2.0], "probability": 0.029}
    for i in range(2)
  ]
  (tmp_path / "grids").mkdir()
  hardest.save(tmp_path / "grids" / hardest.FILE, images, texts)
  pair = hardest.load(tmp_path / "grids" / hardest.FILE)[0]
  data = base64.b64decode(pair["preferred"].partition(",")[2])
  image = np.asarray(Image.open(io.BytesIO(data)))
  assert image.shape == (24, 24, 3) and (image == 200).all()
  assert pair["scores"] == ["-1.5", "2"]
  assert pair["probability"] == "2.9 %"
  page = collect.report_from_workdir(tmp_path, environment={}).read_text()
  assert "hardest held-out pairs" in page
  assert "a &lt;1&gt; cat" in page
  (tmp_path / "grids" / hardest.FILE).write_bytes(b"no archive")
  page = collect.report_from_workdir(tmp_path, environment={}).read_text()
  assert "hardest_pairs.npz could not be read" in page
