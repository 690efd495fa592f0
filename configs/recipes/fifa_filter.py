"""FiFA: a small part of the pairs, of clear margin and varied prompts.

https://arxiv.org/abs/2410.10166. A pair's importance is the margin of a proxy and
the distance of its prompt to the nearest ones. The paper trains a policy by DPO
on the part, and adds a language model's score of the prompt.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    label_noise=0.2,
    curation=dict(name="importance", share=0.3, diversity=0.1),
  )
