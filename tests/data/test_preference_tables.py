"""Rows of files as arrays, and batches of them as a function of the step."""

import itertools
import json

import jax
import numpy as np
import pytest
from PIL import Image

from jaxreward.data import (
  image_store,
  images,
  preference_files,
  preference_stream,
  preference_tables,
  rows,
)
from jaxreward.data.image_store import ImageStore
from jaxreward.data.preferences import SOURCES
from jaxreward.errors import UserError
from jaxreward.tasks import free
from jaxreward.tasks.scenes import grammar

TRAIN = grammar.prompts("train")[0].text
HELDOUT = grammar.prompts("heldout")[0].text
NAN = np.nan


@pytest.fixture
def folder(tmp_path):
  for i in range(6):
    colour = np.full((36, 36, 3), 40 * i, np.uint8)
    Image.fromarray(colour).save(tmp_path / f"{i}.png")
  return tmp_path


def pair(prompt=TRAIN, a="0.png", b="1.png", label="a", **more):
  return dict(prompt=prompt, image_a=a, image_b=b, label=label) | more


def write(folder, *rows):
  path = folder / "rows.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


HELD = pair(HELDOUT, "2.png", "3.png", "b")


def sides(path, **more):
  builders = preference_tables.sides_of(
    preference_files.read_rows(path), tokenize=grammar.tokenize,
    split_of=grammar.split_of, **more,
  )  # fmt: skip
  preference_tables.check_sides(*builders, str(path))
  preference_tables.require_answers(builders[0], str(path))
  return builders


def free_table(path):
  builder = preference_tables.Builder(
    lambda text: np.full(3, len(text), np.int32)
  )
  for row in preference_files.read_rows(path):
    builder.add(row)
  return builder.table()


def test_pairs_are_read_and_split_by_prompt(folder):
  path = write(folder, pair(), pair(b="0.png", a="1.png", label=0.25), HELD)
  train, heldout = (b.table() for b in sides(path))
  np.testing.assert_array_equal(train.rows.members, [[0, 1], [1, 0]])
  np.testing.assert_array_equal(train.rows.prob[:, 0, 1], [1.0, 0.25])
  np.testing.assert_array_equal(train.rows.prob[:, 1, 0], [0.0, 0.75])
  np.testing.assert_array_equal(heldout.rows.prob[:, 0, 1], [0.0])
  np.testing.assert_array_equal(
    heldout.rows.tokens[0], grammar.tokenize(HELDOUT)
  )
  pixels, there = ImageStore(train.files, train.places, 36).take(
    train.rows.members
  )
  assert pixels.dtype == np.uint8 and there.all()
  np.testing.assert_array_equal(pixels[..., 0, 0, 0], [[0, 40], [40, 0]])


def test_every_wording_of_a_prompt_is_on_one_side():
  is_heldout = preference_tables.is_heldout
  for prompt in grammar.all_prompts()[::97]:
    assert is_heldout(prompt.text, grammar.split_of) == (
      prompt.split != "train"
    )
  words = [f"words {i}" for i in range(2000)]
  assert is_heldout(words[0]) == is_heldout(" Words  0. ")
  for share in (0.0, 0.05, 0.3):
    found = np.mean([is_heldout(w, share=share) for w in words])
    assert abs(found - share) <= 0.02


# A list of four, a pair with a source, and a list of three, with users.
LISTS = (
  {"prompt": "one", "images": ["0.png", "1.png", "2.png", "3.png"],
   "ranks": [2, 1, 2, 3], "ratings": [0.5, 1.0, 0.5, 0.0], "user": "u",
   "models": ["x", "y", "x", "x"]},
  {"prompt": "second", "image_a": "4.png", "image_b": "1.png", "label": "b",
   "source": "5.png", "confidence": 0.5, "user": "v",
   "answers": {"looks": "a"}},
  {"prompt": "three", "images": ["2.png", "3.png", "4.png"],
   "order": "A>C=B", "aspects": {"looks": [1, 0.5, None], "text": [0, 0, 1]}},
)  # fmt: skip


