"""Commands and files that the pages of the site name."""

import pathlib
import re
import shlex
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
MAIN = ["python", "-m", "jaxreward.main"]
_BLOCK = re.compile(
  r"(?:<!-- (?P<what>run|file: (?P<name>\S+)) -->\n)?"
  r"```(?P<language>\w*)\n(?P<text>.*?)```",
  re.DOTALL,
)

_STARTS = re.compile(r"(^|&& )\s*(\S*/)?python -m jaxreward\.main ")


def blocks(page: pathlib.Path) -> Iterator[tuple[str, str, str, str]]:
  """("run", "file" or "", name of the file, language, text) of each block."""
  for found in _BLOCK.finditer(page.read_text(encoding="utf-8")):
    what = (found["what"] or "").split(":")[0]
    yield what, found["name"] or "", found["language"], found["text"]


def commands(text: str) -> list[list[str]]:
  """The words of each command of a shell block, comments left out."""
  lines = re.sub(r"\\\n\s*", " ", text).splitlines()
  parts = [part for line in lines for part in line.split(" && ")]
  words = [shlex.split(part, comments=True) for part in parts]
  return [w for w in words if w]


def main_commands(page: pathlib.Path) -> list[list[str]]:
  """Arguments of each `python -m jaxreward.main` that a page tells to run."""
  lines = [
    line
    for _, _, language, text in blocks(page)
    if language in ("bash", "sh", "")
    for line in re.sub(r"\\\n\s*", " ", text).splitlines()
    if _STARTS.search(line)
  ]
  return [
    words[len(MAIN) :]
    for words in commands("\n".join(lines))
    if [pathlib.Path(words[0]).name, *words[1:3]] == MAIN
    and not any("$" in word for word in words)  # set by the shell around it
  ]
