"""Pictures in batches: tasks on scenes, and a user's own files."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from jaxreward import tasks
from jaxreward.data import image_checks, pictures, sources
from jaxreward.data.prompts import SPLITS
from jaxreward.errors import UserError
from jaxreward.tasks import free
from jaxreward.tasks.scenes import edits, grammar, render

EDITS, SCENES = (tasks.TASKS[name] for name in ("edits", "scenes"))
TRAIN = edits.prompts("train")


def save(path, seed, side=20):
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
  Image.fromarray(pixels).save(path)
  return pixels / np.float32(255)


@pytest.fixture
def own(tmp_path):
  """A file of 12 rows: all have an image, the first also answer and mask."""
  rows = []
  for i in range(12):
    save(tmp_path / f"{i}.png", i)
    rows.append({"prompt": "make it blue", "image": f"{i}.png"})
  save(tmp_path / "answer.png", 100)
  white = np.zeros((20, 20, 3), np.uint8)
  white[:10] = 255
  Image.fromarray(white).save(tmp_path / "mask.png")
  rows[0] |= {"target": "answer.png", "mask": "mask.png"}
  path = tmp_path / "train.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def load(path, split="train", **options):
  options = {"parse": free.parse, "with_pictures": True} | options
  return sources.load_prompts(str(path), split, **options)


def test_a_batch_holds_the_pictures_of_its_rows():
  batches = EDITS.batches(TRAIN, seed=0, batch_size=6)
  by_id = {p.prompt_id: p for p in TRAIN}
  for step in (0, 41):
    batch = batches(step)
    chosen = [by_id[int(i)] for i in batch.ids]
    source, answer = edits.draw(chosen)
    np.testing.assert_array_equal(batch.source, source)
    np.testing.assert_array_equal(batch.target, edits.targets(chosen, answer))
    np.testing.assert_array_equal(
      batch.extras.edit.gone, edits.expected(chosen).gone
    )
    assert sorted(batch.category) == list(range(edits.FIRST, edits.FIRST + 6))


def test_the_position_is_saved_and_found_again():
  batches = EDITS.batches(TRAIN, seed=1, batch_size=4)
  iterator = batches.iterate()
  [next(iterator) for _ in range(3)]
  state = json.loads(json.dumps(iterator.get_state()))
  wanted = next(iterator)
  fresh = batches.iterate()
  fresh.set_state(state)
  jax.tree.map(np.testing.assert_array_equal, next(fresh), wanted)


def test_processes_hold_each_picture_once():
  whole = EDITS.batches(TRAIN, seed=2, batch_size=3, pad_to=4)(5)
  parts = [
    EDITS.batches(TRAIN, seed=2, batch_size=3, pad_to=4, process=(i, 2))(5)
    for i in range(2)
  ]
  joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  jax.tree.map(np.testing.assert_array_equal, joined, whole)


def test_kinds_of_edits_have_weights_of_their_own():
  weights = (0, 3, 0, 0, 0, 1)
  batches = EDITS.batches(TRAIN, seed=3, batch_size=8, kind_weights=weights)
  kinds = np.bincount(batches(2).category - edits.FIRST, minlength=6)
  np.testing.assert_array_equal(kinds, [0, 6, 0, 0, 0, 2])
  with pytest.raises(UserError, match="recolour, remove, add"):
    EDITS.batches(TRAIN, seed=3, batch_size=8, kind_weights=(1, 2))


def test_prompts_without_pictures_have_no_such_leaves():
  batch = SCENES.batches(
    grammar.prompts("train"), seed=0, batch_size=2, side=36
  )(0)
  assert len(jax.tree.leaves(batch)) == 7


def test_rows_of_one_text_differ_by_their_pictures(own):
  every = sources.all_prompts(str(own), free.parse, with_pictures=True)
  assert len(every) == 12
  assert len({p.prompt_id for p in every}) == 12
  splits = [load(own, split) for split in SPLITS]
  names = [p.pictures.name for found in splits for p in found]
  assert sorted(names) == sorted(f"{i}.png" for i in range(12))
  assert all(splits)
  assert len(load(own, with_pictures=False)) == 1


def test_files_are_read_for_the_rows_that_name_them(own):
  every = sources.all_prompts(str(own), free.parse, with_pictures=True)
  batch = free.TASK.batch(every, side=20)
  for i, prompt in enumerate(every):
    image = np.asarray(Image.open(own.parent / prompt.pictures.name))
    np.testing.assert_allclose(batch.source[i], image / 255, atol=1e-6)
  (first,) = (i for i, p in enumerate(every) if p.pictures.name == "0.png")
  assert np.isfinite(batch.target[first]).all()
  np.testing.assert_array_equal(batch.changes[first, :10], 1)
  np.testing.assert_array_equal(batch.changes[first, 10:], 0)
  others = np.delete(np.arange(12), first)
  assert np.isnan(batch.target[others]).all()
  assert np.isnan(batch.changes[others]).all()
  small = free.TASK.batch(every[:2], side=8)
  assert small.source.shape == small.target.shape == (2, 8, 8, 3)


def test_no_array_where_no_row_of_the_source_has_such_a_picture(own):
  rows = own.read_text().splitlines()[1:]
  own.write_text("\n".join(rows))
  chosen = load(own)[:2]
  batch = free.TASK.batch(chosen, side=8)
  assert batch.source is not None
  assert batch.target is None and batch.changes is None


@pytest.mark.parametrize(
  ("row", "message"),
  [
    ({"prompt": "x"}, 'line 1: there is no key "image"'),
    ({"prompt": "x", "imgae": "a.png"}, 'did you mean "imgae"'),
    ({"prompt": "x", "image": 3}, '"image" is 3, not the name of a file'),
    ({"prompt": "x", "image": "no.png"}, "no.png: No such file"),
    ({"prompt": "x", "image": "text.png"}, "not an image: it is text"),
    ({"prompt": "x", "image": "a.png", "mask": "no.png"}, '"mask": .*No such'),
  ],
)
def test_a_bad_picture_is_one_clear_line(row, message, tmp_path):
  save(tmp_path / "a.png", 0)
  (tmp_path / "text.png").write_text("not a picture")
  path = tmp_path / "train.jsonl"
  path.write_text(json.dumps(row) + "\n")
  with pytest.raises(UserError, match=message) as error:
    image_checks.check(pictures.rows_of(load(path)))
  assert "\n" not in str(error.value)


def test_text_files_name_no_pictures(tmp_path):
  path = tmp_path / "train.txt"
  path.write_text("make it blue\n")
  with pytest.raises(UserError, match=r"a \.jsonl file"):
    load(path)


def test_a_picture_that_is_cut_short_says_so_when_it_is_read(own):
  data = (own.parent / "3.png").read_bytes()
  (own.parent / "3.png").write_bytes(data[: len(data) // 2])
  every = sources.all_prompts(str(own), free.parse, with_pictures=True)
  with pytest.raises(UserError, match=r"3\.png: the image is damaged"):
    free.TASK.batch(every, side=20)


def test_edits_are_a_source_of_prompts():
  assert EDITS.prompts("heldout") == edits.prompts("heldout")
  assert EDITS.prompts(None) == edits.all_prompts()
  batch = EDITS.batch(TRAIN[:2])
  assert batch.source.shape == (2, render.SIZE, render.SIZE, 3)
