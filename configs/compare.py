"""Compares methods on one reward that can be hacked, with one held-out reward.

`:METHOD`, and `,smoke` in miniature. The only training reward is a reward model
trained on labels of which a fifth are flipped; the detector is held out. The method
comes from its recipe, its budget from configs/sweeps/objectives.py.

  python -m jaxreward.main --config=configs/train_reward_scenes.py \
    --config.train_reward.label_noise=0.2 --workdir=runs/proxy
"""

from jaxreward import config as config_lib

# Of configs/align_scenes.py; the others are recipes.
BASIC = ("diffusion_nft", "flow_grpo")
METHODS = (
  *BASIC, "alignprop", "awm", "crd", "curated_retraining", "d3po", "dancegrpo",
  "dgpo", "draft_k", "flow_dpo", "flow_dppo", "gardo", "grpo_guard", "inpo",
  "mixgrpo", "prdp", "rankdpo", "rebel", "refl", "srpo", "tempflow_grpo",
)  # fmt: skip
PROXY = "runs/proxy/reward_model.safetensors"


def get_config(arg: str | None = None):
  """The method by name, and `smoke`."""
  options = config_lib.parse_arg(arg, method=METHODS, smoke=False)
  method, small = options["method"], options["smoke"]
  if method in BASIC:
    spec = f"align_scenes.py:{method}{',smoke' * small}"
  else:
    spec = f"recipes/{method}.py{':smoke' * small}"
  config = config_lib.load_sibling(spec, __file__)
  config.job, config.jobs = "align", ("align",)
  # What a method needs beside the reward that it follows stays, at weight 0.
  auxiliary = {
    name: reward
    for name, reward in config.rewards.items()
    if not reward.get("weight", 1.0)
  }
  config.rewards = dict(
    proxy=dict(fn="learned", weight=1.0, weights=PROXY), **auxiliary
  )
  config.heldout_rewards = dict(detector=dict(fn="detector"))
  config.eval.guidance_scales = (1.0,)
  return config
