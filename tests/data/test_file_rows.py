"""Rows of a user's files: what is read, streamed, and said about mistakes."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from jaxreward.data import image_checks, rows
from jaxreward.errors import UserError
from jaxreward.tasks import free

FIELD = "config.data.dataset"


@pytest.fixture
def folder(tmp_path):
  for i in range(6):
    colour = np.full((8, 8, 3), 40 * i, np.uint8)
    Image.fromarray(colour).save(tmp_path / f"{i}.png")
  return tmp_path


def write(folder, name, *lines):
  text = [r if isinstance(r, str) else json.dumps(r) for r in lines]
  (folder / name).write_text("\n".join(text) + "\n")
  return str(folder / name)


def read(path):
  return rows.read_dataset(str(path), free.parse, FIELD)


def said(records, folder):
  return [
    (r.prompt.text, [p.rpartition("/")[2] for p in r.files.values()], r.scores)
    for r in records
  ]


EXPECTED = [("a cat", ["0.png"], (1.0,)), ("a dog", ["1.png"], (0.5,))]


@pytest.mark.parametrize(
  ("name", "lines"),
  [
    (
      "rows.jsonl",
      [
        {"prompt": "a cat", "image": "0.png"},
        {"prompt": "a dog", "image": "1.png", "weight": 0.5, "more": 1},
      ],
    ),
    (
      "rows.csv",
      ["file_name,text,weight", "0.png,a  cat,1", '1.png,"a dog",.5'],
    ),
    (
      "metadata.jsonl",
      [
        {"file_name": "0.png", "text": "a cat"},
        {"file_name": "1.png", "caption": "a dog", "weight": 0.5},
      ],
    ),
  ],
)
def test_one_reader_for_the_common_layouts(folder, name, lines):
  path = write(folder, name, *lines)
  given = folder if name.startswith("metadata") else path
  assert said(read(given), folder) == EXPECTED


def test_captions_beside_images(folder):
  for i, text in enumerate(["a cat", "a\ndog", "c", "d", "e", "f"]):
    (folder / f"{i}.txt").write_text(text)
  got = said(read(folder), folder)
  assert got[:2] == [EXPECTED[0], ("a dog", ["1.png"], (1.0,))]
  (folder / "3.txt").unlink()
  with pytest.raises(UserError, match=r"3\.png: there is no caption beside it"):
    read(folder)


@pytest.mark.parametrize(
  ("line", "words"),
  [
    ({"image": "0.png"}, 'there is no "prompt"'),
    ({"promt": "a", "image": "0.png"}, 'did you mean "promt"'),
    ({"prompt": "a", "caption": "b", "image": "0.png"}, "say the same"),
    ({"prompt": "a"}, 'there is no "image"'),
    ({"prompt": " ", "image": "0.png"}, "prompt"),
    ({"prompt": "a", "image": 3}, "not the name of a file"),
    ({"prompt": "a", "image": "0.png", "weight": -1}, "a number >= 0"),
    ({"prompt": "a", "image": "0.png", "weight": "x"}, "a number >= 0"),
    ({"prompt": "a", "image": "0.png", "weight": True}, "a number >= 0"),
  ],
)
def test_a_mistake_is_named_by_file_and_line(folder, line, words):
  path = write(folder, "rows.jsonl", {"prompt": "a", "image": "0.png"}, line)
  with pytest.raises(UserError, match=words) as error:
    read(path)
  assert str(error.value).startswith(f"{path}, line 2: ")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("image,text\n0.png,a,b\n", "3 columns, and 2 names"),
    ("image,image\n", 'two columns are called "image"'),
    ('image,text\n0.png,"a\n', "no line of CSV"),
    ("image,text\n", "no image with a caption"),
    ("", "no image with a caption"),
  ],
)
def test_a_table_that_is_none(folder, text, words):
  (folder / "rows.csv").write_text(text)
  with pytest.raises(UserError, match=words):
    read(folder / "rows.csv")


def test_what_is_no_dataset(folder, tmp_path_factory):
  with pytest.raises(UserError, match=r"config\.data\.dataset=.*no such file"):
    read(folder / "none.jsonl")
  with pytest.raises(UserError, match="is a picture, not text"):
    read(folder / "0.png")
  empty = tmp_path_factory.mktemp("empty")
  with pytest.raises(UserError, match="and no image"):
    read(empty)
  for name in rows.METADATA:
    (folder / name).write_text("")
  with pytest.raises(UserError, match="keep one"):
    read(folder)


def stream(folder, **options):
  path = write(
    folder, "rows.jsonl",
    *({"prompt": "cat" if i < 2 else f"dog {i}", "image": f"{i}.png"}
      for i in range(6)),
  )  # fmt: skip
  return rows.batches(
    read(path), **({"seed": 3, "batch_size": 3, "side": 8} | options)
  )


def test_batches_are_a_function_of_the_step(folder):
  """Any order, any process: the same rows; each row once in a round."""
  one, two = stream(folder), stream(folder)
  late = two(5)
  assert late.images.shape == (3, 1, 8, 8, 3) and late.images.dtype == np.uint8
  np.testing.assert_array_equal(late.images, one(5).images)
  np.testing.assert_array_equal(late.prompts.ids, one(5).prompts.ids)
  shades = np.concatenate([one(n).images[:, 0, 0, 0, 0] for n in (0, 1)])
  assert sorted(shades // 40) == list(range(6))
  other = stream(folder, seed=4)
  assert any(
    not np.array_equal(one(n).images, other(n).images) for n in range(3)
  )


def test_images_stay_with_their_words_and_rows_have_ids_of_their_own(folder):
  batch = stream(folder, batch_size=6)(0)
  shade = batch.images[:, 0, 0, 0, 0] // 40
  text = [bytes(x).rstrip(b"\0").decode() for x in batch.prompts.text]
  assert text == ["cat" if i < 2 else f"dog {i}" for i in shade]
  assert len(set(batch.prompts.ids.tolist())) == 6  # two say the same words
  np.testing.assert_array_equal(batch.scores, np.ones((6, 1)))


def test_lists_of_preferences_stay_whole_with_what_they_start_from(folder):
  """A ranked list, a shorter one and a graded one: scores, padding, sources."""
  lines = [
    {"prompt": "a", "images": ["0.png", "1.png", "2.png"], "ranks": [2, 1, 2]},
    {"prompt": "b", "images": ["3.png", "4.png"], "ranks": [1, 2]},
    {"prompt": "c", "images": ["0.png", "1.png", "2.png"],
     "ratings": [0.25, None, 1]},
    {"prompt": "d", "images": ["0.png", "5.png"], "ratings": [0.25, 0.5]},
  ]  # fmt: skip
  path = write(folder, "l.jsonl", *(r | {"source": "5.png"} for r in lines))
  read = lambda **given: rows.read_preferences(path, free.parse, **given)
  lists = read(group=3, source="source")
  batch = rows.batches(lists, seed=0, batch_size=4, side=8)(0)
  words = [bytes(x).rstrip(b"\0").decode() for x in batch.prompts.text]
  nan = np.nan  # nobody said, or no such image
  want = {"a": [0.25, 1, 0.25], "b": [1, 0, nan], "c": [0, nan, 1],
          "d": [0.25, 0.5, nan]}  # fmt: skip
  for text, scores in zip(words, batch.scores, strict=True):
    np.testing.assert_array_equal(scores, np.float32(want[text]))
  first = batch.images[words.index("b"), :, 0, 0, 0]
  np.testing.assert_array_equal(first, [120, 160, 160])
  np.testing.assert_allclose(batch.prompts.source, 200 / 255, rtol=1e-6)
  short = lists[1::2]  # of two images, in groups of four
  batch = rows.batches(short, seed=0, batch_size=2, side=8, group=4)(0)
  assert batch.images.shape[:2] == batch.scores.shape == (2, 4)
  assert np.isnan(batch.scores[:, 2:]).all()
  assert np.isfinite(batch.scores[:, :2]).all()
  pairs = read()
  assert len(pairs) == 3 + 1 + 1 + 1 and not any(r.source for r in pairs)
  images = [f"{i}.png" for i in range(4)]
  more = {"prompt": "a", "images": images, "ranks": [1, 2, 3, 4]}
  long = write(folder, "long.jsonl", more)
  with pytest.raises(UserError, match=r"line 1: 4 images, and .*list_size=3"):
    rows.read_preferences(long, free.parse, group=3)
  bare = write(folder, "bare.jsonl", *lines)
  with pytest.raises(UserError, match='line 1: there is no "source"'):
    rows.read_preferences(bare, free.parse, source="source")
  (frame, *_) = rows.read_preferences(bare, free.parse, source="frame")
  assert str(frame.source).endswith("0.png")


def test_lists_after_a_restart_are_the_same_bytes(folder):
  """A later step needs nothing of the earlier ones."""
  lines = [
    {"prompt": f"p{i}", "images": [f"{j}.png" for j in range(i % 2, 3)],
     "ranks": [*range(3 - i % 2)], "source": "5.png"}
    for i in range(5)
  ]  # fmt: skip
  path = write(folder, "l.jsonl", *lines)

  def started():
    lists = rows.read_preferences(path, free.parse, group=4, source="source")
    return rows.batches(lists, seed=3, batch_size=2, side=8, group=4)

  one = started()
  run = [one(step) for step in range(5)][3:]
  for before, after in zip(run, map(started(), (3, 4)), strict=True):
    for x, y in zip(*map(jax.tree.leaves, (before, after)), strict=True):
      assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_a_video_starts_from_its_first_sampled_frame(folder):
  """Of four frames two are read, the second and the fourth."""
  for name, shade in (("a", 0), ("b", 5), ("c", 9)):
    first, *more = (
      Image.fromarray(np.full((8, 8, 3), 50 * i + shade, np.uint8))
      for i in range(4)
    )
    first.save(folder / f"{name}.gif", save_all=True, append_images=more)
  videos = ["a.gif", "b.gif", "c.gif"]
  lines = [
    {"prompt": "x", "images": videos, "ranks": [1, 2, 3]},
    {"prompt": "y", "chosen": "b.gif", "rejected": "c.gif", "source": "5.png"},
  ]
  path = write(folder, "v.jsonl", *lines)
  pairs = rows.read_preferences(path, free.parse, source="frame")
  batch = rows.batches(pairs, seed=0, batch_size=4, side=8, frames=2)(0)
  words = [bytes(x).rstrip(b"\0").decode() for x in batch.prompts.text]
  for text, video, start in zip(
    words, batch.images, batch.prompts.source, strict=True
  ):
    want = {"x": 50, "y": 200}[text]  # of the row's first video, or its source
    np.testing.assert_array_equal(start, np.float32(want) / np.float32(255))
    np.testing.assert_array_equal(video[..., 0, 0, 0] // 50, [[1, 3]] * 2)
  assert sorted(words) == ["x", "x", "x", "y"]


def test_a_source_has_the_shape_of_what_was_made_from_it(folder):
  """Others would be cut apart."""
  Image.new("RGB", (16, 8)).save(folder / "wide.png")
  row = {"prompt": "a", "chosen": "0.png", "rejected": "1.png"}
  path = write(
    folder, "p.jsonl", row | {"source": "5.png"}, row | {"source": "wide.png"}
  )
  records = rows.read_preferences(path, free.parse, source="source")
  image_checks.check(rows.checked(records[:1]))
  with pytest.raises(
    UserError, match=r'line 2: "image_a" has 8 x 8 .*"source" 16 x 8, another'
  ):
    image_checks.check(rows.checked(records))
