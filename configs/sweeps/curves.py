"""Runs for the curves on the pages of the families (docs/families), one seed.

  python -m jaxreward.main --config=configs/train_reward_scenes.py \
    --config.train_reward.label_noise=0.2 --workdir=runs/proxy
  python -m jaxreward.main --config=configs/compare.py \
    --sweep=configs/sweeps/curves.py --workdir=runs/curves
  python docs/curves.py runs/curves

As in configs/sweeps/objectives.py every policy has the same number of network
evaluations, here half as many; each is evaluated POINTS times on the way. `--dry-run`
prints the commands; the third command draws the runs that are there.
"""

import pathlib

from jaxreward import config as config_lib

_BESIDE = pathlib.Path(__file__).with_name("objectives.py")
objectives = config_lib.load_module(str(_BESIDE))
POINTS = 6
_PROXY = "runs/proxy/reward_model.safetensors"


def _methods(*names):
  """Entries of methods in configs/compare.py, by name."""
  return {name: _policy(name, objectives.METHODS[name][1]) for name in names}


def _policy(name, fields):
  """The entry of a method of `objectives.METHODS`, with changed fields."""
  count = objectives.affordable((name,))[name] // 2
  return {
    "config": f"configs/compare.py:{name.partition(',')[0]}",
    "align.iterations": count,
    "eval.every": max(1, count // POINTS),
    "checkpoint.every": count,
    "eval.samples": 96,  # of the evaluations before and after, in no curve
    **fields,
  }


def _policies(variants):
  """Entries of variants of Flow-GRPO."""
  return {k: _policy("flow_grpo", fields) for k, fields in variants.items()}


def _reward_models(variants):
  """Entries of reward models that learn from labels of which a fifth are flipped."""
  common = {
    "config": "configs/train_reward_scenes.py",
    "train_reward.train_rows": 384,
    "train_reward.steps": 120,
    "train_reward.evaluate_every": 20,
    "train_reward.label_noise": 0.2,
  }
  return {k: common | fields for k, fields in variants.items()}


def _instead(name, fields):
  """A reward in place of the learned one, which is held out."""
  return {
    "rewards.proxy": "none",
    f"rewards.{name}.fn": fields,
    "heldout_rewards.detector": "none",
    "heldout_rewards.proxy.fn": "learned",
    "heldout_rewards.proxy.weights": _PROXY,
  }


_LOSS, _HEAD = "train_reward.loss.name", "reward_model.head.name"
_SMALL = {"rewards.jpeg.fn": "jpeg_compressibility", "rewards.jpeg.weight": 0.3}
_NORMED = _SMALL | {"advantage.std": "none"}
# Page -> label of a line -> entry of the sweep.
PAGES = {
  "policy_gradient": _methods(
    "flow_grpo", "dancegrpo", "grpo_guard", "flow_dppo", "mixgrpo", "rebel"
  ),
  "likelihood_free": _methods("diffusion_nft", "awm", "curated_retraining"),
  "preferences": _methods("flow_dpo", "inpo", "dgpo", "rankdpo", "crd"),
  "reward_gradients": _methods("draft_k", "refl", "alignprop", "srpo"),
  "regularizers_and_defences": _methods(
    "flow_grpo", "flow_grpo, no KL", "gardo"
  ),
  "credit": _methods("flow_grpo", "tempflow_grpo")
  | _policies(
    {
      "leave_one_out": {"advantage.name": "leave_one_out"},
      "best_and_worst": {"advantage.name": "best_and_worst"},
      "noise_weighted": {"advantage.name": "noise_weighted"},
    }
  ),
  "players_and_references": _policies(
    {
      "fixed": {},
      "decayed": {"references.reference.rule": "decayed"},
      "every 20": {
        "references.reference.rule": "every", "references.reference.count": 20,
      },
    }
  ),
  "composition": _policies(
    {
      "weighted_sum": _SMALL,
      "advantage_sum": _NORMED | {"composition.name": "advantage_sum"},
      "win_rate": _SMALL | {"composition.name": "win_rate"},
      "gdpo": _NORMED | {"composition.name": "gdpo"},
    }
  ),
  "rewards": _policies(
    {
      "learned": {},
      "detector": _instead("detector", "detector"),
      "jpeg_compressibility": _instead("jpeg", "jpeg_compressibility"),
    }
  ),
  "reward_model_losses": _reward_models(
    {
      "bradley_terry": {},
      "hinge": {_LOSS: "hinge"},
      "focal": {_LOSS: "focal"},
      "fidelity": {_LOSS: "fidelity", _HEAD: "gaussian"},
      "regression": {_LOSS: "regression"},
    }
  ),
  "reward_model_heads": _reward_models(
    {
      "scalar": {},
      "gaussian": {_HEAD: "gaussian", _LOSS: "expected_bradley_terry"},
      "ordinal": {_HEAD: "ordinal", _LOSS: "ordinal_pairs"},
      "among": {_HEAD: "among", _LOSS: "best_of_row"},
    }
  ),
}  # fmt: skip


def get_sweep():
  entries = [entry for lines in PAGES.values() for entry in lines.values()]
  return [entry for i, entry in enumerate(entries) if entry not in entries[:i]]
