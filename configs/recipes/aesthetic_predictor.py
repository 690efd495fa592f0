"""The aesthetic predictor: five linear layers on CLIP features, from mean ratings.

https://github.com/christophschuhmann/improved-aesthetic-predictor, the head of LAION-
Aesthetics (https://arxiv.org/abs/2210.08402): squared error on ratings of 1 to 10, Adam
at 1e-3, 256 images, 50 epochs (here of 255,000 less a twentieth, unverified), CLIP
ViT-L/14 frozen. Its dropout is left out. The scenes' ratings are the detector's, in [0, 1].
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for ViT-L/14 on ratings of your own."""
  config = recipes.published_reward(
    arg,
    __file__,
    backbone=dict(name="clip", weights="openai/clip-vit-large-patch14"),
    head=dict(name="layered", reads="image"),
    loss=dict(name="regression"),
    optimizer=dict(name="adamw", learning_rate=1e-3, clip_norm=0.0),
    train="frozen",
    steps=47300, rows=256, evaluate_every=946, save_every=946,
  )  # fmt: skip
  config.train_reward.label_noise = 0.0
  return config
