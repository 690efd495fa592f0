"""SoftREPA: an image is to be drawn better by its own caption than by others.

Lee et al. 2025, https://arxiv.org/abs/2503.08250: three other captions of the batch,
learning rate 1e-3, weight decay 1e-4; no reward is read and the network that draws stays
as it is. Four soft tokens stand before the words in each of the first blocks, five of the
authors' and two here, each with a table of a hundred times, and they alone learn. In SD3.5
(`:full`) adapters on the words' stream take their place: its blocks pass the words on, and
tokens that each block replaces are not there.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.on_dataset(arg, __file__, name="contrastive_matching")
  if recipes.size_of(arg) == "full":
    targets = "(^|/)text_(q|k|v|out)$"
    config.lora = dict(rank=4, alpha=4.0, init="", targets=targets)
  else:
    config.model.update(soft_tokens=4, soft_layers=2)
    config.align.trained = "^soft_"
  config.optimizer.update(learning_rate=1e-3, weight_decay=1e-4)
  return config
