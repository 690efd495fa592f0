"""ViLBench: the best of N by its steps, where the worst of them counts.

Tu et al. 2025, https://arxiv.org/abs/2503.20271, of reasoning about images: a model of step
values, learned from the share of continuations that end right, chooses among N by the
least, the mean or the last of its scores. Here steps are those of the sampler and the model
learns from clean estimates on the way what the finished image scores (`estimates`), by
squared error. `unverified`: the authors' search for step values, and their loss.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  small = recipes.size_of(arg) == "smoke"
  steps = 3 if small else 10
  config = recipes.steered(
    arg, __file__, sampler="ode", num_steps=steps, name="stepwise",
    particles=2 if small else 8, looks=(1, 2) if small else (3, 5, 7),
    aggregate="min", by="steps",
  )  # fmt: skip
  config = recipes.train_reward_first(config, arg, __file__)
  config.rewards = dict(
    detector=dict(fn="detector", weight=1.0),
    steps=dict(fn="learned", weight=0.0),
  )
  config.heldout_rewards = dict()
  training = config.train_reward
  training.loss = dict(name="regression")
  training.update(labels="detector", label_noise=0.0, pictures_per_row=4)
  training.pictures.update(renders=0, spoiled=0, borrowed=0)
  training.sampling.update(
    samples=4, guidance_scales=(1.0,), num_steps=steps,
    estimates=(3, 2, 1) if small else (10, 7, 5, 3),
  )  # fmt: skip
  return config
