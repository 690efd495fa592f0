"""DenseGRPO: every denoising step is paid for what it has added.

https://arxiv.org/abs/2601.20218 (read in the paper's text). The latents of each
step are finished by the ODE and scored, so that an iteration of T steps costs
T (T + 1) / 2 further evaluations of the network and T + 1 scores of each sample.
Credit that is more exact is also hacked sooner (their own scores of image quality fall),
so a reward that is not trained on watches. The noise of each step is calibrated first, while
the policy waits, so that as many samples gain as lose.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  size = recipes.size_of(arg)
  first = dict(smoke=1, default=10, full=20)[size]
  config.advantage = dict(
    name="calibrated", iterations=first, start=0.7, clip=5.0
  )
  config.align.hold_policy = first
  config.rollout.sampler = dict(name="dance_sde", noise_level=0.7)
  is_full = size == "full"
  look = recipes.PUBLISHED["pick"] if is_full else dict(fn="smooth")
  config.heldout_rewards = dict(look=dict(look))
  return config
