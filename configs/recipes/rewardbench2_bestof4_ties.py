"""RewardBench 2: one right image of four, and right ones that tie.

https://arxiv.org/abs/2506.01937. Rewards are judged by how often the one right
candidate of four scores highest (chance 25 %), and by whether equally right ones
stay together and above the wrong ones. Here an image that the label prefers to
three others stands for a right answer, and the gap of a prompt for that of its
paired one.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.judged(arg, __file__, views=0)
