"""Options of objectives, advantages, compositions, samplers and optimizers."""

from tests.bad_inputs.table import Row

GRPO = "align_scenes.py:flow_grpo,smoke"
AWM = {"objective.name": "awm"}
CPS = {"rollout.sampler.name": "cps"}


def row(name, field, value, *says, first=None, config=GRPO):
  """A field that is set after those of `first`; the line names it."""
  return Row(
    name,
    (f"config.{field}", *says),
    config=config,
    overrides=(first or {}) | {field: value},
  )


NFT = "align_scenes.py:smoke"
ROWS = [
  # the KL to the reference
  row("a field of old", "objective.kl_with_dt", "false", "has moved",
      "config.regularizers.kl.form"),
  row("a coefficient of old", "objective.kl", 0.1, "has moved",
      "config.regularizers.kl.weight"),
  row("no such form", "regularizers.kl.form", "withoutdt",
      'did you mean "without_dt"', "velocity"),
  row("a form that is a number", "regularizers.kl.form", 2, "=2"),
  row("a form of another sampler", "regularizers.kl.form", "without_dt",
      '"cps"', "without_variance", first=CPS),
  row("negative coefficient", "regularizers.kl.weight", -0.1, "=-0.1", ">= 0"),
  row("endless coefficient", "regularizers.kl.weight", "inf", "=inf", ">= 0"),
  row("a term of another feed", "regularizers.near.fn", "velocity_distance",
      'reads "v"', "does not offer"),
  row("a term there is not", "regularizers.near.fn", "step_lk", "step_kl"),
  row("a term that is a number", "regularizers.near", 3, "section"),
  row("credit by steps nobody reads", "advantage.name", "dense",
      "flow_grpo", config="align_scenes.py:smoke"),
  row("a buffer of nothing", "advantage.buffer_size", 0, "buffer_size=0",
      first={"advantage.name": "per_prompt"}),
  row("a window that fits nowhere", "rollout.window_move.last", 9, "no window",
      first={"rollout.window_size": 1, "rollout.window_move.name": "drawn"}),
  row("a window without a size", "rollout.window_move.name", "drawn",
      "window_size"),
  row("no more steps than there are", "align.last_steps", 3, "fewer than",
      first={"objective.name": "align_prop"}, config="align_scenes.py:smoke"),
  row("too many pairs", "align.pairs", 3, "at most 2 pairs",
      first={"objective.name": "flow_dpo"}, config="align_scenes.py:smoke"),
  # rewards kept apart
  row("a combiner of one gradient", "align.combine.name", "marble",
      'composition.name="separate"', "none"),
  row("rewards apart and nothing that combines them", "composition.name",
      "separate", "config.align.combine.name", "marble", "weighted_sum"),
  row("a combiner there is not", "align.combine.name", "marbel",
      'did you mean "marble"', first={"composition.name": "separate"}),
  row("a combiner that never computes", "align.combine.every", 0, "=0",
      first={"composition.name": "separate", "align.combine.name": "sum"}),
  row("weights that never move", "align.combine.decay", 1.0, "=1.0",
      first={"composition.name": "separate", "align.combine.name": "marble"}),
  row("rewards apart for pairs", "composition.name", "separate", "flow_dpo",
      "advantage", config="align_scenes.py:smoke",
      first={"objective.name": "flow_dpo", "align.combine.name": "sum"}),
  # ratios
  row("clip of nothing", "objective.clip_range", "nan", "=nan", "than 0"),
  row("clip upside down", "objective.clip_range_high", -1e-4, "greater than 0"),
  row("clip in words", "objective.clip_range", "wide", "=wide", "a number"),
  row("a misspelt clip", "objective.clip_rnge", 1e-4,
      'did you mean "clip_range"'),
  row("an argument of the program", "objective.mask", "true",
      "given by the program"),
  # on the forward process
  row("old policy that runs backwards", "objective.old_rate", -1.0, ">= 0",
      config=NFT),
  row("strength in words", "objective.beta", "strong", "a number",
      config=NFT),
  row("no floor", "objective.weight_floor", 0.0, "greater than 0",
      config=NFT),
  row("neither yes nor no", "objective.adaptive_weight", "maybe",
      "expected bool", config=NFT),
  row("a mode that is a number", "objective.adv_mode", 3, "expected str",
      config=NFT),
  row("power of nothing", "objective.power", 0.0, "greater than 0",
      first=AWM, config=NFT),
  row("credit of nothing", "objective.adv_max", "nan", "greater than 0",
      first=AWM, config=NFT),
  row("credit without bound", "objective.adv_clip", "inf", "greater than 0",
      first=AWM, config=NFT),
  row("a weighting of old", "objective.weighting", "t**2",
      "one of uniform, t, t2, huber", first=AWM, config=NFT),
  row("no objective", "objective.name", "ppo", '="ppo"', "known:",
      config=NFT),
  row("a section for a method", "objective", "awm", "a section", config=NFT),
  # advantages and compositions
  row("advantage with a hole", "advantage.epsilon", "nan", ">= 0"),
  row("advantage upside down", "advantage.clip", -5.0, ">= 0"),
  row("a misspelt epsilon", "advantage.eps", 1e-4,
      'did you mean "epsilon"'),
  row("another's deviation", "advantage.std", "groups", '"batch"',
      first={"advantage.name": "leave_one_out"}),
  row("a cold temperature", "composition.temperature", -0.5, "0 or above",
      first={"composition.name": "win_rate"}),
  row("a bound from above", "composition.beta", -1.0, "0 or above",
      first={"composition.name": "lower_bound"}),
  row("a deviation of one's own", "composition.stds", "mine",
      "given by the program", first={"composition.name": "lower_bound"}),
  row("a rate of one's own", "composition.rate", "mine",
      "given by the program", first={"composition.name": "win_rate"}),
  row("sums in words", "composition.epsilon", "small", ">= 0",
      first={"composition.name": "gdpo"}),
  # samplers
  row("all noise and more", "rollout.sampler.noise_level", 2.0, "less than 2",
      first=CPS),
  row("noise without end", "rollout.sampler.noise_level", "inf",
      "positive, finite"),
  row("noise in words", "rollout.sampler.noise_level", "loud", "a number"),
  row("a misspelt level", "rollout.sampler.noise_levl", 0.7,
      'did you mean "noise_level"'),
  # optimizers
  row("rate in words", "optimizer.learning_rate", "fast", "a number"),
  row("warm-up by halves", "optimizer.warmup_steps", 1.5, "an integer"),
  row("memory of nothing", "optimizer.b2", "nan", "less than 1"),
  row("no epsilon", "optimizer.eps", 0.0, "no such field"),
  row("clip without end", "optimizer.clip_norm", "inf", ">= 0"),
  row("a misspelt decay", "optimizer.weight_decy", 0.1,
      'did you mean "optimizer.weight_decay"'),
]  # fmt: skip
