"""MRMBench: what the features of a reward model know, aspect by aspect.

https://arxiv.org/abs/2511.12464. The backbone is frozen, and a linear probe per
aspect is fitted on half of the prompts and tested on the other half, beside its
chance and a probe of shuffled labels. Aspects are the detector's here, split at
their median, and the probe is a ridge regression in closed form.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.judged(arg, __file__, rows=512, views=512)
