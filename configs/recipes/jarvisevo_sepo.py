"""JarvisEvo: editor and evaluator learn in turns, and labels hold the evaluator.

Lin et al. 2025, https://arxiv.org/abs/2511.23002, of one model that calls the tools of a
photo editor and scores what it has made: the editor is rewarded by the evaluator as it is,
the evaluator by how well it agrees with annotated scores. Here the policy follows a small
network alone, and every second iteration that learns from exact labels of what the policy
has just drawn; the policy waits while it orders less than .6 of the newest 256 pairs right:
of as many, chance is .5 with a deviation of .03, and more before they are there.
The detector labels scenes, ImageReward images at full size. `unverified`: reward forms,
weights and the length of a turn; tools and reflection are left out.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  size = recipes.size_of(arg)
  config = recipes.load("flow_grpo", arg, __file__)
  config.regularizers = dict()
  labels = dict(fn="detector")
  config.rewards = dict(detector=dict(fn="detector", weight=0.0))
  if size == "full":
    labels = dict(recipes.PUBLISHED["image_reward"])
    config.rewards = dict(pick=dict(**recipes.PUBLISHED["pick"], weight=0.0))
  config.judged_rewards = dict(labels=labels)
  config.players.evaluator = dict(
    fn="student", weight=1.0, judge="labels", lag=1, floor=0.6, normalize=True,
    steps=4, every=2, optimizer=dict(learning_rate=1e-3),
  )  # fmt: skip
  if size == "smoke":
    config.players.evaluator.update(width=8, depth=2, hidden=32, floor=0.01)
  return config
