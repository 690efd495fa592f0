"""MLCM: consistency in segments of time, and the reward of the prediction.

Xie et al. 2024, https://arxiv.org/abs/2406.05768: latents of the sampler's own path,
segments that grow fewer (8, 4, 2; here 2, one stage), and a reward's gradient through
one jump. It is evaluated in as many jumps as there are segments. No code is public:
weights and the target's decay are unverified. On scenes a reward model is trained first.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="consistency_reward", segments=2, reward=0.1)
  config.regularizers = dict()
  recipes.draw_in(config, 2, "ode")
  points = {"smoke": 4, "full": 10}.get(recipes.size_of(arg), 8)
  # Its own path has more points, among them the ends of segments.
  config.rollout.update(num_steps=points, shift=1.0)
  config.align.update(noise="path", gap=0.1)
  config.references.target = dict(rule="decayed", decay=0.95)
  config.optimizer.learning_rate = 1e-4
  return recipes.differentiable(config, arg, __file__, "pick")
