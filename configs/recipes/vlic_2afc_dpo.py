"""VLIC: of two reconstructions the one teaches that a judge finds closer, twice.

Sargent et al. 2025, https://arxiv.org/abs/2512.15701: a diffusion model decodes compressed
images, a vision-language model sees the original and two decodings of one code in both
orders, and verdicts that agree are pairs for Diffusion-DPO. Here the policy makes coarse
squares of a portrait sharp again; on portraits the judge is exact, the error of pixels, for
no judge that ships compares portraits: one verdict, in no order. At full size rows of a
file have a poor "image" and its "target". `unverified`: beta, votes and ties, and how a
perceptual metric has to agree.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for FLUX.1 Kontext."""
  config = recipes.of_edits("diffusion_nft", arg, __file__, look=1.0)
  config.objective = dict(name="flow_dpo", beta=100.0)
  config.regularizers = dict()
  if recipes.size_of(arg) == "full":
    judge = dict(
      fn="vlm_pairwise", template="closer_to_original", original="target",
      consistent=True, think=256,
    )  # fmt: skip
    recipes.judge_with(config, arg, judge=judge)
  else:
    config.rewards = dict(judge=dict(fn="psnr", weight=1.0))
    config.heldout_rewards = dict(drawn=dict(fn="drawn", weight=1.0))
    config.optimizer.learning_rate = 5e-5  # samples pull all one way
    config.data.kind_weights = (0, 0, 0, 0, 0, 1, 0, 0, 0)  # sharpen
    if recipes.size_of(arg) == "smoke":  # without noise it draws grey alone
      config.rollout.sampler = dict(name="flow_sde", noise_level=0.7)
  config.rollout.group = 2
  config.advantage = dict(name="sifted")
  config.align.pairs = 1
  return config
