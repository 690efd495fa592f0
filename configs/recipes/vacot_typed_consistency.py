"""Visual-Aware CoT: the words, and the mean over typed items of what stays consistent.

Ye et al. 2025, https://arxiv.org/abs/2512.19686 (unverified: weights, and that items are averaged). A
prompt's items are of an identity or of attributes, and each is scored by the measure
of its type: of portraits exactly, at full size by DINO and CLIP on whole images, where
the authors crop what a detector finds. Items that a prompt does not have are left out.
Their rounds of inference, in which an edit is checked and edited again, are not there.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for FLUX.1 Kontext."""
  config = recipes.of_edits(
    "flow_grpo", arg, __file__, follow=1.0, keep=1.0, person=1.0
  )
  config.composition = dict(name="whole_and_parts", whole="follow")
  return config
