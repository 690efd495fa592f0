"""RealGen: a detector of drawn images is the reward, and keeps up with the policy.

Ye et al. 2025, https://arxiv.org/abs/2512.00473, read in the authors' code, v2: a
detector with soft targets .95 and .05 learns beside the policy and is read as an average
of decay .99, its probability of "real" added to agreement with the words, weights 1; KL
.01, credit by one deviation of all. The authors' detectors are experts on published
features and a language model, and they replay earlier images; here it is a small network,
and real images are scenes drawn anew, or a prompt's "target" (`:full`).
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for an editing policy with exact answers."""
  config = recipes.beside_answers(arg, __file__)
  config.advantage.std = "batch"
  config.regularizers.kl = dict(fn="step_kl", weight=0.01)
  config.players.real = dict(
    fn="reality", weight=1.0, smoothing=0.05, average=0.99, width=32
  )
  if recipes.size_of(arg) == "smoke":
    config.players.real.update(width=8, hidden=32)
  return config
