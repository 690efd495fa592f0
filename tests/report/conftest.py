"""A made-up run and its page, written once."""

import pytest
import synthetic

from jaxreward.report import collect


@pytest.fixture(scope="session")
def run(tmp_path_factory):
  """(folder, texts of the cards, text of the page)."""
  folder = tmp_path_factory.mktemp("run")
  texts = synthetic.workdir(folder)
  path = collect.report_from_workdir(folder)
  return folder, texts, path.read_text()
