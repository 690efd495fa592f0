"""ID-Booth: beside the denoising loss, a triplet loss of who a prediction shows.

Tomasevic et al. 2025, https://arxiv.org/abs/2504.07392: a prediction in one step is to
be nearer to the subject than to somebody of the same class, by a margin of 1, and counts
by (1 - t)^2. Unlike a pull towards the subject it ends where both are told apart. Here
the subject is who a caption describes, and the other person differs in all of that
(`person_triplet`). `:full` reads images of a folder, `--config.data.dataset=FOLDER`, and
faces of another, `--config.rewards.person.references=FOLDER` (`identity_triplet`).
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.on_dataset(
    arg, __file__, name="one_step_reward", weight=1.0, latest=1.0, fade=2.0
  )
  config.align.gap = 0.0
  if recipes.size_of(arg) == "full":
    config.rewards = dict(
      person=dict(fn="identity_triplet", weights="arcface.safetensors")
    )
    return config
  recipes.on_portraits(config, arg, __file__)
  config.data.dataset = "portraits"
  config.rewards = dict(person=dict(fn="person_triplet", weight=1.0))
  return config
