"""RetouchIQ: the reward learns to rank the expert's answer above the policy's own, in turns.

Wu et al. 2026, https://arxiv.org/abs/2602.17558, of an agent that sets the sliders of a
photo editor: the reward model starts on perturbed edits and is then trained by whether it
ranks the expert's edit above what the policy makes now. Here a small network is trained so
beside the policy, in every iteration, on scenes drawn anew for the same prompts or, at full
size, on exact answers of edits; the detector watches. Its criteria, written for each edit
and weighed, and a replay of earlier samples are left out.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for an editing policy with exact answers."""
  size = recipes.size_of(arg)
  config = recipes.beside_answers(
    arg, __file__
  )  # with CLIP rewards at full size
  if size != "full":
    config.rewards = dict(detector=dict(fn="detector", weight=0.0))
  config.players.expert = dict(
    fn="expert_above", weight=1.0, steps=2, optimizer=dict(learning_rate=1e-3)
  )
  if size == "smoke":
    config.players.expert.update(width=8, depth=2, hidden=32)
  return config
