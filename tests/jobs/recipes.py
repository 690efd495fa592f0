"""Recipes of public policies as cases of a test."""

import pytest

OTHER = {"flow_grpo": "diffusion_nft", "diffusion_nft": "flow_grpo"}


def cases(first: str, *models: str) -> list:
  """(model, objective): either objective, one of them slow, by turns."""
  found = []
  for model in models:
    slow = pytest.param(model, OTHER[first], marks=pytest.mark.slow)
    found += [pytest.param(model, first), slow]
    first = OTHER[first]
  return found
