"""Social Reward: which images others go on with, by a triplet loss on CLIP.

Isajanyan et al. 2024, https://arxiv.org/abs/2402.09872. max(0, |t - x|^2 - |t - y|^2 + .3)
of unit vectors is twice max(0, .15 - (cos(t, x) - cos(t, y))), for an image x that was
reused and one y that was not; the last 3 layers of the image tower and 2 of the text tower
learn. Files name the reused image as preferred, with counts corrected for how many saw it.
`unverified`: learning rate, batch and steps, and that vectors have length 1.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for ViT-L/14 on pairs of your own."""
  return recipes.published_reward(
    arg,
    __file__,
    backbone=dict(name="clip", weights="openai/clip-vit-large-patch14"),
    head=dict(name="similarity", divisor=100.0),
    loss=dict(name="hinge", margin=0.15),
    optimizer=dict(name="adamw", learning_rate=1e-5, warmup_steps=500),
    last_layers=dict(text=2, vision=3),
    steps=4000, rows=128, evaluate_every=200, save_every=200,
  )  # fmt: skip
