"""What a user can get wrong in an align run: one line that names the field."""

import re

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import jobs
from jaxreward.errors import UserError
from tests import tiny

NFT, GRPO = "align_scenes.py:smoke", "align_scenes.py:flow_grpo,smoke"
pytestmark = pytest.mark.usefixtures("as_users_call")

FAST = tiny.FAST | tiny.MODEL


@pytest.mark.parametrize(
  ("spec", "overrides", "words"),
  [
    # names
    (
      NFT,
      {"objective.name": "flow_gpro"},
      ('config.objective.name="flow_gpro"', 'did you mean "flow_grpo"'),
    ),
    (
      NFT,
      {"objective.name": "flow_dpo", "align.pairs": 3},
      ("config.align.pairs=3", "at most 2 pairs"),
    ),
    (NFT, {"objective.betta": 1.0}, ("objective.betta", "beta")),
    (
      GRPO,
      {"rollout.sampler.name": "flow_sd"},
      ('config.rollout.sampler.name="flow_sd"', 'did you mean "flow_sde"'),
    ),
    (NFT, {"advantage.name": "grupp"}, ("config.advantage.name", '"group"')),
    (NFT, {"advantage.std": "grop"}, ("advantage.std", '"grop"')),
    (NFT, {"composition.name": "sum"}, ("composition.name", "weighted_sum")),
    (NFT, {"optimizer.name": "adam"}, ("optimizer.name", '"adamw"')),
    (NFT, {"optimizer.schedule": "cosin"}, ("schedule", '"cosine"')),
    (NFT, {"model.name": "scene_dot"}, ("model.name", '"scene_dit"')),
    (
      NFT,
      {"rewards.mine.fn": "detecor"},
      ("config.rewards.mine.fn", 'did you mean "detector"'),
    ),
    (NFT, {"rewards.mine.weight": 1.0}, ("config.rewards.mine", "fn")),
    (NFT, {"rewards.detector.strictness": 1.0}, ("strict_weight",)),
    (NFT, {"rewards.detector": "none"}, ("config.rewards",)),
    (NFT, {"rewards.mine.fn": "no_such.module.fn"}, ("rewards.mine.fn",)),
    (NFT, {"rewards.mine.fn": "no_such.py:fn"}, ("rewards.mine.fn", "no such")),
    (NFT, {"rewards.detector.weight": "nan"}, ("detector.weight",)),
    (
      NFT,
      {"heldout_rewards.detector.fn": "detector"},
      ("heldout_rewards.detector", "not trained on"),
    ),
    (
      NFT,
      {"heldout_rewards.model.fn": "learned"},
      ("heldout_rewards.model", "train_reward"),
    ),
    # geometry
    (NFT, {"rollout.group": 1}, ("rollout.group is 1", "2 or more")),
    (NFT, {"rollout.group": 0}, ("rollout.group is 0",)),
    (NFT, {"rollout.prompts": 0}, ("config.rollout.prompts=0",)),
    (NFT, {"rollout.microbatch": 0}, ("config.rollout.microbatch=0",)),
    (NFT, {"align.updates": 3}, ("config.align.updates=3", "divide")),
    (GRPO, {"align.updates": 3}, ("config.align.updates=3", "divide")),
    (NFT, {"align.updates": 0}, ("config.align.updates=0",)),
    (NFT, {"align.times": 0}, ("config.align.times=0",)),
    (GRPO, {"rollout.num_steps": 0}, ("rollout.num_steps=0",)),
    (GRPO, {"rollout.shift": 0}, ("rollout.shift=0",)),
    (
      GRPO,
      {"rollout.window_start": 2, "rollout.window_size": 3},
      ("window", "3 steps"),
    ),
    (
      GRPO,
      {"rollout.window_start": 2, "rollout.window_size": 0},
      ("config.rollout.window_start=2 without a window", "window_size"),
    ),
    (GRPO, {"rollout.sampler.noise_level": 0.0}, ("noise_level=0.0",)),
    (NFT, {"objective.name": "flow_grpo"}, ("sampler with noise", "flow_sde")),
    # arguments of another method
    (
      GRPO,
      {"objective.old_decay": 0.5},
      (
        'config.objective.old_decay is no argument of "flow_grpo"',
        "clip_range",
      ),
    ),
    (
      NFT,
      {"objective.kl_with_dt": "true"},
      ("config.objective.kl_with_dt has moved", "config.regularizers.kl"),
    ),
    # values that their type does not tell from right ones
    (NFT, {"seed": -1}, ("config.seed=-1", "from 0 to")),
    (NFT, {"eval.seed": -1}, ("config.eval.seed=-1", "from 0 to")),
    (NFT, {"seed": 2**32}, ("config.seed=4294967296", "from 0 to")),
    (NFT, {"eval.guidance_scales": ""}, ("eval.guidance_scales=()",)),
    (NFT, {"eval.guidance_scales": "nan"}, ("eval.guidance_scales=(nan,)",)),
    (NFT, {"ema.decay": 1.0}, ("config.ema.decay=1.0", "less than 1")),
    (NFT, {"ema.decay": -0.1}, ("config.ema.decay=-0.1", "less than 1")),
    (NFT, {"objective.old_decay": 1.0}, ("objective.old_decay=1.0",)),
    (NFT, {"objective.kl": 0.1}, ("config.objective.kl has moved",)),
    (
      NFT,
      tiny.kl("velocity_distance", "nan"),
      ("config.regularizers.kl.weight=nan",),
    ),
    (
      NFT,
      tiny.kl("step_kl", 0.1),
      ("config.regularizers.kl.fn=step_kl", '"mean"', "v_reference"),
    ),
    (NFT, {"regularizers.kl.fn": "velocity"}, ("velocity_distance",)),
    (NFT, {"regularizers.kl": 3}, ("config.regularizers.kl=3", "fn")),
    (NFT, {"rewards.mine": 3}, ("config.rewards.mine=3", "rewards.mine.fn")),
    (
      NFT,
      {"rewards.mine.fn": "strict", "rewards.mine.weight": "abc"},
      ("config.rewards.mine.weight=abc", "number"),
    ),
    (NFT, {"data.kind_weights": "0,0,0,0,0,0"}, ("data.kind_weights=(0,",)),
    (NFT, {"data.kind_weights": "1,1,1,1,1,-0.5"}, ("kind_weights=(1.0,",)),
    # files and sizes
    (NFT, {"init.checkpoint": "none.safetensors"}, ("init.checkpoint",)),
    (NFT, {"init.checkpoint": "package:scene"}, ("init.checkpoint", "shipped")),
    (NFT, {"data.source": "none.txt"}, ("none.txt",)),
    (NFT, {"data.kind_weights": "1,2"}, ("data.kind_weights=(1, 2)",)),
    (NFT, {"model.width": 30}, ("model.width=30", "heads")),
    (NFT, {"eval.samples": 0}, ("config.eval.samples",)),
    (NFT, {"eval.group": 0}, ("config.eval.group",)),
    (NFT, {"lora.rank": -1}, ("lora.rank",)),
    (NFT, {"lora.rank": 2, "lora.targets": "nothing_of_this"}, ("targets",)),
  ],
)
def test_one_line_names_the_field(
  spec, overrides, words, command, tmp_path, request
):
  if not any(k.split(".")[0] in ("model", "lora", "init") for k in overrides):
    request.getfixturevalue("small_model")
  workdir = tmp_path / "run"
  assert command(spec, workdir, FAST, overrides) == 2
  for word in words:
    assert word in command.error
  if (workdir / "metrics.jsonl").exists():
    assert [row["step"] for row in tiny.rows(workdir)] in ([], [0])


