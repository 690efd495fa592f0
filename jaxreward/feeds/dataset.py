"""The feed "dataset": a user's own images, noised at drawn times.

Its arrays are those of "noised" under the same names, but for the advantage:
nothing has been compared. `weight` is the row's own, 1 where a file gives none.
"""

from __future__ import annotations

import dataclasses

from jaxreward.feeds import noised

FEED = dataclasses.replace(
  noised.FEED,
  offers={k: v for k, v in noised.FEED.offers.items() if k != "advantage"},
)
