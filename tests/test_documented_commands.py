"""Every command of the site names a config and fields that there are."""

import pytest

from jaxreward import config, jobs, main
from tests import documented

PAGES = [documented.ROOT / "README.md", *sorted(documented.DOCS.rglob("*.md"))]
PAGES = [page for page in PAGES if documented.main_commands(page)]


@pytest.mark.parametrize(
  "page", PAGES, ids=lambda page: str(page.relative_to(documented.ROOT))
)
def test_commands_are_accepted(page, monkeypatch):
  monkeypatch.chdir(documented.ROOT)
  for words in documented.main_commands(page):
    flags = main.parse_flags(words)
    if flags.config and flags.config != "CONFIG":
      jobs.find(config.load(flags.config, flags.overrides))
