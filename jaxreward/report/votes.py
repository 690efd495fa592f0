"""Pairs of a run's images that a person chooses from, and the file of answers.

WORKDIR/votes/votes.jsonl is a file of preferences (docs/preferences.md), its
images beside it. Nothing here imports JAX.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import io
import itertools
import json
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from jaxreward.errors import UserError

FOLDER, FILE, IMAGES = "votes", "votes.jsonl", "images"
# Choice -> label of the file.
CHOICES = {"left": "a", "right": "b", "tie": "tie", "neither": "both_bad"}
CARDS = ("cards.npz", "validation.npz")  # in the folder grids
SAMPLES = "samples.json"
FRAME_MS = 250  # of an animated strip
LARGEST = 2**28  # bytes of an image file


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two images of one prompt.

  Attributes:
    id: a digest of prompt and images.
    prompt: the text.
    category: of the prompt; "" if unknown.
    images: digests, the left one first.
    models: who drew them, in the same order; "" if unknown.
    source: digest of the image that an edit starts from; "" without one.
  """

  id: str
  prompt: str
  category: str
  images: tuple[str, str]
  models: tuple[str, str]
  source: str = ""


def inside(folder: pathlib.Path, path: pathlib.Path) -> bool:
  """Whether a path, links followed, is below a folder."""
  return path.resolve().is_relative_to(folder.resolve())


class Votes:
  """The pairs of a working directory and the votes on them.

  Args:
    workdir: of the run.
    seed: the key of the order of pairs and of their sides.
  """

  def __init__(self, workdir: pathlib.Path, seed: int = 0):
    self.workdir, self.seed = workdir, seed
    self.file = workdir / FOLDER / FILE
    self._lock = threading.Lock()
    self._stamp: Any = None
    self._pairs: list[Pair] = []
    self._images: dict[str, bytes | tuple[np.ndarray, int]] = {}

  def pairs(self) -> list[Pair]:
    """All pairs there are now, in the order in which they are shown."""
    with self._lock:
      stamp = [_stamp(path) for path in self._sources()]
      if stamp != self._stamp:
        self._pairs, self._images = self._read()
        self._stamp = stamp
      return self._pairs

  def judged(self) -> set[str]:
    """Ids of the pairs with a vote."""
    if not self.file.exists() or not inside(self.workdir, self.file):
      return set()
    keys = map(_key_of, self.file.read_bytes().split(b"\n"))
    return {key for key in keys if key is not None}

  def next(self) -> Pair | None:
    """The first pair without a vote; None if all have one."""
    ids = self.judged()
    return next((p for p in self.pairs() if p.id not in ids), None)

  def png(self, digest: str) -> bytes | None:
    """The PNG of an image of a pair; None for another digest."""
    self.pairs()
    image = self._images.get(digest)
    if image is None or isinstance(image, bytes):
      return image
    return _png(*image)

  def add(self, pair_id: str, choice: str) -> None:
    """Appends a vote; it is on the disk when this returns.

    Raises:
      UserError: an unknown pair or choice, a pair with a vote, or a file that
        cannot be written.
    """
    pair = next((p for p in self.pairs() if p.id == pair_id), None)
    if pair is None:
      raise UserError("this pair is no longer there; the next one is shown")
    if choice not in CHOICES:
      raise UserError(f"a choice is one of {', '.join(CHOICES)}")
    folder = self.file.parent
    row: dict[str, Any] = {"prompt": pair.prompt}
    names = dict(zip(("image_a", "image_b"), pair.images, strict=True))
    if pair.source:
      names["source"] = pair.source
    files = {digest: self.png(digest) for digest in names.values()}
    if not all(files.values()):  # the run has written others since
      raise UserError("this pair is no longer there; the next one is shown")
    row |= {k: f"{IMAGES}/{digest}.png" for k, digest in names.items()}
    row |= {"label": CHOICES[choice], "key": pair.id}
    if pair.category:
      row["category"] = pair.category
    if any(pair.models):
      row["models"] = list(pair.models)
    try:
      (folder / IMAGES).mkdir(parents=True, exist_ok=True)
      if not inside(self.workdir, folder / IMAGES):
        raise UserError(f"{folder} leads out of the working directory")
      line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
      with self._lock:
        for digest, content in files.items():
          _write_once(folder / IMAGES / f"{digest}.png", content or b"")
        self._append(line, pair.id)
    except OSError as error:
      reason = error.strerror or error
      raise UserError(f"cannot write {error.filename}: {reason}") from error

  def _append(self, line: bytes, pair_id: str) -> None:
    """Writes a line after the last whole one, under a lock of the file."""
    is_new = not self.file.exists()
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(self.file, flags, 0o644), "r+b") as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      whole = file.read()
      if pair_id in self.judged():
        raise UserError("this pair has a vote; the next one is shown")
      end = whole.rfind(b"\n") + 1
      if _key_of(whole[end:]) is None:  # a line that was cut off is dropped
        file.truncate(end)
      else:  # one that lacks its end alone is a vote
        end, line = len(whole), b"\n" + line
      file.seek(end)
      file.write(line)
      file.flush()
      os.fsync(file.fileno())
    if is_new:
      _sync_folder(self.file.parent)
      _sync_folder(self.workdir)

  def _sources(self) -> list[pathlib.Path]:
    grids = [self.workdir / "grids" / name for name in CARDS]
    paths = [*grids, self.workdir / SAMPLES]
    return [p for p in paths if p.is_file() and inside(self.workdir, p)]

  def _read(self) -> tuple[list[Pair], dict[str, Any]]:
    images: dict[str, Any] = {}
    pairs: dict[str, Pair] = {}
    for path in self._sources():
      pairs_of = self._of_samples if path.name == SAMPLES else self._of_cards
      try:
        for pair in pairs_of(path, images):
          pairs.setdefault(pair.id, pair)
      except Exception:  # damaged, or being written: a report says so
        continue
    order = lambda pair: self._draw("order", pair.id)
    return sorted(pairs.values(), key=order), images

  def _draw(self, stream: str, pair_id: str) -> bytes:
    text = f"{self.seed}/{stream}/{pair_id}"
    return hashlib.sha256(text.encode()).digest()

  def _pair(
    self, prompt: str, category: str, images, models, source: str = ""
  ) -> Pair | None:
    """None for two equal images."""
    if images[0] == images[1]:
      return None
    key = "\n".join([prompt, source, *sorted(images)])
    pair_id = hashlib.sha256(key.encode()).hexdigest()[:32]
    a, b = sorted(zip(images, models, strict=True))
    if self._draw("side", pair_id)[0] % 2:
      a, b = b, a
    sides = ((a[0], b[0]), (a[1], b[1]))
    return Pair(pair_id, prompt, category, *sides, source)

  def _of_cards(self, path, images) -> Iterator[Pair]:
    """Before and after of each prompt."""
    with np.load(path, allow_pickle=False) as arrays:
      texts = json.loads(str(arrays["texts"][()]))
      frames = int(arrays["frames"])
      sides = (arrays["before"], arrays["after"])
      sources = {}
      if "source" in arrays:
        sources = dict(
          zip(arrays["source_rows"].tolist(), arrays["source"], strict=True)
        )
    for i, text in enumerate(texts):
      if not text.get("prompt"):
        continue
      digests = [_keep(images, side[i], frames) for side in sides]
      source = _keep(images, sources[i], 1) if i in sources else ""
      pair = self._pair(
        text["prompt"], text.get("kind") or "", digests, ("before", "after"),
        source,
      )  # fmt: skip
      if pair:
        yield pair

  def _of_samples(self, path, images) -> Iterator[Pair]:
    """Every two samples of a prompt, as the job sample writes them."""
    by_prompt: dict[str, list[str]] = {}
    for row in json.loads(path.read_bytes()):
      file = self.workdir / "samples" / pathlib.PurePath(row["file"]).name
      if not inside(self.workdir, file) or file.stat().st_size > LARGEST:
        continue
      content = file.read_bytes()
      if row["prompt"] and content.startswith(b"\x89PNG\r\n\x1a\n"):
        digest = hashlib.sha256(content).hexdigest()[:32]
        images[digest] = content
        by_prompt.setdefault(row["prompt"], []).append(digest)
    for prompt, digests in by_prompt.items():
      for two in itertools.combinations(dict.fromkeys(digests), 2):
        if pair := self._pair(prompt, "", two, ("", "")):
          yield pair


