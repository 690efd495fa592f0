"""Datasets in tars, tables and folders are the same rows; buckets of shapes."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxreward.data import aspect_buckets, images, rows
from jaxreward.errors import UserError
from jaxreward.tasks import free

FIELD = "config.data.dataset"
CAPTIONS = ("a cat", "a dog", "a crow")


def png(shade):
  file = io.BytesIO()
  Image.fromarray(np.full((6, 9, 3), shade, np.uint8)).save(file, "PNG")
  return file.getvalue()


def tar(path, *members):
  with tarfile.open(path, "w") as archive:
    for name, data in members:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
  return path


def read(path, **options):
  return rows.read_dataset(str(path), free.parse, FIELD, **options)


def said(records):
  shade = lambda r: int(images.pixels(*r.files.values())[0, 0, 0])
  return [(r.prompt.text, shade(r), r.scores) for r in records]


WANT = [(text, 40 * i, (1.0 + i,)) for i, text in enumerate(CAPTIONS)]


def as_tars(folder):
  for i, text in enumerate(CAPTIONS):
    about = json.dumps({"caption": "no", "url": "x", "weight": 1 + i})
    tar(
      folder / f"{i}.tar", ("k/7.png", png(40 * i)), ("k/7.json", about.encode()),
      ("k/7.txt", text.encode()), ("k/.hidden.png", b""),
    )  # fmt: skip


def as_parquet(folder):
  arrow, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))

  cells = [{"bytes": png(40 * i), "path": "x.png"} for i in range(3)]
  columns = {"image": cells, "text": list(CAPTIONS), "weight": [1.0, 2.0, 3.0]}
  parquet.write_table(
    arrow.table(columns), folder / "train-00000-of-00001.parquet"
  )


def as_imagefolder(folder):
  (folder / "train").mkdir()
  lines = []
  for i, text in enumerate(CAPTIONS):
    (folder / "train" / f"{i}.png").write_bytes(png(40 * i))
    lines.append({"file_name": f"{i}.png", "text": text, "weight": 1 + i})
  text = "\n".join(map(json.dumps, lines))
  (folder / "train" / "metadata.jsonl").write_text(text)


def as_json(folder):
  as_imagefolder(folder)
  table = folder / "train" / "metadata.jsonl"
  found = [json.loads(line) for line in table.read_text().splitlines()]
  table.unlink()
  (folder / "rows.json").write_text(json.dumps({"rows": found}))
  return {"images": str(folder / "train")}


@pytest.mark.parametrize(
  "write", [as_tars, as_parquet, as_imagefolder, as_json]
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, write):
  options = write(tmp_path) or {}
  path = tmp_path / "rows.json" if options else tmp_path
  assert said(read(path, **options)) == WANT


def test_a_tar_says_what_is_wrong_with_it(tmp_path):
  members = [
    ("0.png", png(0)), ("0.txt", b"a cat"), ("1.png", b"no image"),
    ("1.txt", b"a dog"), ("2.json", b"[1]"), ("2.png", png(80)),
  ]  # fmt: skip
  path = tar(tmp_path / "a.tar", *members)
  with pytest.raises(UserError, match=r'a\.tar, "1": there is no "image"'):
    read(path)
  assert said(read(path, skip=0.7)) == [("a cat", 0, (1.0,))]
  with pytest.raises(UserError, match=r"2 of 3 rows are malformed, more than"):
    read(path, skip=0.5)
  (tmp_path / "b.tar").write_bytes(b"\x1f\x8b not a tar")
  with pytest.raises(UserError, match=r"b\.tar: it is no readable \.tar"):
    read(tmp_path / "b.tar")
  with pytest.raises(UserError, match=r"no \.tar file has such a name"):
    read(tmp_path / "c*.tar")


def test_columns_of_ones_own_and_images_to_start_from(tmp_path):
  path = tar(
    tmp_path / "edits.tar", ("0.before.png", png(0)), ("0.after.png", png(80)),
    ("0.words.txt", b"lighter"),
  )  # fmt: skip
  columns = {"prompt": "words", "image": "before", "target": "after"}
  (record,) = read(path, columns=columns, takes_source=True)
  assert list(record.files) == ["target", "image"]
  shades = [int(images.pixels(f)[0, 0, 0]) for f in record.files.values()]
  assert (record.prompt.text, shades) == ("lighter", [80, 0])
  with pytest.raises(UserError, match=r'columns\.imag: no .*mean "image"'):
    read(path, columns={"imag": "before"})
  with pytest.raises(UserError, match=r'there is no "befor" \(did you mean'):
    read(path, columns=columns | {"image": "befor"}, takes_source=True)


def test_images_go_to_the_shape_nearest_to_theirs():
  shapes = [(64, 64), (48, 80), (80, 48), (128, 128)]
  sizes = np.array([[60, 61], [30, 50], [100, 60], [10, 90], [512, 512]])
  np.testing.assert_array_equal(
    aspect_buckets.nearest(sizes, shapes), [0, 1, 2, 1, 3]
  )


def test_batches_are_of_one_shape_and_a_function_of_the_step():
  shape_of = np.array([0, 1, 0, -1, 0, 1, 0, 0, 0, 1])
  make = lambda: aspect_buckets.batches(shape_of, seed=1, batch_size=2)
  got = [make()[n] for n in range(18)]
  for number, index in got:
    assert (shape_of[index] == number).all()
  counts = np.bincount(np.concatenate([i for _, i in got]), minlength=10)
  np.testing.assert_array_equal(counts, np.where(shape_of < 0, 0, 4))
  for n in (17, 3):
    np.testing.assert_array_equal(make()[n][1], got[n][1])


def test_no_shape_is_dealt_as_another_of_a_neighbouring_seed():
  """Nor as another of the same seed; rows of two shapes are equally many."""
  shape_of = np.repeat([0, 1], 30)
  orders = set()
  for seed in (1, 2):
    deck = aspect_buckets.batches(shape_of, seed=seed, batch_size=10)
    rows = {0: [], 1: []}
    for number, index in (deck[n] for n in range(6)):
      rows[number].extend(index - 30 * number)
    orders |= {tuple(map(int, dealt)) for dealt in rows.values()}
  assert len(orders) == 4
