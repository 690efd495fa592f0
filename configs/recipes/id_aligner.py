"""ID-Aligner: the gradient of who it is, and a little of how well it is drawn.

Chen et al. 2024, https://arxiv.org/abs/2404.15449: .2 (1 - cos) of a face and its
reference, less .001 of two models of looks, at a random late step. The authors predict
the picture there in one go; here a random number of the last steps carries the gradient.
On portraits the same person is to be drawn again, who and how well are exact measures,
and structure is what their second model learns from twisted skeletons. Beside the
denoising loss, as their LoRA is trained, it is `one_step_reward`.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for FLUX.1 Kontext, by features of DINO."""
  config = recipes.of_edits(
    "diffusion_nft", arg, __file__, person=0.2, look=0.001
  )
  recipes.follow_gradient(config, arg)
  config.align.update(last_steps=2, updates=1)
  config.align.depth = dict(name="uniform")
  if recipes.size_of(arg) == "full":
    config.align.last_steps = 5
    config.optimizer.learning_rate = 1e-6
  else:
    config.data.kind_weights = (0, 0, 0, 0, 1, 0, 0, 0, 0)
  return config
