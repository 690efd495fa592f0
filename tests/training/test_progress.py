"""Progress on a terminal and without one; stopping on a signal."""

import io
import os
import pty
import signal
import subprocess
import sys

import pytest

from jaxreward.errors import Stopped
from jaxreward.training import interrupt, progress


class Clock:
  def __init__(self):
    self.now = 0.0

  def __call__(self) -> float:
    return self.now


def lines_of(caplog) -> list[str]:
  return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
  ("seconds", "text"),
  [(0, "0:00"), (59.6, "1:00"), (187, "3:07"), (3765, "1:02:45")],
)
def test_seconds_read_as_a_clock(seconds, text):
  assert progress.format_seconds(seconds) == text


def test_plain_lines_first_last_and_every_so_often(caplog):
  caplog.set_level("INFO")
  clock = Clock()
  with progress.Progress(
    "align", 100, terminal=False, line_every=10, clock=clock
  ) as bar:
    for step in range(1, 101):
      clock.now += 1.0
      bar.update(step, {"reward": step / 100})
  lines = lines_of(caplog)
  steps = [int(line.split()[1].split("/")[0]) for line in lines]
  assert steps == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100]
  assert lines[-1] == "align 100/100  reward=1"


def test_time_left_leaves_the_first_step_out(caplog):
  caplog.set_level("INFO")
  clock = Clock()
  bar = progress.Progress(
    "align", 50, start=9, terminal=False, line_every=0, clock=clock
  )
  clock.now = 60.0  # compilation
  bar.update(10)
  assert "left" not in lines_of(caplog)[-1]
  for step in range(11, 21):
    clock.now += 2.0
    bar.update(step)
  assert lines_of(caplog)[-1] == "align 20/50  1:00 left"


def test_a_terminal_shows_a_bar_and_lines_above_it(monkeypatch):
  terminal = io.StringIO()
  terminal.isatty = lambda: True
  monkeypatch.setattr(sys, "stderr", terminal)
  monkeypatch.setenv("TERM", "xterm")
  monkeypatch.setenv("COLUMNS", "100")
  with progress.Progress("align", 4) as bar:
    bar.update(1, {"reward": 0.25})
    sys.stderr.write("a warning\n")
    bar.update(4, {"reward": 0.75})
  text = terminal.getvalue()
  assert "align" in text and "4/4" in text and "reward=0.75" in text
  assert "a warning" in text


def test_only_process_zero_speaks(caplog, monkeypatch):
  caplog.set_level("INFO")
  monkeypatch.setattr(progress.processes, "is_first", lambda: False)
  with progress.Progress("align", 2, terminal=True) as bar:
    bar.update(1)
    bar.update(2)
  assert not caplog.records


PROGRAM = """
import time
from absl import logging
from jaxreward import main
from jaxreward.training import progress
main.configure_logging()
with progress.Progress("align", 3) as bar:
  for step in (1, 2, 3):
    time.sleep(0.6)
    bar.update(step, {"reward": step})
    logging.warning("line %d", step)
"""


@pytest.mark.job
@pytest.mark.turns(3)
def test_log_lines_do_not_tear_the_bar_on_a_real_terminal():
  """Each logged line stands alone, at the start of its own row."""
  master, slave = pty.openpty()
  environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
  run = subprocess.Popen(
    [sys.executable, "-c", PROGRAM], stderr=slave, env=environment
  )
  os.close(slave)
  shown = b""
  while True:
    try:
      piece = os.read(master, 4096)
    except OSError:
      break
    if not piece:
      break
    shown += piece
  os.close(master)
  assert run.wait(120) == 0
  text = shown.decode()
  for step in (1, 2, 3):
    (line,) = [p for p in text.splitlines() if f"line {step}" in p]
    assert "━" not in line
  assert "3/3" in text


# stopping


def test_the_first_signal_asks_and_the_second_insists(caplog):
  caplog.set_level("INFO")
  before = signal.getsignal(signal.SIGINT)
  with interrupt.GracefulStop() as stop:
    assert not stop.requested
    signal.raise_signal(signal.SIGINT)
    assert stop.requested and stop.signum == signal.SIGINT
    assert "once more to quit" in caplog.text
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)
  assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_stops_too_and_the_exit_names_it():
  with interrupt.GracefulStop() as stop:
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Stopped, match="saved step 3") as caught:
      stop.exit("saved step 3")
  assert caught.value.signum == signal.SIGTERM
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_handlers_come_back_after_an_error():
  before = signal.getsignal(signal.SIGINT)
  with pytest.raises(ZeroDivisionError):
    with interrupt.GracefulStop():
      _ = 1 / 0
  assert signal.getsignal(signal.SIGINT) is before