@pytest.mark.parametrize(
  ("spec", "overrides"),
  [
    (NFT, {"seed": -1}),
    ("quickstart.py:smoke", {"ema.decay": 2.0}),
    ("train_reward_scenes.py:smoke", {"train_reward.ema_decay": 1.0}),
    (
      "train_reward_scenes.py:smoke",
      {"train_reward.sampling.guidance_scales": ""},
    ),
    ("evaluate_scenes.py:smoke", {"eval.guidance_scales": ""}),
  ],
)
def test_a_wrong_value_leaves_no_working_directory(
  spec, overrides, command, tmp_path
):
  """So that the same one can be given again with the right value."""
  assert command(spec, tmp_path / "run", overrides) == 2
  ((field, _),) = overrides.items()
  assert f"config.{field}=" in command.error
  assert not (tmp_path / "run").exists()


QUICK, PRETRAIN = "quickstart.py:smoke", "pretrain_scenes.py:smoke"
SAMPLE = "sample_scenes.py:smoke"


@pytest.mark.parametrize(
  ("spec", "field", "value", "wanted"),
  [
    (PRETRAIN, "pretrain.export_dtype", "bf16", 'did you mean "bfloat16"'),
    (PRETRAIN, "pretrain.export_dtype", "fp16", 'did you mean "float16"'),
    (PRETRAIN, "model.dtype", "bf16", 'did you mean "bfloat16"'),
    (NFT, "model.dtype", "float16", "none of float32, bfloat16"),
    (QUICK, "reward_model.backbone.dtype", "f32", 'did you mean "float32"'),
    (SAMPLE, "sample.split", "held", 'did you mean "heldout"'),
    *(
      (QUICK, field, value, "at least 1")
      for field in (
        "eval.microbatch", "eval.num_steps", "eval.group", "eval.samples",
        "eval.quick_samples", "sample.prompts", "sample.group",
        "sample.microbatch", "sample.num_steps", "sample.scale",
        "rollout.prompts", "rollout.microbatch", "rollout.num_steps",
        "train_reward.sampling.microbatch", "train_reward.sampling.samples",
        "train_reward.sampling.num_steps", "train_reward.steps",
        "train_reward.rows", "train_reward.train_rows",
        "train_reward.heldout_rows", "pretrain.steps", "pretrain.batch_size",
        "align.iterations", "align.times", "align.updates", "checkpoint.keep",
      )
      for value in (0, -2)
    ),
    (QUICK, "train_reward.pictures_per_row", 1, "at least 2"),
    *(
      (QUICK, field, -1, "at least 0")
      for field in (
        "checkpoint.every", "eval.every", "train_reward.save_every",
        "train_reward.evaluate_every", "train_reward.pictures.renders",
        "rollout.window_start", "rollout.window_size", "lora.rank",
      )
    ),
    *(
      (QUICK, f"{job}optimizer.warmup_steps", -1, "0 or more")
      for job in ("", "train_reward.")
    ),
    *(
      (QUICK, field, value, "greater than 0")
      for field in (
        "rollout.shift", "pretrain.shift", "train_reward.sampling.shift",
        "objective.beta",
      )
      for value in (0.0, -1.0, "nan", "inf")
    ),
    (GRPO, "objective.clip_range", 0.0, "greater than 0"),
    (GRPO, "objective.clip_range_high", "much", "expected a number"),
    (NFT, "objective.adv_clip", -5.0, "greater than 0"),
    *(
      (QUICK, field, value, "a number >= 0")
      for field in (
        "optimizer.learning_rate", "train_reward.optimizer.learning_rate",
        "optimizer.weight_decay", "optimizer.clip_norm",
      )
      for value in (-1e-4, "nan")
    ),
    (QUICK, "advantage.clip", "abc", "expected float"),
    (QUICK, "optimizer.b1", 1.0, "less than 1"),
    (QUICK, "train_reward.optimizer.b2", -0.1, "less than 1"),
    (QUICK, "optimizer.final_scale", 1.5, "from 0 to 1"),
    (PRETRAIN, "pretrain.caption_drop", 2.0, "from 0 to 1"),
    (QUICK, "train_reward.label_noise", 0.5, "less than 0.5"),
    (NFT, "rollout.guidance_scale", "nan", "a finite number"),
  ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_before_anything(
  spec, field, value, wanted, command, tmp_path
):
  assert command(spec, tmp_path / "run", {field: value}) == 2
  assert f"config.{field}=" in command.error
  assert wanted in command.error
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("spec", "given", "words"),
  [
    (QUICK, {"advantage.std": "global"}, ("advantage.std", "global", "batch")),
    (QUICK, {"objective.adv_mode": "foo"}, ("objective.adv_mode", "binary")),
    (
      QUICK,
      {"objective.name": "awm", "objective.weighting": "t3"},
      ("config.objective.weighting", "t3", "ghuber"),
    ),
    (QUICK, {"composition.epsilon": 0.1}, ("composition.epsilon", "no arg")),
    (
      QUICK,
      {"composition.name": "gdpo", "composition.epsilon": -1.0},
      ("config.composition.epsilon=-1.0", ">= 0"),
    ),
    (
      QUICK,
      {"rewards.detector.strict_weight": 2.0},
      ("config.rewards.detector", "strict_weight=2.0", "[0, 1]"),
    ),
    (
      QUICK,
      {
        "train_reward.loss.name": "rao_kupper",
        "train_reward.loss.threshold": 1,
      },
      ("config.train_reward.loss.threshold=1.0", "above 1"),
    ),
    (QUICK, {"train_reward.ties": "keep"}, ("config.train_reward.ties",)),
    (
      QUICK,
      {"train_reward.optimizer.schedule": "cosin"},
      ("config.train_reward.optimizer.schedule", '"cosine"'),
    ),
    (
      QUICK,
      {"reward_model.backbone.name": "scene"},
      ('did you mean "scenes"',),
    ),
    (QUICK, {"model.width": 30}, ("model.width=30", "heads")),
    (QUICK, {"jobs": "align,alin"}, ('config.jobs holds "alin"',)),
    (PRETRAIN, {"optimizer.name": "adam"}, ("optimizer.name", '"adamw"')),
    (SAMPLE, {"model.remat": "all"}, ("model.remat", "all")),
    (
      "evaluate_scenes.py:smoke",
      {"rewards.mine.fn": "detecor"},
      ("config.rewards.mine.fn", "detector"),
    ),
    (
      QUICK,
      {"rollout.window_size": 3},
      ("config.rollout.window_size=3", '"ode"', "flow_sde"),
    ),
    (
      GRPO,
      {"rollout.sampler.name": "ode", "objective.name": "awm"}
      | {"rollout.window_size": 2, "regularizers.kl": None},
      ("config.rollout.window_size=2", '"ode"'),
    ),
  ],
)
def test_a_method_looks_at_its_options_before_anything(
  spec, given, words, command, tmp_path
):
  assert command(spec, tmp_path / "run", given) == 2
  for word in words:
    assert word in command.error
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "given",
  [
    {"rollout.sampler.name": "flow_sde", "rollout.sampler.noise_level": 0.5},
    {"composition.name": "gdpo", "composition.epsilon": 1e-4},
    {"train_reward.loss.name": "hinge", "train_reward.loss.margin": 0.5},
    {"objective.name": "awm", "objective.weighting": "huber"},
    {"kernels.implementation": "auto", "advantage.std": "batch"},
  ],
)
def test_other_methods_and_their_options_are_taken(given):
  config = tiny.load(QUICK, given)
  jobs.find(config)
  jobs.check("pipeline", config)


