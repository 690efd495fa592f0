"""Files of images with captions, one reader for all: `parts`.

A source is a table (`table_files`: JSON lines, JSON, CSV, parquet, Arrow, TFDS), a
webdataset (`tar_files`), or a folder with metadata, or of images with captions
beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from etils import epath

from jaxreward import paths, reading
from jaxreward.data import table_files, tar_files
from jaxreward.data.table_files import Part
from jaxreward.errors import UserError, shown

METADATA = ("metadata.jsonl", "metadata.csv")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
EXAMPLE = '{"prompt": "a red circle", "image": "1.png"}'
_TABLES = ("dataset_dict.json", "dataset_info.json", "features.json")


class _Beside:
  """Images of a folder with captions in .txt files of the same names."""

  def __init__(self, images: list[epath.Path]):
    self.images = sorted(images)

  def rows(self) -> Iterator[tuple[str, Any]]:
    for image in self.images:
      caption = image.with_suffix(".txt")
      if not paths.is_there(caption):
        yield (
          reading.name(image),
          UserError(
            f"{reading.name(image)}: there is no caption beside it,"
            f" {shown(caption.name)}"
          ),
        )
        continue
      text = " ".join(reading.text(caption).split())
      yield reading.name(caption), {"prompt": text, "image": image.name}


def parts(path: object, split: str = "", field: str = "") -> list[Part]:
  """The files of a dataset, in order.

  Args:
    path: of a file or a folder, or a pattern with `*`.
    split: of a folder that has several.
    field: config field of the path, for errors.

  Raises:
    UserError: there is none, no such split, or a package is missing.
  """
  text = paths.expand(path, field)
  if (files := paths.matches(text)) is not None:
    if not text.endswith(tar_files.SUFFIX):
      return table_files.parts(path, split, field)
    if not files:
      raise UserError(f"{field}={text}: no .tar file has such a name")
    return [_part(p) for p in files]
  source = paths.find(path, field)
  if source.is_dir():
    return _of_folder(source, split, field)
  if source.suffix in (".jsonl", ".csv", tar_files.SUFFIX):
    return [_part(source)]
  return table_files.parts(path, split, field)


def _part(path: epath.Path) -> Part:
  if path.suffix == tar_files.SUFFIX:
    return Part(path, tar_files.Tar(path))
  return Part(path, example=EXAMPLE)


def _of_folder(folder: epath.Path, split: str, field: str) -> list[Part]:
  inside = list(folder.iterdir())
  if split and folder / split in inside and (folder / split).is_dir():
    return _of_folder(folder / split, "", field)
  metadata = [p for p in inside if p.name in METADATA]
  if len(metadata) > 1:
    raise UserError(
      f"{reading.name(folder)}: it holds {' and '.join(METADATA)}; keep one"
    )
  if metadata:
    return [_part(metadata[0])]
  shards = sorted(p for p in inside if p.suffix == tar_files.SUFFIX)
  if split:
    shards = [p for p in shards if p.name.startswith(split)]
  if shards:
    return [_part(p) for p in shards]
  images = [p for p in inside if p.suffix.lower() in SUFFIXES]
  if images:
    return [Part(folder / "*.txt", _Beside(images))]
  tables = [p for p in inside if p.suffix in table_files.SUFFIXES]
  if tables or any((folder / name).exists() for name in _TABLES):
    return table_files.parts(folder, split, field)
  nested = [p.name for p in inside if p.is_dir() and not split]
  if "train" in nested:
    return _of_folder(folder, "train", field)
  if nested:
    return table_files.parts(folder, split, field)
  start = f"{field}=" if field else ""
  raise UserError(
    f"{start}{reading.name(folder)}: the folder holds none of"
    f" {', '.join(METADATA)}, and no image"
  )
