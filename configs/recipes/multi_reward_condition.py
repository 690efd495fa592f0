"""Multi-Reward as Condition: rewards are knobs of the policy, learned without any RL.

Gu et al. 2024, https://arxiv.org/abs/2411.04713, read in the authors' code: an editing policy is
fine-tuned on imperfect images, each with its scores of 0 to 5 as sinusoids and a text of
its faults; both are added to the time and attended to. Samples are drawn at the best
scores. Here the scenes, half of them right; the shares of the images that score no more,
times 5, are attended to as tokens. No text of faults.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.of_scores(arg, __file__, "task", "look")
