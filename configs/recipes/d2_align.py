"""D2-Align: what a reward likes in any image is taken up first, then it is followed.

Chen et al. 2025, https://arxiv.org/abs/2512.24146: a direction in the reward's text
features is learned on images of the policy as it is, and the score by the guided text,
which they meet better, is followed by its gradient from there. The authors' reward is HPSv2.1,
2,000 steps of the first stage (unverified). On scenes a small pair of towers is trained
first; its scores are reported without the direction.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  size = recipes.size_of(arg)
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="noised_reward")
  config.regularizers = dict()
  config = recipes.differentiable(config, arg, __file__, "hps")
  first = 1 if size == "smoke" else 20
  config.align.hold_policy = first
  config.players.bias = dict(
    fn="bias_direction", reward="hps" if size == "full" else "learned",
    width=1024 if size == "full" else 16, until=first,
    steps=100 if size == "full" else 10,
    optimizer=dict(learning_rate=1e-2),
  )  # fmt: skip
  if size != "full":
    config.reward_model.backbone = dict(name="clip", size="tiny")
    config.reward_model.head = dict(name="similarity")
    config.train_reward.init_from_policy = False
  return config
