"""The feed "dataset": a user's own images, noised at drawn times.

Its arrays are those of "noised", without the advantage, as there is no reward.
`weight` is the row's, 1 if the file has none.
"""

from __future__ import annotations

import dataclasses

from jaxreward.feeds import noised_samples

FEED = dataclasses.replace(
  noised_samples.FEED,
  offers={
    k: v for k, v in noised_samples.FEED.offers.items() if k != "advantage"
  },
)
