"""ImageReward: a BLIP's first text state and five linear layers, from rankings.

Xu et al. 2023, https://arxiv.org/abs/2304.05977; the released program: Adam at 1e-5 with
a cosine, 64 pairs, ten epochs (here of 136,892 pairs, unverified), the first seven tenths
of both towers frozen. It starts from BLIP's own weights, where the reader here takes those
of ImageReward, and its script for stored pairs reads the last text state, where the scorer
and this read the first. Dropout of the head, .1 and .2, is left out.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for ViT-L on pairs of your own."""
  return recipes.published_reward(
    arg,
    __file__,
    backbone=dict(
      name="blip", weights="ImageReward.safetensors",
      tokenizer="google-bert/bert-base-uncased",
    ),
    head=dict(name="layered"),
    loss=dict(name="bradley_terry"),
    optimizer=dict(
      name="adamw", learning_rate=1e-5, schedule="cosine", clip_norm=0.0
    ),
    last_layers=dict(text=4, vision=8),
    steps=21390, rows=64, evaluate_every=535, save_every=535,
  )  # fmt: skip