def _key_of(line: bytes) -> str | None:
  """The pair that a line of the file is about; None of a damaged one."""
  try:
    return str(json.loads(line)["key"])
  except (ValueError, KeyError, TypeError, RecursionError):
    return None


def _stamp(path: pathlib.Path) -> tuple[str, int, int]:
  status = path.stat()
  return path.name, status.st_mtime_ns, status.st_size


def _keep(images: dict[str, Any], image: np.ndarray, frames: int) -> str:
  """Adds an image uint8 [H, W, 3] and returns its digest."""
  start = f"{image.shape}/{frames}/".encode()
  digest = hashlib.sha256(start + image.tobytes()).hexdigest()[:32]
  images[digest] = (image, frames)
  return digest


def _png(image: np.ndarray, frames: int) -> bytes:
  """A PNG; of a strip of frames an animated one."""
  first, *others = (Image.fromarray(x) for x in np.split(image, frames, axis=1))
  out = io.BytesIO()
  more: dict[str, Any] = {}
  if others:
    more = dict(
      save_all=True, append_images=others, duration=FRAME_MS, loop=0
    )  # fmt: skip
  first.save(out, format="PNG", **more)
  return out.getvalue()


def _write_once(path: pathlib.Path, content: bytes) -> None:
  if path.exists():
    return
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  with open(temporary, "wb") as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)
  _sync_folder(path.parent)


def _sync_folder(path: pathlib.Path) -> None:
  folder = os.open(path, os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)
