"""The TFDS builder: prepared and read without TensorFlow."""

import sys

import numpy as np
import pictures
import pytest

from jaxreward.data.prompts import SPLITS
from jaxreward.errors import UserError
from jaxreward.tasks.scenes import grammar, tfds_builder


@pytest.mark.job
@pytest.mark.turns(3)
def test_pictures_depend_on_prompt_and_seed_alone():
  prompts = pictures.balanced(12)
  seeds = list(range(12))
  drawn = tfds_builder.images(prompts, seeds)
  assert drawn.shape == (12, 36, 36, 3) and drawn.dtype == np.uint8
  again = tfds_builder.images(prompts[::-1], seeds[::-1])
  np.testing.assert_array_equal(drawn, again[::-1])
  other = tfds_builder.images(prompts, [s + 1 for s in seeds])
  assert (drawn != other).any((1, 2, 3)).all()


def test_without_tfds_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
  with pytest.raises(UserError, match=r"jaxreward\[tfds\]"):
    tfds_builder.make_builder("/nowhere")


def test_wrong_arguments():
  with pytest.raises(UserError, match="per_prompt=0"):
    tfds_builder.make_builder("/nowhere", per_prompt=0)
  with pytest.raises(UserError, match="seed=-3"):
    tfds_builder.make_builder("/nowhere", seed=-3)


@pytest.mark.slow
def test_prepared_and_read_without_tensorflow(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  builder = tfds_builder.make_builder(tmp_path, per_prompt=1, seed=3)
  assert builder.name == tfds_builder.NAME
  builder.download_and_prepare()
  asked = {}
  for split in SPLITS:
    source = builder.as_data_source(split)
    prompts = {p.text: p for p in grammar.prompts(split)}
    assert len(source) == len(prompts)
    rows = [source[i] for i in range(0, len(source), 9)]
    chosen = [prompts[r["prompt"].decode()] for r in rows]
    assert [r["kind"] for r in rows] == [p.category for p in chosen]
    assert {r["seed"] for r in rows} == {3}
    images = np.stack([r["image"] for r in rows])
    expected = tfds_builder.images(chosen, [r["seed"] for r in rows])
    np.testing.assert_array_equal(images, expected)
    asked.update(zip((p.text for p in chosen), images, strict=True))
  prompts = [grammar.parse(text) for text in asked]
  verdict = pictures.verdict(
    pictures.look(np.stack(list(asked.values())) / 255), prompts
  )
  assert verdict.strict.mean() >= 0.99
  assert "tensorflow" not in sys.modules


@pytest.mark.slow
def test_grain_reads_it(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  import grain

  builder = tfds_builder.make_builder(tmp_path, per_prompt=1)
  builder.download_and_prepare()
  source = builder.as_data_source("validation")
  dataset = grain.MapDataset.source(source).shuffle(seed=1).batch(8)
  assert dataset[0]["image"].shape == (8, 36, 36, 3)
