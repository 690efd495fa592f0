"""Diff-Instruct*: a reward, held by a robust divergence between scores.

Luo et al. 2024, https://arxiv.org/abs/2410.20898: a copy learns the generator's samples,
and the divergence from the guided reference pulls them back. The authors' generator has
one step, reward weight 100 and guidance 7.5; here it has four, and both are small. Weights
over time are unverified. On scenes a reward model is trained first.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.distilled(
    arg, __file__, name="score_implicit", reward=0.1, guidance=1.5
  )
  if recipes.size_of(arg) == "full":
    config.objective.update(reward=1.0, guidance=7.5)
  return recipes.differentiable(config, arg, __file__, "pick")