@pytest.mark.parametrize(
  "given",
  [
    {"checkpoint.every": 0, "eval.every": 0},
    {"optimizer.learning_rate": 0.0, "optimizer.clip_norm": 0.0},
    {"advantage.clip": "none", "optimizer.final_scale": 0.0},
    {"model.dtype": "bfloat16", "pretrain.export_dtype": "float16"},
  ],
)
def test_a_value_that_means_something_is_taken(given):
  assert jobs.find(tiny.load(QUICK, given))


@pytest.mark.parametrize(
  "overrides",
  [
    {"objective.betta": 1.0},
    {"rewards.mine.fn": "detecor"},
    {"heldout_rewards.mine.fn": "strict", "heldout_rewards.mine.weight": "abc"},
    {"align.updates": 3},
  ],
  ids=lambda o: next(iter(o)),
)
def test_a_pipeline_looks_at_all_its_jobs_first(overrides, command, tmp_path):
  workdir = tmp_path / "run"
  assert command("quickstart.py:smoke", workdir, overrides) == 2
  assert next(iter(overrides)).rpartition(".")[0] in command.error
  assert not (workdir / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["evaluation.json", "finished.json"])
@pytest.mark.parametrize("text", ["{ half", "[1]", "\x80"])
def test_a_damaged_record_is_named_before_anything_runs(
  name, text, command, tmp_path
):
  config = tiny.load("quickstart.py:smoke")
  workdir = tmp_path / "run"
  workdir.mkdir()
  (workdir / "config.json").write_text(config_lib.to_json(config))
  (workdir / name).write_bytes(text.encode("latin-1"))
  assert command("quickstart.py:smoke", workdir) == 2
  assert f"{name} is damaged" in command.error
  assert (workdir / name).read_bytes() == text.encode("latin-1")
  assert not (workdir / "metrics.jsonl").exists()


