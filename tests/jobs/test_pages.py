"""Tutorials and guides run as they are printed, block by block."""

import runpy

import pytest

from jaxreward import main
from tests import documented

PAGES = [
  page
  for page in sorted(documented.DOCS.rglob("*.md"))
  if any(what == "run" for what, *_ in documented.blocks(page))
]


@pytest.mark.job
@pytest.mark.parametrize(
  "page",
  [
    pytest.param(
      page,
      marks=pytest.mark.turns(3, i % 3),
      id=str(page.relative_to(documented.DOCS)),
    )
    for i, page in enumerate(PAGES)
  ],
)
def test_the_page_runs(page, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for what, name, _, text in documented.blocks(page):
    if what == "file":
      (tmp_path / name).write_text(text)
    elif what == "run":
      for words in documented.commands(text):
        if words[:3] == documented.MAIN:
          assert main.main(words[3:]) == 0, words
        else:
          assert words[0] == "python" and len(words) == 2, words
          runpy.run_path(words[1], run_name="__main__")


@pytest.mark.job
@pytest.mark.turns(3, 1)
def test_a_step_by_hand_is_on_policy(capsys, tmp_path, monkeypatch):
  (source,) = (
    text
    for what, *_, text in documented.blocks(documented.DOCS / "by_hand.md")
    if what == "file"
  )
  sizes = "PROMPTS, GROUP, STEPS, NOISY, SEED = 16, 8, 8, 4, 0"
  assert sizes in source
  path = tmp_path / "flow_grpo.py"
  path.write_text(source.replace(sizes, sizes.replace("16, 8", "4, 4")))
  runpy.run_path(str(path))
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 3 and lines[0] != lines[1]
  assert all(line.endswith("mean ratio 1.000000") for line in lines)
