"""SoftREPA: an image is to be drawn better by its own caption than by others.

Lee et al. 2025, https://arxiv.org/abs/2503.08250: three other captions of the batch,
learning rate 1e-3, weight decay 1e-4; no reward is read and the network that draws stays
as it is. The authors train four soft tokens before the words in each of the first five
blocks, with a table of times; here adapters on the words' stream take their place.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.on_dataset(arg, __file__, name="contrastive_matching")
  is_full = recipes.size_of(arg) == "full"
  config.lora = dict(
    rank=4,
    alpha=4.0,
    init="",
    targets="(^|/)text_(q|k|v|out)$" if is_full else "^text/",
  )
  config.optimizer.update(learning_rate=1e-3, weight_decay=1e-4)
  return config
