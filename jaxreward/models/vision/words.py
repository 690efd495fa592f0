"""Cleaning of prompts as CLIP's authors do before tokenization."""

from __future__ import annotations

import html
from collections.abc import Callable

from jaxreward.errors import UserError


def cleaner() -> Callable[[str], str]:
  """`clean`, after checking that ftfy is installed.

  Raises:
    UserError: ftfy is not installed.
  """
  try:
    import ftfy  # noqa: F401
  except ImportError as error:
    raise UserError(
      "these weights were trained on texts repaired with ftfy;"
      ' pip install "jaxreward[text]"'
    ) from error
  return clean


def clean(text: str) -> str:
  """Fixes mojibake, unescapes HTML, collapses white space and lower-cases.

  As in the tokenizers of CLIP, open_clip and HPSv2; those of transformers only
  lower-case and collapse white space.
  """
  import ftfy

  text = html.unescape(html.unescape(ftfy.fix_text(text)))
  return " ".join(text.split()).lower()