def test_lists_aspects_users_sources_as_arrays(folder):
  table = free_table(write(folder, *LISTS))
  data = table.rows
  assert [f.path.rpartition("/")[2][0] for f in table.files] == [*"012345"]
  np.testing.assert_array_equal(
    data.members, [[0, 1, 2, 3], [4, 1, -1, -1], [2, 3, 4, -1]]
  )
  np.testing.assert_array_equal(
    data.prob[0],
    [[NAN, 0, 0.5, 1], [1, NAN, 1, 1], [0.5, 0, NAN, 1], [0, 0, 0, NAN]],
  )
  np.testing.assert_array_equal(
    data.prob[2, :3, :3], [[NAN, 1, 1], [0, NAN, 0.5], [0, 0.5, NAN]]
  )
  assert np.isnan(data.prob[1:, 3:]).all() and np.isnan(data.prob[1, 2:]).all()
  np.testing.assert_array_equal(data.score[0], [0.5, 1, 0.5, 0])
  assert np.isnan(data.score[1:]).all()
  assert data.users == ("u", "v") and data.user.tolist() == [0, 1, -1]
  assert data.confidence.tolist() == [1, 0.5, 1]
  assert data.context.tolist() == [-1, 5, -1]
  assert data.aspect_names == ("looks", "text")
  np.testing.assert_array_equal(
    data.aspects[2], [[1, 0], [0.5, 0], [NAN, 1], [NAN, NAN]]
  )
  np.testing.assert_array_equal(data.aspect_prob[1, 0, 1], [1, NAN])
  x, y, file = len(SOURCES), len(SOURCES) + 1, SOURCES.index("file")
  np.testing.assert_array_equal(
    data.source, [[x, y, x, x], [file, file, -1, -1], [file] * 3 + [-1]]
  )
  others = preference_tables.Builder(lambda text: np.zeros(3))
  for row in preference_files.read_rows(write(folder, *LISTS[1:])):
    others.add(row)
  known = others.table(("u",), ("text",)).rows
  assert known.user.tolist() == [-1, -1] and known.aspects.shape[-1] == 1


def stream(folder, table, store=None, **options):
  store = store or ImageStore(table.files, table.places, 4)
  given = dict(seed=3, rows=2, group_size=3) | options
  return preference_stream.batches(table, store, **given)


def test_a_batch_is_a_function_of_seed_and_step(folder):
  """Against an independent reading of the file, image by image."""
  table = free_table(write(folder, *LISTS))
  batches = stream(folder, table, pad_to=4)
  rounds: list[str] = []
  for step in range(6):
    packed = batches(step)
    batch, details = packed.batch, packed.batch.details
    assert batch.images.shape == (4, 3, 4, 4, 3)
    for r in range(2):
      row = next(x for x in LISTS if len(x["prompt"]) == batch.tokens[r, 0])
      rounds.append(row["prompt"])
      names = row.get("images") or [row["image_a"], row["image_b"]]
      count = min(len(names), 3)
      assert details.mask[r].tolist() == [True] * count + [False] * (3 - count)
      shades = batch.images[r, :count, 0, 0, 0] // 40
      where = [names.index(f"{s}.png") for s in shades]
      assert len(set(where)) == count
      q = LISTS.index(row)
      data = table.rows
      np.testing.assert_array_equal(
        batch.prob[r, :count, :count], data.prob[q][np.ix_(where, where)]
      )
      np.testing.assert_array_equal(
        batch.rating[r, :count], data.score[q, where]
      )
      np.testing.assert_array_equal(
        details.aspect_ratings[r, :count], data.aspects[q, where]
      )
      np.testing.assert_array_equal(
        details.source[r, :count], data.source[q, where]
      )
      assert details.user[r] == data.user[q]
      assert details.confidence[r] == data.confidence[q]
      assert packed.has_context[r] == ("source" in row)
      assert (details.context[r] == (200 if "source" in row else 0)).all()
      assert np.isnan(batch.prob[r, count:]).all()
    assert np.isnan(batch.prob[2:]).all() and np.isnan(batch.rating[2:]).all()
    assert not details.mask[2:].any() and (details.user[2:] == -1).all()
  assert all(rounds.count(row["prompt"]) == 4 for row in LISTS)
  again = stream(folder, table, pad_to=4)
  jumps = [again(step) for step in (4, 0, 5, 1)]
  for step, jump in zip((4, 0, 5, 1), jumps, strict=True):
    jax.tree.map(np.testing.assert_array_equal, jump, batches(step))
  other = stream(folder, table, pad_to=4, seed=4)
  assert any(
    (other(n).batch.images != batches(n).batch.images).any() for n in range(3)
  )


