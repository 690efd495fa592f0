"""Flow-DPO from a file of preferences: nothing is drawn, no reward is asked.

Wallace et al. 2023 (https://arxiv.org/abs/2311.12908) on flows as Liu et al.
2025 (https://arxiv.org/abs/2501.13918): both images of a pair share noise and
time, with logit-normal times. `:full` reads pairs,
`--config.data.preferences=pairs.jsonl` (docs/files.md has the layouts). The
default on scenes, 80 iterations of 128 pairs (seed 0): strict accuracy of 240
validation images .508 to .588. With beta 100 and a learning rate of 1e-4 the policy
forgets how to draw: the errors of both images grow.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  size = recipes.size_of(arg)
  config.objective = dict(name="flow_dpo", beta=2000.0)
  config.regularizers = dict()
  config.align.density = dict(name="logit_normal")
  config.data.preferences = "pairs.jsonl" if size == "full" else "scenes"
  if size == "default":
    config.rollout.prompts = 128
    config.align.update(iterations=80, times=1, updates=1)
    config.optimizer.learning_rate = 2e-5
  return config
