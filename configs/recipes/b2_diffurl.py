"""B2-DiffuRL: the last steps first, then more of them, in branches that part there.

Hu et al. 2025, https://arxiv.org/abs/2503.11240: the trained interval grows from the end
of the sampler towards noise; samples of a branch share all before it, and the best and
worst of each branch are learned from, with the authors' clip of .1 on log-probabilities
of their own scale. Steps before the interval follow the ODE here, and the last step,
too sharp to learn from, is left out.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  size = recipes.size_of(arg)
  steps = 3 if size == "smoke" else 8
  members = 2 if size == "smoke" else 4
  config.rollout.update(num_steps=steps, window_start=0, window_size=steps - 1)
  config.rollout.window_move = dict(
    name="growing", least=max(1, 2 * steps // 3), stages=100
  )
  config.rollout.branch.update(members=members, steps=-1)
  config.advantage = dict(name="branch_ends", members=members, std="group")
  config.regularizers = dict()
  config.align.split = "samples"
  return config
