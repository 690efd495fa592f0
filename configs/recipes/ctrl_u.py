"""Ctrl-U: a reward on noised images of a dataset, less where it is in doubt.

Zhang et al. 2024, https://arxiv.org/abs/2410.11236. Each image is noised at two times
that almost touch; where their predictions score differently the reward counts less, and
the difference is a loss of its own. The authors' rewards are detectors of a control
image, pixel by pixel; here a reward scores whole images by their captions. `:full` reads
a folder with metadata.jsonl, `--config.data.dataset=FOLDER`.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  is_full = recipes.size_of(arg) == "full"
  config.objective = dict(name="uncertain_reward", margin=2.0)
  config.regularizers = dict()
  config.data.dataset = "dataset" if is_full else "scenes"
  config.align.gap = 0.001
  config.optimizer.learning_rate = 1e-4
  if not is_full:
    return recipes.train_reward_first(config, arg, __file__)
  config.rewards = dict(
    clip=dict(fn="clip_score", weights="openai/clip-vit-large-patch14")
  )
  return config
