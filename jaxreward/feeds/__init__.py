"""Feeds: how rows for a loss are made, and the arrays they offer by name."""

from __future__ import annotations

from jaxreward.feeds import dataset, lists, noised, pairs, steps, tail
from jaxreward.feeds.contract import (
  OLD_LOG_PROBS,
  Credit,
  Feed,
  Plan,
  Rows,
  call,
  cut,
  match,
  reads,
  require,
  shapes,
  with_references,
)
from jaxreward.feeds.networks import Arrays, Network

FEEDS: dict[str, Feed] = {
  "steps": steps.FEED,
  "noised": noised.FEED,
  "pairs": pairs.FEED,
  "lists": lists.FEED,
  "tail": tail.FEED,
  "dataset": dataset.FEED,
}

__all__ = [
  "FEEDS",
  "OLD_LOG_PROBS",
  "Arrays",
  "Credit",
  "Feed",
  "Network",
  "Plan",
  "Rows",
  "call",
  "cut",
  "match",
  "reads",
  "require",
  "shapes",
  "with_references",
]
