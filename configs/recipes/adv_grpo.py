"""Adv-GRPO: the reward is a discriminator that learns as the policy does.

Mao et al. 2025, https://arxiv.org/abs/2511.20256, read in the authors' code; hinge
losses on pictures and their places, no KL, group-normalised credit. Reference
pictures are scenes drawn anew for the same prompts, or a prompt's "target" (`:full`,
an editing policy). The authors train the discriminator in 9 of 10 epochs and the
policy in one, on frozen DINO features; here both learn in every iteration, in
several steps to the policy's, on convolutions of their own. The detector watches.
"""

from jaxreward import recipes

OPTIMIZER = dict(name="adamw", learning_rate=1e-4, b1=0.5, b2=0.999)


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for an editing policy with exact answers."""
  size = recipes.size_of(arg)
  config = recipes.beside_answers(arg, __file__)
  if size != "full":
    config.rewards = dict(detector=dict(fn="detector", weight=0.0))
  config.regularizers = dict()
  config.players.discriminator = dict(
    fn="discriminator", weight=1.0, width=32, optimizer=OPTIMIZER, steps=4
  )
  if size == "smoke":
    config.players.discriminator.update(width=8, hidden=32, steps=2)
  return config
