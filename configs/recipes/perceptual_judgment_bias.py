"""Judges that see: slightly wrong images of known order, and a reward for the order.

Park et al. 2026, https://arxiv.org/abs/2606.02578: a judge of texts about images learns
from answers with minimal perceptual errors, and what its scores of a batch earn is how many
pairs they order right. Here rows hold the policy's samples, right scenes, scenes of
prompts that differ in one thing, and spoiled ones, and the scorer is a Gaussian head whose
drawn scores earn the share of pairs in the right order. `unverified`: the exact reward. How
often a model prefers the perturbed one is measured by `eval.judging` (views of corrupted
images, and prompts that differ in one word).
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  config = recipes.reward_model(
    arg, __file__, head=dict(name="gaussian", hidden=256),
    loss=dict(name="concordant_policy", samples=8),
  )  # fmt: skip
  config.train_reward.pictures.update(renders=3, spoiled=3, borrowed=0)
  return config
