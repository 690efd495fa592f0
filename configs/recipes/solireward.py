"""SoliReward: good or bad, and all good videos within one band.

Lian et al. 2025, https://arxiv.org/abs/2512.22170; the released program: a query through
four layers of a language model that sees 8 frames of 448 pixels, AdamW at 1e-6 with a
linear decay, warm-up .05, norm 1, 320 pairs, three epochs (here of 32,000 pairs,
unverified), win and tie margins of 3. Its towers are InternVL3's, or Qwen2-VL's as here,
which see clips as videos there and frame by frame here; a pair may be of two prompts
there. On scenes labels are the detector's strict verdicts, and two good images a tie.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Qwen2-VL 2B on clips of your own."""
  config = recipes.published_reward(
    arg,
    __file__,
    backbone=dict(name="qwen_vl", weights="Qwen/Qwen2-VL-2B-Instruct"),
    head=dict(name="progressive"),
    loss=dict(name="solireward", margin=3.0),
    optimizer=dict(
      name="adamw", learning_rate=1e-6, schedule="linear", warmup_steps=15,
      weight_decay=0.01,
    ),
    frames=8, steps=300, rows=320, evaluate_every=50, save_every=100,
  )  # fmt: skip
  config.train_reward.pictures.strict_weight = 1.0  # good or bad, nothing else
  config.train_reward.ties = "half"
  return config
