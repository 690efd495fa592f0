"""The page of published systems is what its command writes."""

import subprocess
import sys

from tests import tiny


def test_the_page_is_up_to_date():
  command = [sys.executable, "docs/systems.py", "--check"]
  done = subprocess.run(
    command, cwd=tiny.ROOT, check=False, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr or "run: python docs/systems.py"


def test_its_proofs_are_there():
  text = (tiny.ROOT / "docs" / "SYSTEMS.md").read_text()
  links = [part.split(")")[0] for part in text.split("](../")[1:]]
  assert len(links) > 10
  assert not [link for link in links if not (tiny.ROOT / link).exists()]
