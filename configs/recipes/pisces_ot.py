"""PISCES: words attend to an image where a partial plan of transport puts them.

Le et al. 2026, https://arxiv.org/abs/2602.01624: the cross-attention of a classifier of
matching texts and videos is multiplied by a plan between words and patches, of cost 1 -
cos and distance, epsilon .05 and nominal mass .9 (their steps are unverified). Here the
classifier is trained on good and bad images by themselves, its patches are the states of
the policy's own blocks, and time has no cost. Their reward of quality, by a learned map
from texts to real videos, is not there. The plans are ott-jax's:
`pip install "jaxreward[transport]"`.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  config = recipes.reward_model(
    arg,
    __file__,
    head=dict(name="cross", width=64, hidden=64, transport=0.9),
    loss=dict(name="binary"),
  )
  small = recipes.size_of(arg) == "smoke"
  width, depth = (32, 1) if small else (128, 2)
  config.reward_model.backbone = dict(
    name="policy", width=width, depth=depth, heads=2, mlp_ratio=3, text_layers=2
  )
  config.train_reward.pictures.strict_weight = 1.0
  config.train_reward.label_noise = 0.0
  return config
