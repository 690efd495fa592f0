"""SoliReward: good or bad, and all good images within one band.

https://arxiv.org/abs/2512.22170. Labels are the detector's strict verdicts; two
good images are a tie whose loss has a margin on both sides. Pairs are of one
prompt here, and the head is not the authors' queries over several layers.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  config = recipes.reward_model(
    arg,
    __file__,
    head=dict(name="scalar", hidden=256, activation="silu"),
    loss=dict(name="solireward", margin=3.0),
  )
  config.train_reward.pictures.strict_weight = 1.0  # good or bad, nothing else
  config.train_reward.ties = "half"
  return config
