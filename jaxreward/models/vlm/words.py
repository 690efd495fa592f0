"""A tokenizer of whole words, for small models with their own vocabulary.

Some phrases are one token each, such as fixed sentences of questions; unknown
words are `UNKNOWN`. `tokenizer.json` is in the format of the library
`tokenizers`, so that transformers reads it too.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxreward.errors import UserError, one_line
from jaxreward.files import write_atomic
from jaxreward.models import hub
from jaxreward.models.vision import encoders
from jaxreward.models.vlm import prompts

UNKNOWN, FILE = "<unk>", "tokenizer.json"
PAD, STOP = "<pad>", prompts.END
MARKS = (
  PAD, STOP, "<|im_start|>", "<|vision_start|>", "<|vision_end|>",
  prompts.IMAGE, prompts.VIDEO, "<think>", "</think>",
)  # fmt: skip
_WORD = r"\w+|[^\w\s]"


@dataclasses.dataclass(frozen=True)
class Words:
  """Text -> ids, as transformers' tokenizers are called.

  Attributes:
    phrases: tokens that are matched first, verbatim.
    words: the other tokens, in lower case.
  """

  phrases: tuple[str, ...]
  words: tuple[str, ...]

  @functools.cached_property
  def ids(self) -> dict[str, int]:
    return {token: i for i, token in enumerate((*self.phrases, *self.words))}

  @functools.cached_property
  def _split(self) -> re.Pattern[str]:
    longest = sorted(self.phrases, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest))})")

  @property
  def unk_token_id(self) -> int:
    return self.ids[UNKNOWN]

  def __call__(self, text: str) -> Mapping[str, list[int]]:
    """{"input_ids": ids} of a text."""
    ids: list[int] = []
    for i, part in enumerate(self._split.split(text)):
      if i % 2:
        ids.append(self.ids[part])
        continue
      for word in re.findall(_WORD, part.lower()):
        ids.append(self.ids.get(word, self.unk_token_id))
    return {"input_ids": ids}

  def save(self, folder: pathlib.Path) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`."""
    common = dict(single_word=False, lstrip=False, rstrip=False)
    added = [
      dict(
        id=self.ids[x], content=x, normalized=False, special=x in MARKS, **common
      )
      for x in self.phrases
    ]  # fmt: skip
    record = {
      "version": "1.0", "truncation": None, "padding": None,
      "added_tokens": added, "normalizer": {"type": "Lowercase"},
      "pre_tokenizer": {
        "type": "Split", "pattern": {"Regex": _WORD}, "behavior": "Removed",
        "invert": True,
      },
      "post_processor": None, "decoder": None,
      "model": {"type": "WordLevel", "vocab": self.ids, "unk_token": UNKNOWN},
    }  # fmt: skip
    config = {
      "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": UNKNOWN,
      "eos_token": STOP, "pad_token": PAD,
    }  # fmt: skip
    write = lambda name, x: write_atomic(
      folder / name, json.dumps(x, ensure_ascii=False) + "\n"
    )
    write(FILE, record)
    write("tokenizer_config.json", config)


def make(phrases: Sequence[str], words: Sequence[str]) -> Words:
  """A tokenizer that also knows the special tokens of the chat template."""
  plain = dict.fromkeys(w.lower() for w in (UNKNOWN, *words))
  return Words((*MARKS, *dict.fromkeys(phrases)), tuple(plain))


def read(folder: pathlib.Path) -> Words | None:
  """The word tokenizer in a folder; None if it has another tokenizer.

  Raises:
    UserError: it cannot be read.
  """
  file = folder / FILE
  if not file.exists():
    return None
  try:
    record: Any = json.loads(file.read_text())
    if record["model"]["type"] != "WordLevel":
      return None
    phrases = tuple(x["content"] for x in record["added_tokens"])
    vocabulary = record["model"]["vocab"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"cannot read {file}: {one_line(error)}") from error
  ordered = sorted(vocabulary, key=vocabulary.get)
  tokens = Words(phrases, tuple(x for x in ordered if x not in set(phrases)))
  if tokens.ids != vocabulary:
    raise UserError(
      f"{file}: its phrases do not come before its words; take a tokenizer that"
      " this library has written"
    )
  return tokens


def pretrained(spec: str) -> Any:
  """The tokenizer beside weights: a `Words`, or that of transformers.

  Args:
    spec: their folder or hub id.

  Raises:
    UserError: there is none, or it cannot be read.
  """
  path = hub.resolve(spec)
  folder = path if path.is_dir() else path.parent
  return read(folder) or encoders.pretrained(spec)
