"""Learns from a file of preferences without sampling: `:MODEL`, `objective`, `smoke`.

  python -m jaxreward.main --config=configs/offline.py:sd35_medium \
    --config.data.preferences=pairs.jsonl --config.data.source=prompts.txt \
    --workdir=runs/dpo

`data.source` has the prompts of evaluations, for policies that start from an image a
.jsonl file with "prompt" and "image". Evaluations of public models compute only the
rewards that you name (`rewards`).

The models are those of `align_public.py`, and `scenes`, `portraits` and
`portrait_edits`, the base policies of these tasks. Objectives on pairs are `flow_dpo`
and its relatives; `rank_dpo`, `dgpo` and `crd` use a row's whole list
(`data.list_size`, the largest number of images of a row). Pairs for policies that edit
have a `source`. `smoke` trains small random weights on pairs that the task makes.
docs/preferences.md describes the layouts of files.
"""

from jaxreward import config as config_lib

OWN = ("scenes", "portraits", "portrait_edits")
PUBLIC = (
  "sd35_medium", "sd35_large", "flux_dev", "flux_schnell", "kontext", "qwen_image",
  "qwen_image_edit", "qwen_image_edit_2509", "qwen_image_edit_2511", "wan_t2v",
  "wan_i2v", "wan22_t2v", "wan22_i2v", "wan22_ti2v_5b", "z_image",
  "z_image_turbo", "klein_4b", "klein_9b", "klein_base_4b", "klein_base_9b",
  "klein_4b_edit", "klein_9b_edit", "klein_base_4b_edit", "klein_base_9b_edit",
)  # fmt: skip
PAIRS = (
  "flow_dpo", "gap_dpo", "dynamic_dpo", "smoothed_dpo", "masked_dpo",
  "single_dpo", "inpo", "diffusion_nft", "awm",
)  # fmt: skip
LISTS = ("rank_dpo", "dgpo", "crd")


def get_config(arg: str | None = None):
  """A model, an objective and a size."""
  given = config_lib.parse_arg(
    arg, model=OWN + PUBLIC, objective=PAIRS + LISTS, smoke=False
  )
  model, name, is_smoke = (given[k] for k in ("model", "objective", "smoke"))
  config = _own(model, is_smoke) if model in OWN else _public(model, is_smoke)
  config.objective = dict(name=name)
  config.regularizers = dict()
  config.align.density = dict(name="logit_normal")
  config.align.update(times=1, updates=1)
  if is_smoke:
    config.align.iterations = 2
    config.finetune.drawn = 8
  return config


def _own(model: str, is_smoke: bool):
  of = "align_scenes" if model == "scenes" else model
  size = ":smoke" if is_smoke else ""
  config = config_lib.load_sibling(f"{of}.py{size}", __file__)
  config.data.preferences = model
  config.composition = dict(name="weighted_sum")
  if not is_smoke:
    config.rollout.prompts = 128
    config.align.iterations = 80
    config.optimizer.learning_rate = 2e-5
  return config


def _public(model: str, is_smoke: bool):
  tiny = ",tiny" if is_smoke else ""
  config = config_lib.load_sibling(
    f"align_public.py:{model},objective=diffusion_nft{tiny}", __file__
  )
  config.data.preferences = config.data.source if is_smoke else "pairs.jsonl"
  config.rewards = dict()  # evaluations report those that a user names
  config.rollout.microbatch = 4
  config.optimizer.learning_rate = 1e-5
  if not is_smoke:
    config.rollout.prompts = 64
  return config
