"""Skywork-Reward-V2: pairs stay on which models and label agree.

https://arxiv.org/abs/2507.01352. Of 30 % flipped labels those stay that every
proxy agrees with, and what all of them surely contradict is turned round; then
plain Bradley-Terry. The paper's rounds with a judge and verified pairs are left
out: proxies are linear on frozen features, each judging prompts it has not met.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    label_noise=0.3,
    curation=dict(name="consensus", flip_above=0.9),
  )
