"""DreamVideo-Omni: does a noisy latent show the reference's subject? The policy's blocks know.

https://arxiv.org/abs/2603.12257 (unverified: number, pooling, range of times). The first
blocks of the policy read noisy images and a reference, whose states ask the images' in an
attention; one logit, trained on good and bad images by themselves. Here the reference is
another render of the prompt, and good is what the detector finds right. Nothing is decoded
(`RewardModel.score_latents`, config.rewards.NAME.time).
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  config = recipes.reward_model(
    arg,
    __file__,
    head=dict(name="cross", query="context", width=64, hidden=64),
    loss=dict(name="binary"),
  )
  small = recipes.size_of(arg) == "smoke"
  width, depth = (32, 1) if small else (128, 2)
  config.reward_model.backbone = dict(
    name="policy", width=width, depth=depth, heads=2, mlp_ratio=3, text_layers=2
  )
  config.reward_model.context = True
  config.train_reward.pictures.update(strict_weight=1.0, reference=True)
  config.train_reward.label_noise = 0.0
  return config
