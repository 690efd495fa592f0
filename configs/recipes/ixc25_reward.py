"""InternLM-XComposer2.5-Reward: a linear score of what all tokens say, without length.

Zang et al. 2025, https://arxiv.org/abs/2501.12368. The states of a vision-language model
are averaged and one linear layer scores them, by Bradley-Terry; the vision tower stays, and
pairs whose chosen answer is much longer are left out (of images: has much more in it, by
its size as a JPEG). Here it is Qwen2-VL, whose language layers get adapters at full size
while the vision tower stands still. `unverified`: the pooling, the threshold and the rate
of adapters (1e-5 of the whole model there).
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Qwen2-VL 2B on pairs of your own."""
  config = recipes.published_reward(
    arg,
    __file__,
    backbone=dict(name="qwen_vl", weights="Qwen/Qwen2-VL-2B-Instruct"),
    head=dict(name="pooled"),
    loss=dict(name="bradley_terry"),
    optimizer=dict(
      name="adamw", learning_rate=1e-4, schedule="cosine", warmup_steps=10
    ),
    train="lora", steps=500, rows=64, evaluate_every=100, save_every=100,
  )  # fmt: skip
  config.reward_model.targets = "(^|/)(query|kv)$"  # of the language model
  config.train_reward.curation = dict(name="of_like_size", most=2.0)
  return config