def test_processes_read_their_rows_alone(folder, monkeypatch):
  """Put together they are the batch of one process."""
  table = free_table(write(folder, *LISTS))
  whole = stream(folder, table, rows=3, pad_to=4)
  parts, read = [], []
  for index in range(2):
    store = ImageStore(table.files, table.places, 4)
    decode = store._decode
    seen: set[int] = set()
    monkeypatch.setattr(
      store, "_decode", lambda i, d=decode, s=seen: s.add(i) or d(i)
    )
    parts.append(
      stream(folder, table, store, rows=3, pad_to=4, process=(index, 2))(0)
    )
    read.append(seen)
  joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  jax.tree.map(np.testing.assert_array_equal, joined, whole(0))
  assert len(read[1]) < len(table.files)
  with pytest.raises(UserError, match="multiple of 3"):
    stream(folder, table, process=(0, 3))


def test_on_the_device(folder):
  table = free_table(write(folder, *LISTS))
  packed = stream(folder, table, rows=3)(0)
  key = jax.random.key(0)
  batch = jax.jit(preference_stream.unpacked)(packed, key)
  np.testing.assert_allclose(batch.images, packed.batch.images / 255, rtol=1e-6)
  known = np.asarray(packed.has_context)
  assert np.isnan(batch.details.context[~known]).all()
  np.testing.assert_allclose(batch.details.context[known], 200 / 255, rtol=1e-6)
  keys = jax.random.key_data(batch.details.keys)
  assert len({*map(tuple, np.asarray(keys).tolist())}) == 3


def test_images_are_decoded_once_and_kept_on_disk(folder, monkeypatch):
  table = free_table(write(folder, *LISTS))
  calls = []
  pixels = images.pixels
  monkeypatch.setattr(
    images, "pixels", lambda *a: calls.append(str(a[0])) or pixels(*a)
  )
  cache = str(folder / "cache")
  for _ in range(2):
    store = ImageStore(table.files, table.places, 4, cache=cache)
    for n in range(3):
      found, there = store.take(np.array([[0, 1], [n, -1]]))
      assert found[:, :, 0, 0, 0].tolist() == [[0, 40], [40 * n, 0]]
      assert there.tolist() == [[True, True], [True, False]]
  assert sorted(calls) == [f.path for f in table.files[:3]]
  Image.fromarray(np.full((36, 36, 3), 7, np.uint8)).save(folder / "0.png")
  fresh = ImageStore(table.files, table.places, 4, cache=cache)
  assert fresh.take(np.array([0]))[0][0, 0, 0, 0] == 7
  monkeypatch.setattr(image_store, "MOST_MEMORY", 100)
  with pytest.raises(UserError, match=r"config\.data\.reading\.cache"):
    ImageStore(table.files, table.places, 4)


def test_groups_of_a_parquet_table_are_read_once(folder, monkeypatch):
  arrow = pytest.importorskip("pyarrow")
  parquet = pytest.importorskip("pyarrow.parquet")
  data = [(folder / f"{i}.png").read_bytes() for i in range(6)]
  made = [
    {"caption": f"p{i}", "jpg_0": data[i], "jpg_1": data[(i + 1) % 6],
     "label_0": 1}
    for i in range(6)
  ]  # fmt: skip
  path = folder / "t.parquet"
  parquet.write_table(arrow.Table.from_pylist(made), path, row_group_size=2)
  table = free_table(path)
  assert len(table.files) == 6  # equal bytes are one image
  handle = table.files[0].cell.table
  reads = []
  group = handle._read
  monkeypatch.setattr(handle, "_read", lambda n: reads.append(n) or group(n))
  store = ImageStore(table.files, table.places, 4)
  for i in (5, 0, 2, 4, 1, 3):
    assert store.take(np.array([i]))[0][0, 0, 0, 0] == 40 * i
  assert sorted({*reads}) == [0, 1, 2] and reads == sorted(
    reads, key=reads.index
  )
  changes = sum(a != b for a, b in itertools.pairwise(reads))
  assert changes == 2


