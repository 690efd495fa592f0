"""RationalRewards: a judge writes a critique, then scores from 1 to 4 on each axis.

Wang et al. 2026, https://arxiv.org/abs/2604.11626. The reward is the mean of the axes,
mapped by `(score - 1) / 3`, on the loss of DiffusionNFT. The authors' judge scores all
axes after one critique and may call one not applicable; here each axis has a critique of
its own. A tiny model with random weights stands in for it on scenes.
"""

from jaxreward import recipes

AXES = {
  "words": "How faithful is the picture to what the prompt asks for?",
  "craft": "How good is the picture, and is what it shows possible?",
  "writing": "Is what is written in the picture right and easy to read?",
}


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  judges = {
    name: dict(
      fn="vlm_pointwise", answer="score", low=1.0, high=4.0, principle=text,
      think=256, weight=1 / len(AXES),
    )
    for name, text in AXES.items()
  }  # fmt: skip
  recipes.judge_with(config, arg, **judges)
  return config
