"""ONI: a slow judge labels what the policy draws, and a fast model learns its answers.

Zheng et al. 2024, https://arxiv.org/abs/2410.23022, of agents in NetHack, read in the
authors' code: labels arrive while the policy learns, which follows the fast model alone;
its scores lose their running mean and deviation, those of -.5 and less are 0, and what
was seen N times is worth 1 / N^3. Here the student learns to order pairs as the judge
does, labels arrive `lag` iterations late, whether the judge is quick or slow, and the
policy is held still while the student orders less than `floor` of its newest pairs
alike. On scenes the detector is the judge and watches; another is
`--config.judged_rewards.judge.fn=judge_pointwise` with its `url` and `model`.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  size = recipes.size_of(arg)
  config = recipes.load("flow_grpo", arg, __file__)
  config.regularizers = dict()
  config.judged_rewards = dict(judge=dict(fn="detector"))
  if size == "full":
    config.judged_rewards.judge = dict(recipes.PUBLISHED["image_reward"])
    config.rewards = dict(pick=dict(**recipes.PUBLISHED["pick"], weight=0.0))
  else:
    config.rewards = dict(detector=dict(fn="detector", weight=0.0))
  config.players.student = dict(
    fn="student", weight=1.0, judge="judge", lag=2, floor=0.55, normalize=True,
    steps=4, optimizer=dict(learning_rate=1e-3),
  )  # fmt: skip
  config.composition = dict(name="novel_sum", of="student", least=-0.5)
  if size == "smoke":
    config.players.student.update(
      width=8, depth=2, hidden=32, lag=1, floor=0.01
    )
  return config