def test_broken_images_stop_or_are_left_out(folder):
  (folder / "bad.png").write_bytes((folder / "0.png").read_bytes()[:60])
  bad = {"prompt": "four", "images": ["bad.png", "1.png", "2.png"],
         "ranks": [1, 2, 3]}  # fmt: skip
  table = free_table(write(folder, bad))
  with pytest.raises(UserError, match=r'line 1: "images\[0\]": .*bad\.png'):
    stream(folder, table, rows=1)(0)
  store = ImageStore(table.files, table.places, 4, skips=True)
  packed = stream(folder, table, store, rows=1)(0)
  mask = packed.batch.details.mask[0]
  assert mask.sum() == 2 and store.broken == 1
  prob = packed.batch.prob[0]
  assert np.isnan(prob[~mask]).all() and np.isnan(prob[:, ~mask]).all()
  assert np.isfinite(prob).sum() == 2


@pytest.mark.parametrize(
  ("fit", "expected"),
  [
    ("crop", [[9, 9], [9, 9]]),
    ("pad", [[0, 0], [0, 0]]),
    ("stretch", [[1, 1], [1, 1]]),
  ],
)
def test_three_ways_to_fit(tmp_path, fit, expected):
  """A row of three colours, in height 2: the middle, bands, or everything."""
  wide = np.repeat(np.uint8([[1, 9, 5]]), 40, 1).repeat(40, 0)
  Image.fromarray(np.stack([wide] * 3, -1)).save(tmp_path / "w.png")
  found = images.pixels(tmp_path / "w.png", 40, fit)[..., 0]
  corner = found[:2, :2]
  np.testing.assert_array_equal(corner, expected)
  assert found.shape == (40, 40)


@pytest.mark.parametrize(
  ("made", "words"),
  [
    ([pair()], "held-out side"),
    ([HELD], "training side"),
    ([pair(), pair(HELDOUT, "1.png", "2.png")], r"1\.png belongs to training"),
    ([pair(label="tie"), HELD], 'all 1 training rows are a "tie"'),
    ([pair("a red sircle"), HELD], 'line 1: .*did you mean "circle"'),
  ],
)
def test_sides_that_cannot_be_used(folder, made, words):
  with pytest.raises(UserError, match=words):
    sides(write(folder, *made))


def test_a_table_of_pairs_for_the_policy(folder):
  path = folder / "pairs.csv"
  path.write_text(
    'prompt,image_a,image_b,label\n"a cat, a dog",0.png,1.png,b\n'
    "a cow,2.png,3.png,0.75\n"
  )
  found = rows.read_preferences(str(path), free.TASK.parse)
  assert [(r.prompt.text, r.scores) for r in found] == [
    ("a cat, a dog", (0.0, 1.0)), ("a cow", (0.75, 0.25))
  ]  # fmt: skip
  names = [str(p).rpartition("/")[2] for p in found[1].files.values()]
  assert names == ["2.png", "3.png"]


def test_lists_and_ratings_become_pairs_for_the_policy(folder):
  rated = {"prompt": "r", "images": ["0.png", "1.png"], "ratings": [0.5, 0.25]}
  found = rows.read_preferences(
    str(write(folder, LISTS[0], rated)), free.TASK.parse
  )
  assert [r.scores[0] for r in found] == [0, 0.5, 1, 1, 1, 1, 1]
  assert [r.is_tie for r in found].index(True) == 1
  tie = write(folder, pair(label="tie"))
  with pytest.raises(UserError, match='no pair has an answer, all 1 are a "t'):
    rows.read_preferences(str(tie), free.TASK.parse)
