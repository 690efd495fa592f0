"""How objects move: the offsets of every motion, frame by frame.

Lengths are pixels, y points down, times are frames. A motion has one free
parameter, its speed or height of fall, on a grid, so that a path can be
compared with all that a motion allows.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

FRAMES = 6
SIDE = 36  # as in the scenes
GRAVITY = 2.5  # pixels per frame^2
WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
PACES = {"slowly": (0.8, 1.3), "": (1.9, 2.5), "fast": (3.2, 3.8)}
DROPS = (12.0, 17.0)  # drop heights of objects that stay down
BOUNCES = (6.0, 9.0)  # drop heights of objects that bounce back up
STEPS = 17

STANDING, FALLING, BOUNCING = 0, 13, 14
MOTIONS = (
  "standing still",
  *(
    " ".join(w for w in ("moving", pace, way) if w)
    for pace in PACES
    for way in WAYS
  ),
  "falling",
  "bouncing",
)
_TIMES = np.arange(FRAMES, dtype=np.float64)


def fall(height: float) -> Float[np.ndarray, "F"]:
  """From rest down by a height, then at rest."""
  return np.minimum(GRAVITY * _TIMES**2 / 2, height)


def bounce(height: float) -> Float[np.ndarray, "F"]:
  """From rest down by a height, and up again without loss."""
  half = (2 * height / GRAVITY) ** 0.5
  since = (_TIMES + half) % (2 * half) - half  # the time from the highest point
  return GRAVITY * since**2 / 2


def _bank() -> np.ndarray:
  """Offsets [M, K, F, 2] of every motion, at K values of its free parameter."""
  zeros = np.zeros(FRAMES)
  rows = [[np.zeros((FRAMES, 2))] * STEPS]
  for speeds in PACES.values():
    for way in WAYS.values():
      rows.append(
        [v * _TIMES[:, None] * way for v in np.linspace(*speeds, STEPS)]
      )
  for path, heights in ((fall, DROPS), (bounce, BOUNCES)):
    rows.append(
      [np.stack([zeros, path(h)], -1) for h in np.linspace(*heights, STEPS)]
    )
  return np.array(rows, np.float32)


BANK = _bank()
# All physical vertical paths that are not linear: any fall, any bounce.
FALLS = np.array(
  [f(h) for f in (fall, bounce) for h in np.arange(2.0, 20.01, 0.25)],
  np.float32,
)
HORIZONTAL = np.array([m.endswith(("left", "right")) for m in MOTIONS])
VERTICAL = ~HORIZONTAL & (np.arange(len(MOTIONS)) != STANDING)
