"""Preferences in any file: every layout by name, and every kind of file."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from jaxreward.data import preference_files, public_layouts, table_files
from jaxreward.data.preference_files import Tally, read_rows
from jaxreward.errors import UserError

NAN = float("nan")


def picture(value: int) -> bytes:
  file = io.BytesIO()
  Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(file, "PNG")
  return file.getvalue()


def shade(image) -> int:
  """What `picture` was given."""
  return int(np.asarray(Image.open(io.BytesIO(image.read())))[0, 0, 0])


@pytest.fixture
def folder(tmp_path):
  for i in range(5):
    (tmp_path / f"{i}.png").write_bytes(picture(40 * i))
  return tmp_path


def write(folder, *rows, name="rows.jsonl"):
  path = folder / name
  text = "".join(json.dumps(row) + "\n" for row in rows)
  path.write_text(json.dumps(rows) if path.suffix == ".json" else text)
  return path


def hugging_face(data: bytes | None, path: str | None = None) -> dict:
  return {"bytes": data, "path": path}


def response(model: str, *content) -> dict:
  return {"model_name": model, "response_content": [list(c) for c in content]}


# Layout -> a row as published, images as the names 0.png ... 4.png; then what
# is read: shades / 40 of the images, labels of the pairs in order, and others.
ROWS = {
  "pairs": (
    {"prompt": "p", "image_a": "1.png", "image_b": "2.png", "label": "b",
     "user": 7, "confidence": 0.5, "source": "0.png",
     "answers": {"looks": "tie"}, "aspects": {"text": [0.25, None]}},
    "12", [0.0],
    {"user": "7", "confidence": 0.5, "source": 0, "looks": [0.5],
     "aspects": {"text": (0.25, NAN)}},
  ),
  "lists": (
    {"prompt": "p", "images": ["3.png", "1.png", "2.png"],
     "ranks": [2, 1, 2], "ratings": [0.5, 1, 0.5]},
    "312", [0.0, 0.5, 1.0], {"rating": (0.5, 1.0, 0.5)},
  ),
  "chosen": (
    {"prompt": "p", "chosen": "1.png", "rejected": "0.png"}, "10", [1.0], {}
  ),
  "pick_a_pic": (
    {"caption": "p", "jpg_0": "1.png", "jpg_1": "2.png", "label_0": 0.5,
     "label_1": 0.5, "has_label": True, "are_different": True, "user_id": 3},
    "12", [0.5], {"user": "3"},
  ),
  "hpdv2": (
    {"prompt": "p", "image_path": ["0.png", "1.png"],
     "human_preference": [0, 1], "user_hash": "u"},
    "01", [0.0], {"user": "u"},
  ),
  "hpdv2_test": (
    {"prompt": "p", "image_path": ["0.png", "1.png", "2.png"],
     "rank": [2, 1, 3], "raw_annotations": [[1, 2, 3]]},
    "012", [0.0, 1.0, 1.0], {},
  ),
  "hpdv3": (
    {"prompt": "p", "path1": "2.png", "path2": "1.png", "choice_dist": [12, 7],
     "confidence": 0.9, "model1": "x", "model2": "y"},
    "21", [1.0], {"confidence": 0.9, "models": ("x", "y")},
  ),
  "edit_reward_data": (
    {"prompt": "p", "path_src": "0.png", "path1": "2.png", "path2": "1.png",
     "choice_dist": None, "confidence": None, "model1_dim1_score": 4,
     "model2_dim1_score": 1, "tie_case": False},
    "21", [1.0], {"source": 0, "aspects": {"dim1": (1.0, 0.0)}},
  ),
  "image_reward_db": (
    {"prompt": "p", "generations": ["4.png", "1.png"], "ranking": [1, 1]},
    "41", [0.5], {},
  ),
  "video_align": (
    {"path_A": "1.png", "path_B": "2.png", "prompt": "p", "VQ": "A",
     "MQ": "same", "TA": "B"},
    "12", [], {"VQ": [1.0], "MQ": [0.5], "TA": [0.0]},
  ),
  "edit_reward_bench": (
    {"id": "k_1", "instruction": "p", "source_image": "0.png",
     "candidate_1": "1.png", "candidate_2": "2.png", "ranking": "C>B",
     "comparison_type": "BvsC"},
    "12", [0.0], {"source": 0, "key": "k_1", "category": "BvsC"},
  ),
  "edit_score_bench": (
    {"key": ["a", "b"], "task_type": "extract", "instruction": "p",
     "input_images": ["0.png"], "output_images": ["1.png", "2.png"],
     "score": [3, 1], "dimension": "overall"},
    "12", [1.0], {"source": 0, "category": "overall"},
  ),
  "mmrb2": (
    {"id": "i", "prompt": [["image", "0.png"], ["text", "p"]],
     "response_a": response("x", ("text", "here"), ("image", "1.png")),
     "response_b": response("y", ("image", "2.png")), "chosen": "B",
     "human_annotations": [1, 2, 2], "prompt_source": "emu-edit"},
    "12", [0.0], {"source": 0, "models": ("x", "y"), "category": "emu-edit"},
  ),
  "genai_bench": (
    {"prompt": "p", "left_model": "x", "left_image": "1.png",
     "right_model": "y", "right_image": "2.png", "vote_type": "bothbad_vote"},
    "12", [0.5], {"rating": (0.0, 0.0), "models": ("x", "y")},
  ),
  "genai_bench_edits": (
    {"instruct_prompt": "p", "source_prompt": "s", "target_prompt": "t",
     "source_image": "0.png", "left_model": "x",
     "left_output_image": "1.png", "right_model": "y",
     "right_output_image": "2.png", "vote_type": "leftvote"},
    "12", [1.0], {"source": 0},
  ),
}  # fmt: skip


def check(row, shades, labels, others):
  assert row.prompt == "p"
  assert [shade(i) // 40 for i in row.images] == [int(c) for c in shades]
  assert [p for _, _, p in row.pairs()] == labels
  np.testing.assert_array_equal(
    np.isnan(row.prob),
    np.isnan(row.prob.T) | np.eye(len(row.images), dtype=bool),
  )
  others = dict(others)
  if (source := others.pop("source", None)) is not None:
    assert row.source is not None and shade(row.source) == 40 * source
  else:
    assert row.source is None
  for name, pairs in [(n, others.pop(n)) for n in (*row.aspect_prob,)]:
    assert [row.aspect_prob[name][0, 1]] == pairs
  for name, expected in others.items():
    np.testing.assert_equal(getattr(row, name), expected)


def test_every_layout_has_a_row():
  assert set(ROWS) == set(public_layouts.LAYOUTS)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_each_published_layout(folder, name):
  """By its name, and by its columns alone."""
  row, *expected = ROWS[name]
  path = write(folder, row)
  for layout in (name, "auto"):
    (found,) = read_rows(path, layout)
    check(found, *expected)


def _stored(value, arrow_like):
  """A row with the bytes of images, as Hugging Face writes them."""
  if isinstance(value, str) and value.endswith(".png"):
    data = picture(40 * int(value[0]))
    return hugging_face(data, value) if arrow_like else data
  if isinstance(value, list):
    return [_stored(v, arrow_like) for v in value]
  return value


TABLES = ("pick_a_pic", "edit_score_bench", "edit_reward_bench", "genai_bench")


@pytest.mark.parametrize("name", TABLES)
def test_images_within_parquet_tables(folder, name):
  """Plain bytes, and {bytes, path}; each image from its own row and group."""
  parquet = pytest.importorskip("pyarrow.parquet")
  arrow = pytest.importorskip("pyarrow")
  row, shades, *expected = ROWS[name]
  for arrow_like in (False, True):
    stored = {k: _stored(v, arrow_like) for k, v in row.items()}
    table = arrow.Table.from_pylist([stored] * 5)
    parquet.write_table(table, folder / "t.parquet", row_group_size=2)
    rows = list(read_rows(folder / "t.parquet", name))
    assert len(rows) == 5
    for found in (rows[4], rows[0]):
      check(found, shades, *expected)
    assert rows[0].images[0].key == rows[4].images[0].key
    assert rows[0].images[0].key != rows[0].images[1].key
    assert "t.parquet#5." in str(rows[4].images[0])


def test_folders_of_shards_splits_and_patterns(folder):
  arrow = pytest.importorskip("pyarrow")
  parquet = pytest.importorskip("pyarrow.parquet")
  one = {"prompt": "p", "image_a": hugging_face(picture(0)),
         "image_b": hugging_face(None, "3.png"), "label": "a"}  # fmt: skip
  table = arrow.Table.from_pylist([one])
  for split, count in (("train", 2), ("test", 1)):
    for i in range(count):
      name = f"{split}-0000{i}-of-0000{count}.parquet"
      parquet.write_table(table, folder / name)
      shard = _made(folder / "hf" / split) / f"data-0000{i}-of-0000{count}"
      with (
        arrow.OSFile(f"{shard}.arrow", "wb") as sink,
        arrow.ipc.new_stream(sink, table.schema) as out,
      ):
        out.write_table(table)
  (folder / "hf" / "dataset_dict.json").write_text('{"splits": ["train"]}')
  (folder / "hf" / "train" / "state.json").write_text("{}")
  counts = {}
  for source, split in (
    (folder, "train"), (folder, "test"), (folder / "hf", ""),
    (folder / "hf", "test"), (folder / "*.parquet", ""),
  ):  # fmt: skip
    rows = list(read_rows(source, split=split, images=str(folder)))
    counts[source.name, split] = len(rows)
    assert [shade(i) for i in rows[-1].images] == [0, 120]
  assert list(counts.values()) == [2, 1, 2, 1, 3]
  with pytest.raises(UserError, match=r'no split "tset" \(did you mean "test"'):
    list(read_rows(folder, split="tset"))


def _made(path):
  path.mkdir(parents=True, exist_ok=True)
  return path


def test_a_folder_of_tfds(tmp_path):
  """Prepared and read without TensorFlow."""
  tfds = pytest.importorskip("tensorflow_datasets")
  features = tfds.features
  image = features.Image(shape=(None, None, 3), encoding_format="png")

  class Votes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # nothing is downloaded

    def _info(self):
      columns = {
        "prompt": features.Text(), "images": features.Sequence(image),
        "ratings": features.Sequence(np.float32),
        "user": features.ClassLabel(names=["u", "v"]),
      }  # fmt: skip
      return tfds.core.DatasetInfo(
        builder=self, features=features.FeaturesDict(columns)
      )

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      files = [io.BytesIO(picture(40)), io.BytesIO(picture(80))]
      yield "0", {
        "prompt": "p", "images": files, "ratings": [0.5, 1.0], "user": "v"
      }  # fmt: skip

  builder = Votes(data_dir=tmp_path, file_format="array_record")
  builder.download_and_prepare()
  (found,) = read_rows(str(builder.data_path))
  check(found, "12", [0.0], {"rating": (0.5, 1.0), "user": "v"})
  with pytest.raises(UserError, match='no split "test"; there are train'):
    list(read_rows(str(builder.data_path), split="test"))


def test_texts_of_every_kind(folder):
  row = ROWS["hpdv3"][0]
  whole = write(folder, row, row, name="a.json")
  assert len(list(read_rows(whole))) == 2
  nested = folder / "b.json"
  nested.write_text(json.dumps({"task": "t2i", "pairs": [ROWS["mmrb2"][0]]}))
  assert next(read_rows(nested)).models == ("x", "y")
  table = folder / "c.csv"
  table.write_text(
    'prompt,images,ratings,user\np,"[""0.png"", ""1.png""]","[1, 5]",u\n'
  )
  (found,) = read_rows(table, scale=(1, 5))
  assert found.rating == (0.0, 1.0) and found.pairs() == [(0, 1, 0.0)]
  videos = folder / "v.csv"
  row = ROWS["video_align"][0]
  videos.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
  check(next(read_rows(videos)), *ROWS["video_align"][1:])


def test_a_column_map(folder):
  row = {"words": "p", "left": "1.png", "right": "2.png", "stars_l": 2,
         "stars_r": 5, "who": "me", "sharp": [1, 3], "sure": 0.5}  # fmt: skip
  columns = {
    "prompt": "words", "images": ("left", "right"), "user": "who",
    "rating": ("stars_l", "stars_r"), "aspects": {"sharpness": "sharp"},
    "confidence": "sure",
  }  # fmt: skip
  path = write(folder, row, row | {"sure": 1.0})
  rows = list(read_rows(path, "columns", columns=columns, scale=(1, 5)))
  check(
    rows[0], "12", [0.0],
    {"user": "me", "rating": (0.25, 1.0), "confidence": 0.5,
     "aspects": {"sharpness": (0.0, 0.5)}},
  )  # fmt: skip
  sure = list(
    read_rows(path, "columns", columns=columns, scale=(1, 5), confidence=0.6)
  )
  assert [r.confidence for r in sure] == [1.0]
  one_aspect = {"label": "VQ"}
  path = write(folder, ROWS["video_align"][0])
  (found,) = read_rows(path, "video_align", columns=one_aspect)
  assert found.pairs() == [(0, 1, 1.0)]


GOOD = ROWS["pairs"][0]


@pytest.mark.parametrize(
  ("columns", "words"),
  [
    ({"prompt": "captoin"}, r'columns.prompt="captoin": the file has no such'),
    ({"promt": "prompt"}, 'no such field.*did you mean "prompt"'),
    ({"images": 3}, "it names a column"),
    ({"images": ("image_a", "image_c")}, 'images="image_c".*mean "image_[ab]"'),
    ({"best": "second"}, 'it is "first"'),
  ],
)
def test_maps_that_do_not_fit(folder, columns, words):
  path = write(folder, GOOD)
  base = {"prompt": "prompt", "images": ("image_a", "image_b")}
  with pytest.raises(UserError, match=words):
    list(
      read_rows(path, "columns", columns={**base, "label": "label", **columns})
    )
  with pytest.raises(UserError, match="columns is empty"):
    preference_files.layout_of("columns")
  with pytest.raises(UserError, match='did you mean "hpdv3"'):
    preference_files.layout_of("hpdv4")
  with pytest.raises(UserError, match="names no answers"):
    preference_files.layout_of("columns", base)


@pytest.mark.parametrize(
  ("row", "words"),
  [
    (GOOD | {"label": "c"}, '"label" is "c"; it must be "a", "b", "tie"'),
    (GOOD | {"label": 1.5}, "from 0 to 1"),
    (GOOD | {"confidence": 2}, '"confidence" is 2; expected 0 to 1'),
    (GOOD | {"aspects": {"text": []}}, "expected a list of 2 or more"),
    (GOOD | {"aspects": {}}, "an entry per aspect"),
    (GOOD | {"aspects": {"text": [1, 2, 3]}}, 'entries and "text" 3'),
    (GOOD | {"aspects": {"text": [1, 3]}}, "outside 0 to 1"),
    (ROWS["lists"][0] | {"images": ["1.png"]}, "a list of 2 or more"),
    (ROWS["lists"][0] | {"ranks": [1, 2]}, '3 entries and "ranks" 2'),
    (ROWS["lists"][0] | {"ranks": [1, 2, "x"]}, 'holds "x", no number'),
    (ROWS["edit_reward_bench"][0] | {"ranking": "A>>B"}, "an order of 2 images such as"),
    (ROWS["edit_reward_bench"][0] | {"ranking": "A>B>C"}, "an order of 2"),
    (ROWS["mmrb2"][0] | {"response_b": response("y", ("text", "no"))},
     '"response_b" has no image'),
    (ROWS["genai_bench"][0] | {"vote_type": "novote"}, '"bothbad_vote" or the'),
    ({"prompt": "p", "image_a": "1.png"}, '"image_b" is missing'),
  ],
)  # fmt: skip
def test_malformed_rows_are_told_skipped_and_counted(folder, row, words):
  path = write(folder, GOOD, row, GOOD, GOOD)
  with pytest.raises(UserError, match=words) as error:
    list(read_rows(path))
  assert str(error.value).startswith(f"{path}, line 2: ")
  assert "\n" not in str(error.value)
  tally = Tally()
  assert len(list(read_rows(path, skip=0.25, tally=tally))) == 3
  assert tally.counts() == {
    "rows": 3, "unlabeled": 0, "unsure": 0, "malformed": 1
  }  # fmt: skip
  assert ", line 2: " in tally.first
  with pytest.raises(UserError, match="1 of 4 rows are malformed, more than"):
    list(read_rows(path, skip=0.2))


def test_lines_of_no_json_and_rows_without_an_answer(folder):
  path = write(folder, *[ROWS["pick_a_pic"][0]] * 3)
  unlabeled = ROWS["pick_a_pic"][0] | {"has_label": False}
  path.write_text(path.read_text() + "{\n" + json.dumps(unlabeled))
  tally = Tally()
  assert len(list(read_rows(path, skip=0.5, tally=tally))) == 3
  assert (tally.malformed, tally.unlabeled) == (1, 1)
  assert "line 4" in tally.first and "is not JSON" in tally.first


def test_bytes_of_no_image_and_damaged_tables(folder):
  arrow = pytest.importorskip("pyarrow")
  parquet = pytest.importorskip("pyarrow.parquet")
  row = {"prompt": "p", "image_a": picture(0), "image_b": b"no image at all",
         "label": "a"}  # fmt: skip
  path = folder / "t.parquet"
  parquet.write_table(arrow.Table.from_pylist([row]), path)
  with pytest.raises(UserError, match=r'row 1: "image_b" holds 15 bytes of no'):
    list(read_rows(path))
  path.write_bytes(path.read_bytes()[:200])
  with pytest.raises(UserError, match=r"no readable \.parquet table"):
    list(read_rows(path))


def test_without_pyarrow_the_extra_is_named(folder, monkeypatch):
  def missing(name):
    raise ImportError(name)

  monkeypatch.setattr(table_files.importlib, "import_module", missing)
  (folder / "t.parquet").write_bytes(b"PAR1")
  with pytest.raises(UserError, match=r'pip install "jaxreward\[tables\]"'):
    list(read_rows(folder / "t.parquet"))
