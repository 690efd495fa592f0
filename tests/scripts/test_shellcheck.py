"""Every script is clean, helps, and is what the table beside it says."""

import pathlib
import shutil
import subprocess
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "tpu_scripts"
ENTRIES = sorted(
  p.name
  for p in SCRIPTS.glob("*.sh")
  if p.name not in ("common.sh", "slurm_job.sh")
)


@pytest.mark.job
@pytest.mark.turns(3)
def test_scripts_are_shellcheck_clean():
  beside = pathlib.Path(sys.executable).parent / "shellcheck"
  program = str(beside) if beside.exists() else shutil.which("shellcheck")
  if program is None:
    pytest.skip("shellcheck is not installed (extra `dev`)")
  files = sorted(map(str, SCRIPTS.glob("*.sh")))
  assert len(files) >= 7
  done = subprocess.run(
    [program, "--external-sources", *files], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout


def test_lines_fit_the_page():
  long = [
    f"{path.name}:{i}"
    for path in SCRIPTS.glob("*.sh")
    for i, line in enumerate(path.read_text().splitlines(), 1)
    if len(line) > 80
  ]
  assert not long


@pytest.mark.parametrize("name", ENTRIES)
def test_help_names_every_flag_that_is_read(stubs, name):
  result = stubs.run(name, "--help")
  assert (result.code, result.err, result.calls) == (0, "", [])
  assert result.out.startswith(name)
  assert "--dry-run" in result.out
  text = (SCRIPTS / name).read_text()
  if "read_command_line" not in text:
    return
  call = text.rsplit("read_command_line", 1)[1].split("$@")[0]
  verbs, valued, bare = call.replace("\\", "").split('"')[1:6:2]
  for verb in verbs.split():
    assert f"\n  {verb}" in result.out, verb
  for flag in (valued + " " + bare).split():
    assert f"--{flag}" in result.out, flag


def test_the_page_names_every_script():
  page = (SCRIPTS / "README.md").read_text()
  for path in SCRIPTS.glob("*.sh"):
    assert f"`{path.name}`" in page
