"""From a prompt to an aligned image on two CPU cores, in under ten minutes.

Starts from the base policy in the package, trains a reward model on preferences
between its images, aligns the policy with the detector's reward, with the learned
reward held out, and writes report.html. `:flow_grpo` uses the other objective, `:smoke`
runs the same pipeline in miniature.
"""

from jaxreward import config as config_lib


def get_config(arg: str | None = None):
  """The objective by name, and `smoke`, separated by commas."""
  given = config_lib.parse_arg(arg, objective="diffusion_nft", smoke=False)
  spec = f"align_scenes.py:{given['objective']},smoke={given['smoke']}"
  config = config_lib.load_sibling(spec, __file__)
  size = ":smoke" if given["smoke"] else ""
  reward = config_lib.load_sibling(f"train_reward_scenes.py{size}", __file__)
  config.job = "pipeline"
  config.jobs = ("train_reward", "align")
  config.reward_model = reward.reward_model
  config.train_reward = reward.train_reward
  if given["smoke"]:
    config.train_reward.init_from_policy = False  # its model is narrower
  config.heldout_rewards = dict(learned=dict(fn="learned", weight=1.0))
  return config
