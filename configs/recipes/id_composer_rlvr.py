"""ID-Composer: every subject is found once, each in a place of its own.

Pan et al. 2025, https://arxiv.org/abs/2511.00511 (unverified: terms and weights): online
reinforcement by the identity of all subjects and by the words. Subjects are assigned to
those in the picture, one each, so that the sum is largest; a missing one costs a share
of the penalty, and in which order they are named changes nothing. Here they are people
of portraits, and their attributes are read (`people`); faces of pictures and clips are
`subjects`, with an IResNet's weights.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for FLUX.1 Kontext."""
  if recipes.size_of(arg) == "full":
    config = recipes.of_edits("flow_grpo", arg, __file__, follow=0.5)
    config.rewards.people = dict(
      fn="subjects", weight=1.0, weights="arcface.safetensors"
    )
    return config
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.on_portraits(config, arg, __file__)
  config.data.kind_weights = (0, 0, 1, 1, 1)
  config.rewards = dict(
    people=dict(fn="people", weight=1.0),
    words=dict(fn="attributes", weight=0.5),
  )
  return config
