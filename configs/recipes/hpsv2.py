"""HPSv2: the last layers of a CLIP pair, tuned on Human Preference Dataset v2.

Wu et al. 2023, https://arxiv.org/abs/2306.09341; the released program: ViT-H/14, 3.3e-6
with a cosine after 500 steps of warm-up, decay .35, the last 11 layers of the text tower
and 20 groups of the image tower (19 layers, norm, projection). Batch and steps are the
paper's (unverified). Its light augmentation is left out; the loss is a mean, not a sum.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for ViT-H/14 on pairs of your own."""
  return recipes.published_reward(
    arg,
    __file__,
    backbone=dict(name="clip", weights="laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
    head=dict(name="similarity"),
    loss=dict(name="bradley_terry"),
    optimizer=dict(
      name="adamw", learning_rate=3.3e-6, schedule="cosine", warmup_steps=500,
      weight_decay=0.35, b2=0.98, eps=1e-6, clip_norm=0.0,
    ),
    last_layers=dict(text=11, vision=19),
    steps=4000, rows=128, evaluate_every=200, save_every=200,
  )  # fmt: skip
