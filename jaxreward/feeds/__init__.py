"""Feeds: how rows for a loss are made, and the arrays they offer by name."""

from __future__ import annotations

from jaxreward.feeds import (
  dataset,
  lists,
  noised_samples,
  pairs,
  predictions,
  steps,
  tail,
)
from jaxreward.feeds.contract import (
  NOISES,
  OLD_LOG_PROBS,
  Credit,
  Drift,
  Feed,
  Plan,
  Rows,
  call,
  cut,
  match,
  narrowed,
  reads,
  require,
  shapes,
  with_references,
)
from jaxreward.feeds.networks import Arrays, Network

FEEDS: dict[str, Feed] = {
  "steps": steps.FEED,
  "noised": noised_samples.FEED,
  "pairs": pairs.FEED,
  "lists": lists.FEED,
  "tail": tail.FEED,
  "predicted": predictions.FEED,
  "dataset": dataset.FEED,
}

__all__ = [
  "FEEDS",
  "NOISES",
  "OLD_LOG_PROBS",
  "Arrays",
  "Credit",
  "Drift",
  "Feed",
  "Network",
  "Plan",
  "Rows",
  "call",
  "cut",
  "match",
  "narrowed",
  "reads",
  "require",
  "shapes",
  "with_references",
]