@pytest.mark.parametrize("spec", [NFT, "pretrain_scenes.py:smoke"])
def test_shares_of_kinds_need_not_be_whole(spec):
  shares = (0.5, 0.0, 0.5, 1.0, 1.0, 1.0)
  given = {"data.kind_weights": ",".join(map(str, shares))}
  config = tiny.load(spec, given)
  assert config.data.kind_weights == shares
  mixed = tiny.load(spec, {"data.kind_weights": "1,1,1,2,2,0.5"})
  assert mixed.data.kind_weights == (1.0, 1.0, 1.0, 2.0, 2.0, 0.5)
  whole = tiny.load(spec, {"data.kind_weights": "1,1,1,2,2,3"})
  assert repr(whole.data.kind_weights) == "(1, 1, 1, 2, 2, 3)"
  kinds = np.concatenate(
    [tiny.prompts_of(config, n).category for n in range(8)]
  )
  counts = np.bincount(kinds, minlength=6)
  assert counts[1] == 0
  expected = len(kinds) * np.array(shares) / sum(shares)
  assert np.abs(counts - expected).max() <= 1


def test_a_deterministic_sampler_has_no_ratio(tmp_path):
  config = tiny.load(GRPO, FAST)
  with config.unlocked():
    config.rollout.sampler = ConfigDict(dict(name="ode"))
  with pytest.raises(UserError, match=r'"flow_sde", .* or "renoise"'):
    tiny.run(config, tmp_path / "run")


