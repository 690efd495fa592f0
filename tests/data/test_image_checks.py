"""Which pictures are looked at before a run, how, and by whom."""

import os

import numpy as np
import pytest

from jaxreward import processes
from jaxreward.data import image_checks, image_files
from jaxreward.data.image_checks import PictureRow
from jaxreward.errors import UserError
from tests.data import odd_images as odd


@pytest.fixture
def files(tmp_path):
  """40 rows of an image each, and the paths."""
  paths = [str(tmp_path / f"{i}.png") for i in range(40)]
  for i, path in enumerate(paths):
    with open(path, "wb") as file:
      file.write(odd.saved("PNG", np.roll(odd.PIXELS, i, 0)))
  rows = [
    PictureRow(f"{tmp_path}/rows.jsonl, line {i + 1}", {"image": path})
    for i, path in enumerate(paths)
  ]
  return paths, rows


def cut(path):
  """The first bytes of it stay as they are."""
  with open(path, "r+b") as file:
    file.truncate(os.path.getsize(path) // 2)


def decoded(monkeypatch):
  """Names of the files that are decoded from now on."""
  names, decode = [], image_files.decode

  def noted(data, path, **options):
    names.append(path)
    return decode(data, path, **options)

  monkeypatch.setattr(image_files, "decode", noted)
  return names


def test_every_file_is_decoded_once_and_the_first_mistake_is_told(
  files, monkeypatch
):
  paths, rows = files
  names = decoded(monkeypatch)
  image_checks.check([*rows, *rows])
  assert sorted(names) == sorted(paths)
  cut(paths[31])
  cut(paths[7])
  with pytest.raises(UserError, match=r"line 8: \"image\": 7\.png: the image"):
    image_checks.check(rows)
  image_checks.check([])


@pytest.mark.parametrize("limit", ["MOST_FILES", "MOST_BYTES"])
def test_of_many_a_sample_is_decoded_and_the_log_says_so(
  limit, files, monkeypatch, caplog
):
  paths, rows = files
  total = sum(map(os.path.getsize, paths))
  most = {"MOST_FILES": 10, "MOST_BYTES": total // 4}[limit]
  monkeypatch.setattr(image_checks, limit, most)
  names = decoded(monkeypatch)
  with caplog.at_level("INFO"):
    image_checks.check(rows)
  assert 8 <= len(names) <= 10
  places = np.sort([paths.index(name) for name in names])
  assert set(np.diff(places)) <= {4, 5}  # evenly
  said = f"checked {len(names)} of 40 images by decoding them"
  assert sum(said in record.getMessage() for record in caplog.records) == 1
  bare = next(path for path in paths if path not in names)
  cut(bare)
  image_checks.check(rows)  # its first bytes are those of a picture
  with open(bare, "w") as file:
    file.write("no picture")
  with pytest.raises(UserError, match="it is text"):
    image_checks.check(rows)


def test_each_process_looks_at_its_share(files, monkeypatch):
  paths, rows = files
  names = decoded(monkeypatch)
  monkeypatch.setattr(processes, "count", lambda: 3)
  monkeypatch.setattr(processes, "tell", lambda word: [word])
  seen = []
  for index in range(3):
    monkeypatch.setattr(processes, "index", lambda index=index: index)
    names.clear()
    image_checks.check(rows)
    seen.append(set(names))
  assert sorted(x for one in seen for x in one) == sorted(paths)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_sizes_alike_go_together(kind, tmp_path):
  """A target of half the size is cut alike; rounding of sides is no matter."""
  big = np.repeat(np.repeat(odd.PIXELS, 9, 0), 9, 1)[:, :427]
  small = big[::3, ::3]
  options = {"quality": 90} if kind == "JPEG" else {}
  for name, pixels in ("a", big), ("b", small):
    (tmp_path / name).write_bytes(odd.saved(kind, pixels, **options))
  files = {"image": str(tmp_path / "a"), "target": str(tmp_path / "b")}
  image_checks.check([PictureRow("here", files)])
  narrow = odd.saved(kind, big[:, :400], **options)
  (tmp_path / "b").write_bytes(narrow)
  with pytest.raises(UserError, match='here: "target" has 400 x 360 pixels'):
    image_checks.check([PictureRow("here", files)])


def test_a_mask_may_be_thin(tmp_path):
  """One white pixel of a large JPEG is seen, though others come small."""
  mask = np.zeros((640, 640, 3), np.uint8)
  mask[320:322, 320:322] = 255
  (tmp_path / "m").write_bytes(odd.saved("JPEG", mask, quality=95))
  (tmp_path / "i").write_bytes(odd.saved("JPEG", mask + 9))
  files = {"image": str(tmp_path / "i"), "mask": str(tmp_path / "m")}
  image_checks.check([PictureRow("here", files)])


def test_a_tie_may_be_between_equals(tmp_path):
  (tmp_path / "a").write_bytes(odd.saved("PNG"))
  pair = dict.fromkeys(("image_a", "image_b"), str(tmp_path / "a"))
  image_checks.check([PictureRow("here", pair, is_tie=True)])
  with pytest.raises(UserError, match="same picture"):
    image_checks.check([PictureRow("here", pair)])


def test_equal_pictures_of_all_prompts_are_remarked(tmp_path, caplog):
  rows = []
  for i in range(3):
    (tmp_path / str(i)).write_bytes(odd.saved("PNG", optimize=i == 1))
    rows.append(PictureRow("here", {"image": str(tmp_path / str(i))}))
  image_checks.check(rows)
  assert "all 3 pictures to start from show the same" in caplog.text
