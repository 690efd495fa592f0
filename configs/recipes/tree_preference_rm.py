"""Pairs from a tree of samples: its leaves share all noise before they part.

Qiu et al. 2024 (Reward Generalization in RLHF), https://arxiv.org/abs/2402.10184, who
build trees of responses; here the sampler's noise forks, in two at three steps, so that
eight leaves of a prompt start alike and each pair has parted at one of three depths. A
Bradley-Terry model is fitted to the pairs of leaves alone. Unverified: depths and
children of the paper.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  is_small = recipes.size_of(arg) == "smoke"
  members, every = (4, 1) if is_small else (8, 3)
  return recipes.reward_model(
    arg,
    __file__,
    pictures=dict(renders=0, spoiled=0, borrowed=0),
    pictures_per_row=members,
    sampling=dict(
      samples=members,
      guidance_scales=(1.0,),
      num_steps=4 if is_small else 10,
      sampler=dict(name="flow_sde", noise_level=0.7),
      branch=dict(members=members, steps=1, children=2, every=every),
    ),
  )
