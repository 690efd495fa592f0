"""PRDP: log-ratios of two samples are to differ as their rewards do.

Deng et al. 2024, https://arxiv.org/abs/2402.08714. The paper's beta is about 10, of
sums over elements; it has a batch of prompts that is large against what scenes take.
Several optimizer steps on one batch, between which its clip binds, need several
iterations here.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  elements = 65536 if recipes.size_of(arg) == "full" else 3888
  config.objective = dict(name="prdp", beta=10.0 * elements, clip_range=1e-4)
  config.advantage = dict(name="group", std="none")
  config.regularizers = dict()
  config.align.updates = 1
  return config
