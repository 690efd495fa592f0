"""The page of published systems is what its command writes."""

import re
import subprocess
import sys

from tests import tiny


def test_the_page_is_up_to_date():
  command = [sys.executable, "docs/systems.py", "--check"]
  done = subprocess.run(
    command, cwd=tiny.ROOT, check=False, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr or "run: python docs/systems.py"


def test_what_it_names_is_there():
  text = (tiny.ROOT / "docs" / "SYSTEMS.md").read_text()
  names = re.findall(r"`((?:configs|tests)/[^`]+\.py)`", text)
  assert len(names) > 10
  assert not [name for name in names if not (tiny.ROOT / name).exists()]