@pytest.mark.parametrize("job", ["alignn", "reward"])
def test_an_unknown_job(job, command, tmp_path):
  assert command(NFT, tmp_path / "run", FAST, {"job": job}) == 2
  assert f'config.job="{job}"' in command.error


@pytest.mark.parametrize("name", ["pipeline", "alin"])
def test_a_pipeline_of_what_is_no_job(name, command, tmp_path):
  code = command(
    "quickstart.py:smoke", tmp_path / "run", FAST, {"jobs": f"align,{name}"}
  )
  assert code == 2
  assert f'config.jobs holds "{name}"' in command.error
  assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.job
@pytest.mark.turns(3)
def test_another_config_in_the_same_working_directory(
  command, tmp_path, small_model
):
  given = {"align.iterations": 1}
  workdir = tmp_path / "run"
  assert command(NFT, workdir, FAST, tiny.REWARD, given) == 0
  rows = (workdir / "metrics.jsonl").read_bytes()
  other = given | {"optimizer.learning_rate": 0.5}
  assert command(NFT, workdir, FAST, tiny.REWARD, other) == 2
  assert re.search(r"optimizer.learning_rate: [\d.e-]+ -> 0.5", command.error)
  assert (workdir / "metrics.jsonl").read_bytes() == rows
  # what does not change results may change
  other = given | {"checkpoint.keep": 3}
  assert command(NFT, workdir, FAST, tiny.REWARD, other) == 0
  assert (workdir / "metrics.jsonl").read_bytes() == rows


SPECS = [
  "align_scenes.py",
  "align_scenes.py:flow_grpo",
  NFT,
  GRPO,
  "quickstart.py",
  "quickstart.py:flow_grpo",
  "quickstart.py:smoke",
  "quickstart.py:flow_grpo,smoke",
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("devices", [1, 8])
def test_the_configs_that_ship_have_a_plan(spec, devices):
  """Geometry, sampler and objective of each go together, on any mesh."""
  config = config_lib.load(str(tiny.CONFIGS / spec))
  plan = tiny.make_plan(config, tiny.mesh_of(devices))
  assert plan.layout.mask.sum() == plan.prompts * plan.group
