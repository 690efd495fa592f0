"""Compress & Align: the part whose images fit their texts best.

https://arxiv.org/abs/2312.06726. A model of rankings scores every image with its
prompt, and the top share of the pairs stays. The paper ranks captions of an image
and trains image-text models on what stays.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    label_noise=0.2,
    curation=dict(name="aligned", share=0.5),
  )
