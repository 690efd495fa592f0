"""A judge learns from preferences, three seeds.

  python -m jaxreward.main --config=configs/train_reward_scenes.py \
    --sweep=configs/sweeps/judges.py --workdir=runs/judges
  python configs/sweeps/judges.py runs/judges

The vision-language model is the judge that ships, asked its own question. A Gaussian
head reads the state after it, and all of it learns from preferences between images of
the base policy, of which a fifth are flipped. configs/sweeps/judge_circle.py aligns
policies with these judges; its docstring has the rest of the circle.
"""

import sys

from jaxreward.report import sweeps
from jaxreward.rewards.remote import templates
from jaxreward.rewards.remote.rewards import YES

SEEDS = (0, 1, 2)
# What `vlm_pointwise` asks about an image.
QUESTION = templates.YES_NO.removeprefix("{image}\n").replace(
  "{answer}", YES.request(True)
)
_BACKBONE = "reward_model.backbone"
FIELDS = {
  f"{_BACKBONE}.name": "qwen_vl",
  f"{_BACKBONE}.weights": "package:judge",
  f"{_BACKBONE}.image": 36,
  f"{_BACKBONE}.length": 64,
  f"{_BACKBONE}.question": QUESTION,
  "reward_model.head.name": "gaussian",
  "train_reward.loss.name": "expected_bradley_terry",
  "train_reward.init_from_policy": False,
  "train_reward.label_noise": 0.2,
  "train_reward.train_rows": 192,
  "train_reward.heldout_rows": 128,
  "train_reward.sampling.guidance_scales": "1.0,",
  "train_reward.rows": 16,
  "train_reward.pictures_per_row": 6,
  "train_reward.steps": 100,
  "train_reward.evaluate_every": 50,
}


def get_sweep():
  return [{**FIELDS, "seed": seed} for seed in SEEDS]


def file_of(seed, folder="runs/judges"):
  """The reward model of a seed."""
  return f"{folder}/{SEEDS.index(seed)}/reward_model.safetensors"


def numbers(evaluation):
  """Results of a run, by what they measure."""
  model = evaluation["reward_model"]
  return {
    "all pairs": model["accuracy"],
    "one image right, one wrong": model["strict"]["accuracy"],
    "the same, images of the policy": model["policy_strict"]["accuracy"],
    "calibration error": model["calibration_error"],
  }


def table(folder):
  """The table in Markdown, from the runs in a folder."""
  named = [("judge", entry) for entry in get_sweep()]
  cells = sweeps.cells(folder, named, numbers, last="reward_model")
  columns = [column for _, column in cells]
  row = [sweeps.percent(shares) for shares in cells.values()]
  return sweeps.markdown(columns, [row])


if __name__ == "__main__":
  sys.stdout.write(table(sys.argv[1]) + "\n")
