"""Implicit PRM: an outcome reward that is a log-ratio pays every step for free.

Yuan et al. 2024, https://arxiv.org/abs/2412.01981, of texts there. A copy of the policy
learns outcomes by cross entropy before the policy moves: the sum of its log-ratios with
what drew the sample is the logit of the reward, and each step's own log-ratio is that
step's reward. The paper then ranks several answers by them with the copy fixed; here they
are paid beside the outcome, and the copy goes on learning at the same small rate. PRIME
(`prime`) trains both from the start.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.advantage = dict(name="outcome_and_process", process=1.0)
  config.regularizers = dict()
  config.players.process = dict(
    fn="process_reward", optimizer=dict(learning_rate=5e-5)
  )
  config.align.hold_policy = 1 if recipes.size_of(arg) == "smoke" else 20
  return config
