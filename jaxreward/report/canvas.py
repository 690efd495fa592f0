"""Matplotlib independent of the process's environment.

MPLBACKEND may name a notebook's backend or a missing one, and a matplotlibrc
may ask for LaTeX: charts here use their own canvas and Matplotlib's defaults.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
  """Hides an environment variable."""
  value = os.environ.pop(name, None)
  try:
    yield
  finally:
    if value is not None:
      os.environ[name] = value


with _without("MPLBACKEND"):
  import matplotlib
  from matplotlib.axes import Axes as Axes
  from matplotlib.backends.backend_svg import FigureCanvasSVG as FigureCanvasSVG
  from matplotlib.figure import Figure as Figure
  from matplotlib.ticker import MaxNLocator as MaxNLocator

# Settings about windows, which would look for a display.
_EXCLUDED = (
  "backend",
  "backend_fallback",
  "interactive",
  "toolbar",
  "timezone",
)
PLAIN = {
  k: v for k, v in matplotlib.rcParamsDefault.items() if k not in _EXCLUDED
}


def style(changes: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
  """A context with Matplotlib's defaults and these changes."""
  return matplotlib.rc_context({**PLAIN, **changes})
