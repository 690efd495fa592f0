"""Contrasting prompts: the same two images, the words differ in one place.

https://arxiv.org/abs/2309.16155. Of prompts that differ in a single word each has
to prefer its own image, and each image its own prompt; also mirrored images and
other wordings of a prompt. The paper contrasts instructions to language models and
trains on the pairs, which is left out.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.judged(arg, __file__, rows=512, views=512)
