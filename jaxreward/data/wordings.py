"""Prompts as texts: which are invalid, and which share an entry of a file."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

from absl import logging

from jaxreward.errors import UserError, nearest, shown

LONGEST = 50_000  # characters of a prompt
NAMED = 3  # prompts without an entry that are logged by name
_COMPARED = 5000  # entries that are searched for the nearest one
# Invisible letters and symbols: fillers of Hangul, an empty Braille cell.
_BLANK = "\u115f\u1160\u3164\uffa0\u2800"
_UNSEEN = ("Cc", "Cf", "Cs", "Cn", "Co", "Mn", "Me", "Zs", "Zl", "Zp")

Value = TypeVar("Value")


def check_prompt(text: object, where: str, name: str = "the prompt") -> str:
  """Returns the prompt unchanged if it is valid.

  Args:
    text: of a file.
    where: its place, for errors.
    name: its name there.

  Raises:
    UserError: not text, no visible character, too long, or a character that no
      file can hold.
  """
  if not isinstance(text, str):
    raise UserError(f"{where}: {name} is {shown(text)}, which is not text")
  if not text.strip():
    raise UserError(f"{where}: {name} is empty")
  if len(text) > LONGEST:
    raise UserError(
      f"{where}: {name} has {len(text):,} characters; at most {LONGEST:,} are"
      " read"
    )
  for character, what in (("\0", "NUL"), *_surrogates(text)):
    if character in text:
      raise UserError(f"{where}: {name} holds {what}, which no text holds")
  if not any(map(_is_seen, text)):
    unseen = next(c for c in text if not c.isspace())
    raise UserError(
      f"{where}: {name} looks empty: it holds U+{ord(unseen):04X} and"
      " no letter; write words"
    )
  return text


def _surrogates(text: str) -> list[tuple[str, str]]:
  return [
    (c, f"half a character ({shown(c)})")
    for c in text
    if "\ud800" <= c <= "\udfff"
  ][:1]


def _is_seen(character: str) -> bool:
  if character in _BLANK:
    return False
  return unicodedata.category(character) not in _UNSEEN


def controls(text: str) -> str:
  """Control and replacement characters within a text."""
  return "".join(
    c
    for c in text
    if c == "\ufffd" or (unicodedata.category(c) == "Cc" and not c.isspace())
  )


def key(text: str) -> str:
  """A normalized text: wordings with the same key share an entry of a file.

  They may differ in case, white space, trailing full stops, invisible
  characters and the composition of accents.
  """
  visible = "".join(
    c
    for c in unicodedata.normalize("NFC", text)
    if c.isspace() or unicodedata.category(c) not in ("Cf", "Cc")
  )
  return " ".join(visible.casefold().split()).rstrip(" .")


def put(entries: dict[str, Any], text: str, entry: Any, where: str) -> None:
  """Adds the entry of a prompt; an existing entry has to be equal.

  Raises:
    UserError: the prompt has two different entries.
  """
  if entries.setdefault(text, entry) != entry:
    raise UserError(
      f'{where}: "{shown(text)}" appears twice, with different entries;'
      " keep one"
    )


class ByPrompt(Generic[Value]):
  """Entries of a file by prompt.

  A prompt has the entry under its exact words or else the single entry with the
  same `key`.

  Args:
    entries: by the prompt as written in the file.
    name: of the file, for messages about prompts without an entry.
  """

  def __init__(self, entries: Mapping[str, Value], name: str):
    self.entries, self._name = dict(entries), name
    self._of_key: dict[str, list[str]] = {}
    for text in self.entries:
      self._of_key.setdefault(key(text), []).append(text)
    self._reported: set[str] = set()

  def __len__(self) -> int:
    return len(self.entries)

  def wording(self, text: str) -> str | None:
    """The words under which a prompt's entry is listed; None without one."""
    if text in self.entries:
      return text
    matches = self._of_key.get(key(text), ())
    return matches[0] if len(matches) == 1 else None

  def get(self, text: str, default: Value) -> Value:
    """The entry of a prompt; a missing one is logged once."""
    wording = self.wording(text)
    if wording is not None:
      return self.entries[wording]
    if (
      text.strip()
      and text not in self._reported
      and len(self._reported) <= NAMED
    ):
      self._reported.add(text)
      more = len(self._reported) > NAMED
      logging.warning(
        "%s", "further prompts without an entry are not named" if more
        else self.lacks(text)
      )  # fmt: skip
    return default

  def lacks(self, text: str) -> str:
    """The message on a prompt without an entry, with the nearest one."""
    matches = self._of_key.get(key(text), ())
    if len(matches) > 1:
      return (
        f'{self._name}: several entries differ from "{shown(text)}" in capitals'
        " or white space alone, so none is taken"
      )
    near = nearest(text, list(self.entries)[:_COMPARED])
    return f'{self._name}: no entry for the prompt "{shown(text)}"{near}'

  def require_some(self, texts: Iterable[str]) -> None:
    """Rejects entries of which none belongs to any of the prompts.

    Raises:
      UserError: with the first prompt and the nearest entry.
    """
    texts = [text for text in texts if text.strip()]
    if texts and not any(self.wording(text) for text in texts):
      raise UserError(f"{self.lacks(texts[0])}, nor for any other")
