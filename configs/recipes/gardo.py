"""GARDO: KL for the over-rated alone, to a reference that moves, and diversity.

He et al. 2025, https://arxiv.org/abs/2512.24138, read in the authors' code (weights
of the KL .04 to .07, reset above 3e-4 or after 15 iterations). Auxiliary rewards are
those of weight 0. The uncertainty has the sign of the paper's intent, which the code
has not; where nothing is gated there is no KL; diversity is measured on small
pictures in the place of DINOv3 features.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.advantage = dict(name="gardo", share=0.1, least=0.02, most=0.2)
  config.regularizers = dict(kl=dict(fn="gated_step_kl", weight=0.04))
  config.references.reference = dict(
    rule="reset", metric="kl", above=3e-4, patience=15
  )
  if recipes.size_of(arg) == "full":
    config.rewards = dict(
      pick=dict(fn="pick_score", weights="yuvalkirstain/PickScore_v1"),
      hps=dict(
        fn="hps_v2", weights="xswu/HPSv2:HPS_v2.1_compressed.pt", weight=0.0
      ),
    )
    return config
  config.rewards = dict(
    detector=dict(fn="detector", weight=1.0),
    jpeg=dict(fn="jpeg_compressibility", weight=0.0),
  )
  return config
