"""Matplotlib without what a process inherits for it.

MPLBACKEND may name the back end of a notebook, or one that is not there, and a
matplotlibrc may ask for LaTeX: charts here are drawn on a canvas of their own,
from Matplotlib's defaults.
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

# What is about windows, and would look for some.
_LEFT = ("backend", "backend_fallback", "interactive", "toolbar", "timezone")
PLAIN = {k: v for k, v in matplotlib.rcParamsDefault.items() if k not in _LEFT}


def style(changes: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
  """Matplotlib's defaults with these changes, for a while."""
  return matplotlib.rc_context({**PLAIN, **changes})
