"""Artifact reward: a small detector of artefacts beside the reward that is gamed.

Hong et al. 2026, https://arxiv.org/abs/2601.03468: whatever is rewarded, preference or
alignment, images drift to artefacts, so the probability that there is none is added with
unit weight. The authors ask a language model whose prompt is tuned on a few labelled
images; here a network learns clean references against spoilt copies before the policy
does. Group of 8 and KL .01 as there. On scenes a reward model is trained first, and the
detector of objects watches.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  size = recipes.size_of(arg)
  config = recipes.load("flow_grpo", arg, __file__)
  config.regularizers = dict(kl=dict(fn="step_kl", weight=0.01))
  first = 1 if size == "smoke" else 10
  config.align.hold_policy = first
  config.players.artifacts = dict(
    fn="artifact_detector", weight=1.0, until=first, steps=20,
    optimizer=dict(learning_rate=1e-3),
  )  # fmt: skip
  if size == "smoke":
    config.players.artifacts.update(width=8, hidden=32)
    return recipes.train_reward_first(config, arg, __file__)
  config.rollout.group = 8
  if size == "full":
    config.rewards = dict(pick=dict(**recipes.PUBLISHED["pick"], weight=1.0))
    return config
  return recipes.train_reward_first(config, arg, __file__)
