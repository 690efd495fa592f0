"""DRAGON: which of two images does a whole set good, by a reward of sets.

Bai et al. 2025, https://arxiv.org/abs/2504.15217, of music there: two images of each
prompt, one of which goes to a positive set and one to a negative one, so that the
distance of the positive set to exemplars falls (`set_frechet`; `set_vendi` makes it
diverse), and a loss of pairs on both sets, DPO's; their other one, KTO's, of single
images, is left out. The order of the swaps is unverified. Here the exemplars are the
exact answers of edits, and features are colours of places; at full size CLIP's.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for FLUX.1 Kontext and rows with a "target"."""
  config = recipes.of_edits("diffusion_nft", arg, __file__)
  config.objective = dict(name="flow_dpo", beta=100.0)
  config.regularizers = dict()
  config.rewards = dict(sets=dict(fn="set_frechet", weight=1.0))
  if recipes.size_of(arg) == "full":
    config.rewards.sets.weights = recipes.PUBLISHED["clip"]["weights"]
  else:
    config.optimizer.learning_rate = 5e-5
  config.rollout.update(prompts=config.rollout.prompts * 2, group=2)
  config.align.pairs = 1
  return config
