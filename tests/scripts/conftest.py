"""Stub programs that record how they are called, and scripts run on them."""

import dataclasses
import os
import pathlib
import shlex
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tpu_scripts"
STUBBED = (
  "gcloud xpk sbatch squeue sacct scancel scontrol srun tar sleep".split()
)
STUB = """\
#!/usr/bin/env bash
# records its words, answers from a file of lines and fails where it is told
name=$(basename "$0")
{ printf '%s\\x1f' "$name" "$@"; printf '\\x1e'; } >>"$STUBS/calls"
if [[ -n ${FAIL_AT-} && " $* " == *"$FAIL_AT"* ]]; then
  echo "${FAIL_WITH:-boom}" >&2
  exit "${FAIL_CODE:-3}"
fi
case " $* " in
  *" describe "*) answers=state ;;
  *worker.sh\\ status*) answers=status ;;
  *) answers=$name ;;
esac
answers=$STUBS/$answers.answers
[[ -f $answers ]] || exit 0
answer=$(head -n 1 "$answers")
if (($(wc -l <"$answers") > 1)); then sed -i 1d "$answers"; fi
if [[ $answer == NOT_FOUND* ]]; then echo "ERROR: $answer" >&2; exit 1; fi
printf '%b\\n' "$answer"
"""


@dataclasses.dataclass
class Result:
  """What a script has said and called."""

  code: int
  out: str
  err: str
  calls: list[list[str]]

  @property
  def commands(self) -> list[list[str]]:
    """The words of every stubbed command that --dry-run has printed."""
    lines = [x for x in self.out.splitlines() if not x.startswith("#")]
    words = [shlex.split(line) for line in lines]
    return [w for w in words if w[0] in STUBBED]


class Stubs:
  """A folder of stubs in front of the PATH."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.bin = folder / "bin"
    self.bin.mkdir()
    for name in STUBBED:
      self.add(name, STUB)

  def add(self, name: str, text: str) -> None:
    path = self.bin / name
    path.write_text(text)
    path.chmod(0o755)

  def remove(self, name: str) -> None:
    (self.bin / name).unlink()

  def answer(self, what: str, *lines: str) -> None:
    """What `gcloud describe` (state) or another program prints, in turn."""
    path = self.folder / f"{what}.answers"
    path.write_text("".join(f"{line}\n" for line in lines))

  def environment(self, **extra: str) -> dict[str, str]:
    return {
      "PATH": f"{self.bin}:/usr/bin:/bin",
      "HOME": str(self.folder),
      "USER": "ada",
      "STUBS": str(self.folder),
      "TMPDIR": str(self.folder),
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"],
      **extra,
    }

  def run(self, script: str, *words: str, **extra: str) -> Result:
    """Runs a script of tpu_scripts; `extra` goes into its environment."""
    calls = self.folder / "calls"
    calls.write_text("")
    done = subprocess.run(
      [str(SCRIPTS / script), *words],
      env=self.environment(**extra),
      cwd=self.folder,
      capture_output=True,
      text=True,
      timeout=120,
    )
    records = calls.read_text().split("\x1e")[:-1]
    words_of = [record.split("\x1f")[:-1] for record in records]
    made = [w for w in words_of if w[0] != "sleep"]
    return Result(done.returncode, done.stdout, done.stderr, made)


@pytest.fixture
def stubs(tmp_path) -> Stubs:
  return Stubs(tmp_path)
