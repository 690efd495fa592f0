"""TTSnap: a reward that learned to read noisy estimates gives most of N samples up.

Yu et al. 2025, https://arxiv.org/abs/2511.22242. A model first learns the reward of the
finished image from the sampler's clean estimates on the way to it, by squared error, from
nearly clean steps to the noisiest, each for an equal part of the training. It then prunes,
and the reward itself chooses among those that are left. Shares are the authors', who look after 3, 7 and 12 of
20 steps, where these look after 1, 3 and 5 of 10. They start from the reward's own weights
(`train_reward.init_from`), start the optimizer anew at each step, and keep a model for
each; here one small model, not pretrained on the reward, is used at all looks.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  small = recipes.size_of(arg) == "smoke"
  config = recipes.steered(
    arg, __file__, sampler="ode", num_steps=3 if small else 10,
    name="pruned", particles=4 if small else 16,
    looks=(1, 2) if small else (1, 3, 5),
    keep=(0.5, 0.5) if small else (0.4, 0.4, 0.5), by="noise_aware",
  )  # fmt: skip
  return recipes.steered_by_estimates(
    config, arg, __file__,
    estimates=(2, 1) if small else (8, 7, 6, 5, 4, 3, 2, 1),
  )  # fmt: skip
