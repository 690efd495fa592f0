"""Recipes of public policies as cases of a test."""

import pytest

from tests import turns

OTHER = {"flow_grpo": "diffusion_nft", "diffusion_nft": "flow_grpo"}


def cases(first: str, *models: str) -> list:
  """(model, objective): either objective; a commit runs one, the rest are slow."""
  pairs = [(m, o) for o in (first, OTHER[first]) for m in models]
  due = pairs[turns.turn() % len(pairs)]
  return [
    pytest.param(*pair, marks=[] if pair == due else pytest.mark.slow)
    for pair in pairs
  ]
