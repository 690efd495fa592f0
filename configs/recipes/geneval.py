"""GenEval: an image is right where every object, count, colour and place is.

Ghosh et al. 2023, https://arxiv.org/abs/2310.11513, as the reward of Flow-GRPO: six
categories of prompts, and their mean, each of the same weight, is the score. Scenes have
the same six and an exact detector. At full size OWL-ViT stands in for Mask2Former, so that
scores are close to GenEval's, not equal; `configs/evaluate.py` measures a policy by it.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.rewards = dict(objects=dict(fn="detector", weight=1.0))
  if recipes.size_of(arg) == "full":
    facts = "evaluation_metadata.jsonl"
    config.data.source = facts
    config.rewards.objects.update(
      fn="objects", weights="google/owlvit-base-patch32", facts=facts
    )
  return config
