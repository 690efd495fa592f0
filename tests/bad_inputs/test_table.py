"""Every bad input ends in one short line, loses nothing, and exits with 2."""

import hashlib
import importlib
import pathlib
import tempfile

import pytest

from jaxreward import main as main_lib
from jaxreward.errors import UserError
from jaxreward.errors import squeeze as one_short_line
from tests import tiny
from tests.bad_inputs import table

pytestmark = [pytest.mark.job, pytest.mark.usefixtures("as_users_call")]

LIMIT = 300
HERE = pathlib.Path(__file__).parent
ROWS = {
  f"{file.stem.removeprefix('rows_')}: {row.name}": row
  for file in sorted(HERE.glob("rows_*.py"))
  for row in importlib.import_module(f"tests.bad_inputs.{file.stem}").ROWS
}


def _digests(folder: pathlib.Path) -> dict[str, str]:
  return {
    str(p): hashlib.sha256(p.read_bytes()).hexdigest()
    for p in folder.rglob("*")
    if p.is_file()
  }


def _line_of_command(row, here, capfd) -> str:
  filled = lambda text: str(text).replace("{here}", str(here))
  spec = filled(row.config)
  config = spec if spec.startswith("/") else tiny.CONFIGS / spec
  code = main_lib.main(
    [
      f"--config={config}",
      f"--workdir={filled(row.workdir)}",
      *(f"--config.{k}={filled(v)}" for k, v in row.overrides.items()),
      *map(filled, row.options),
    ]
  )
  err = capfd.readouterr().err
  lines = [line for line in err.split("\n") if line.startswith("error: ")]
  assert code == 2, err
  assert len(lines) == 1, err
  assert "Traceback" not in err
  assert max(map(len, err.split("\n"))) <= LIMIT, err
  return lines[0]


@pytest.fixture
def here():
  """A folder of a short name: of long lines the middle is left out."""
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    path = pathlib.Path(folder) / "here"
    path.mkdir()
    yield path


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.extras if row.needs else ())
    for name, row in ROWS.items()
  ],
)
def test_one_short_line(name, here, monkeypatch, capfd):
  row = ROWS[name]
  if row.needs:
    pytest.importorskip(row.needs)
  table.write(here, row.files)
  for variable, value in row.env.items():
    monkeypatch.setenv(variable, value.replace("{here}", str(here)))
  if row.prepare is not None:
    row.prepare(here, monkeypatch)
  before = _digests(here)
  capfd.readouterr()
  if row.call is None:
    line = _line_of_command(row, here, capfd)
  else:
    with pytest.raises(UserError) as caught:
      row.call(here)
    line = one_short_line(str(caught.value))
  for word in row.says:
    assert word in line
  after = _digests(here)
  assert {k: after.get(k) for k in before} == before  # nothing lost


def test_the_table_covers_every_reader():
  assert len(ROWS) >= 800
