"""UI-Genie: a reward model learns from rules and corruptions, and filters what is kept.

Xiao et al. 2025, https://arxiv.org/abs/2505.21496, of agents on screens: a reward model
says yes or no, taught by trajectories that rules verify, corrupted ones, and right ones of
other tasks; the agent explores with it, what it passes is learned like data, and both learn
again from what the better agent does. Here a rule, the detector, labels the policy's own
scenes, renders, corrupted renders and images of other prompts; of each group the policy
learns one that the model passes, none if it passes none, and renders. An image passes that
scores above the mean of the initial policy's held-out images: scores are standardised by
those, so this is a cut of the model's logit, and not of its yes at 1/2. One round is run;
the next begins with `--config.init.checkpoint` at its policy. `unverified`: mixture and the
threshold; steps inside a trajectory are not scored.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  recipes.require_scenes(arg, "labels by the rules of")
  config = recipes.load("diffusion_nft", arg, __file__)
  config = recipes.train_reward_first(config, arg, __file__)
  config.train_reward.loss = dict(name="binary")
  config.train_reward.pictures.strict_weight = 1.0  # right or not
  config.objective = dict(name="flow_matching")
  config.advantage = dict(name="curated", temperature=0.1, least=0.0)
  # of a group one sample and one image count: the objective has half its mean
  config.regularizers = dict(data=dict(fn="data_matching", weight=0.5))
  config.rollout.real = 1
  return config
