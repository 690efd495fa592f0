"""VLM-RM: towers of images and texts score a goal, what is off its direction damped.

Rocamonde et al. 2023, https://arxiv.org/abs/2310.12921, of robots: image features are
drawn to the line from a baseline text to the goal, here by a half. At full size CLIP's,
with the baseline "an image" for all prompts. On scenes a small pair of towers is trained
first; its baseline is the mean of the training prompts.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  if recipes.size_of(arg) == "full":
    clip = recipes.PUBLISHED["clip"]["weights"]
    config.rewards = dict(
      goal=dict(fn="clip_goal", weights=clip, baseline="an image", strength=0.5)
    )
    return config
  config = recipes.train_reward_first(config, arg, __file__)
  config.reward_model.backbone = dict(name="clip", size="tiny")
  config.reward_model.head = dict(name="goal", strength=0.5)
  config.train_reward.init_from_policy = False
  config.train_reward.optimizer.learning_rate = 1e-3
  return config
