"""Prompts as CLIP's authors write them before they make tokens of them."""

from __future__ import annotations

import html
from collections.abc import Callable

from jaxreward.errors import UserError


def mender() -> Callable[[str], str]:
  """`mended`, once it is sure that it can do its work.

  Raises:
    UserError: ftfy is not installed.
  """
  try:
    import ftfy  # noqa: F401
  except ImportError as error:
    raise UserError(
      "these weights were trained on texts mended with ftfy;"
      ' pip install "jaxreward[text]"'
    ) from error
  return mended


def mended(text: str) -> str:
  """Mojibake put right, entities of HTML written out, single spaces, lower case.

  What the tokenizers of CLIP, open_clip and HPSv2 do to every text; those of
  transformers only lower its case and join its spaces.
  """
  import ftfy

  text = html.unescape(html.unescape(ftfy.fix_text(text)))
  return " ".join(text.split()).lower()
