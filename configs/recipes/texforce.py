"""TexForce: the policy gradient goes to the encoding of the words alone.

Chen et al. 2023, https://arxiv.org/abs/2311.15657: adapters of rank 16 on the text
encoder, the network that draws stays as it is; clip 1e-4, 16 to 32 rewards of each
prompt's history, no KL. At full size encoders stand outside the policy: there the
adapters go to its stream of words.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  full = recipes.size_of(arg) == "full"
  config.lora = dict(
    rank=16,
    alpha=16.0,
    init="",
    targets="(^|/)text_(q|k|v|out)$" if full else "^text/",
  )
  config.advantage = dict(name="per_prompt", buffer_size=32, min_count=16)
  config.regularizers = dict()
  config.optimizer.learning_rate = 3e-4
  return config
