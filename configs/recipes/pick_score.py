"""PickScore: the logit of a CLIP pair, tuned on which of two images users pick.

Kirstain et al. 2023, https://arxiv.org/abs/2305.01569; defaults of the released program:
CLIP ViT-H/14 of LAION, 4,000 steps at 1e-6 after 500 steps of warm-up, norm 1, 16 pairs
per device (eight of them: unverified), ties one half. Pairs of a prompt share its weight
there; here every row counts alike.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for ViT-H/14 on pairs of your own."""
  config = recipes.published_reward(
    arg,
    __file__,
    backbone=dict(name="clip", weights="laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
    head=dict(name="similarity"),
    loss=dict(name="bradley_terry"),
    optimizer=dict(
      name="adamw", learning_rate=1e-6, warmup_steps=500, weight_decay=0.01
    ),
    steps=4000, rows=128, evaluate_every=100, save_every=100,
  )  # fmt: skip
  config.train_reward.ties = "half"
  return config
