"""Recipes of public policies as cases of a test."""

from tests import turns

OTHER = {"flow_grpo": "diffusion_nft", "diffusion_nft": "flow_grpo"}


def cases(first: str, *models: str) -> list:
  """(model, objective): either objective; a commit runs one, the rest are slow."""
  return turns.one_due([(m, o) for o in (first, OTHER[first]) for m in models])
