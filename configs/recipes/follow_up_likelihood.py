"""Follow-up likelihood: what would the person say who asked for this image?

Zhang et al. 2024, https://arxiv.org/abs/2409.13948, of answers in words there: the reward
is how much likelier pleased remarks are than displeased ones for a frozen model. At full
size Qwen2.5-VL hears whole sentences. On scenes the judge that ships stands in, which has
not learned most words of the question and knows but two remarks, "yes" and "no": it tells
right scenes from wrong ones worse than by its own question (area under the curve .74 on 64).
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  remarks = dict(fn="follow_up", weight=1.0)
  if recipes.size_of(arg) == "full":
    remarks.update(weights="Qwen/Qwen2.5-VL-7B-Instruct", dtype="bfloat16")
  else:
    remarks.update(
      weights="package:judge", length=64, pleased=("yes",), displeased=("no",)
    )
  config.rewards = dict(remarks=remarks)
  return config
