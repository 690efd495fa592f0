"""OPRL: step rewards from preferences between whole rollouts, beside the outcome.

https://arxiv.org/abs/2509.19199, of agents there: a copy of the policy learns to rank two
samples of a prompt by its summed log-ratios, whose parts are rewards of steps. The weight
of the steps and the temperature are unverified.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.advantage = dict(name="outcome_and_process", process=1.0)
  config.regularizers = dict()
  config.players.process = dict(
    fn="process_reward", loss="pairs", optimizer=dict(learning_rate=5e-5)
  )
  return config
