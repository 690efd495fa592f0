"""Tutorials and guides run as they are printed, block by block."""

import runpy

import pytest

from jaxreward import main
from tests import documented

BY_HAND = documented.DOCS / "by_hand.md"
PAGES = [
  page
  for page in sorted(documented.DOCS.rglob("*.md"))
  if any(what == "run" for what, *_ in documented.blocks(page))
  and page != BY_HAND
]


def run_page(page, folder):
  """Writes a page's files and runs its commands, in order."""
  for what, name, _, text in documented.blocks(page):
    if what == "file":
      (folder / name).write_text(text)
    elif what == "run":
      for words in documented.commands(text):
        if words[:3] == documented.MAIN:
          assert main.main(words[3:]) == 0, words
        else:
          assert words[0] == "python" and len(words) == 2, words
          runpy.run_path(words[1], run_name="__main__")


@pytest.mark.job
@pytest.mark.parametrize(
  "page",
  [
    pytest.param(
      page,
      marks=pytest.mark.turns(6, i),
      id=str(page.relative_to(documented.DOCS)),
    )
    for i, page in enumerate(PAGES)
  ],
)
def test_the_page_runs(page, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run_page(page, tmp_path)


@pytest.mark.job
@pytest.mark.turns(4, 1)
def test_a_step_by_hand_is_on_policy(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run_page(BY_HAND, tmp_path)
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 3 and lines[0] != lines[1]
  assert all(line.endswith("mean ratio 1.000000") for line in lines)
