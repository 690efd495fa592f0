"""TTSnap, its pruning: most of the N samples are given up on the way.

Yu et al. 2025, https://arxiv.org/abs/2511.22242. The authors' shares, their looks of
20 steps at half as many. Their reward is trained to know noisy estimates; here it is
the ordinary one of what the network's velocity leads to. A model of noisy images that
learns a reward's clean scores is `train_reward.labels` with the backbone `policy`.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  small = recipes.size_of(arg) == "smoke"
  return recipes.steered(
    arg, __file__, sampler="ode", num_steps=3 if small else 10,
    name="pruned", particles=4 if small else 16,
    looks=(1, 2) if small else (1, 3, 5),
    keep=(0.5, 0.5) if small else (0.4, 0.4, 0.5),
  )  # fmt: skip
