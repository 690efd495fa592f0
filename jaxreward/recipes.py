"""What the recipes in configs/recipes share: three sizes of one run."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward.errors import UserError

SIZES = ("default", "smoke", "full")
CONTROLS = ("grey", "edges", "regions")  # kinds of control images
PUBLISHED = dict(
  clip=dict(fn="clip_score", weights="openai/clip-vit-large-patch14"),
  hps=dict(fn="hps_v2", weights="xswu/HPSv2:HPS_v2.1_compressed.pt"),
  image_reward=dict(
    fn="image_reward", weights="THUDM/ImageReward:ImageReward.pt"
  ),
  pick=dict(fn="pick_score", weights="yuvalkirstain/PickScore_v1"),
)


def size_of(arg: str | None) -> str:
  """The size that a recipe's argument names.

  Raises:
    UserError: a size there is not.
  """
  return config_lib.parse_arg(arg, size=SIZES)["size"]


def load(objective: str, arg: str | None, beside: str) -> ConfigDict:
  """The config that a recipe starts from.

  Args:
    objective: "flow_grpo" or "diffusion_nft", the nearest published settings.
    arg: of the recipe: a size. "default" trains the scene policy on two cores,
      "smoke" does so in miniature, and "full" trains adapters of Stable
      Diffusion 3.5 medium.
    beside: the recipe's file.
  """
  size = size_of(arg)
  if size == "full":
    spec = f"../align_public.py:sd35_medium,objective={objective}"
  else:
    small = ",smoke" if size == "smoke" else ""
    spec = f"../align_scenes.py:{objective}{small}"
  return config_lib.load_sibling(spec, beside)


def beside_answers(arg: str | None, beside: str) -> ConfigDict:
  """The config of a policy whose players also learn from real images.

  Real images are scenes drawn anew for the same prompts or, at full size, the exact
  answer of each edit, a prompt's "target".

  Args:
    arg: of the recipe; "full" trains adapters of FLUX.1 Kontext.
    beside: the recipe's file.
  """
  if size_of(arg) != "full":
    return load("flow_grpo", arg, beside)
  spec = "../align_public.py:kontext,objective=flow_grpo"
  return config_lib.load_sibling(spec, beside)


def of_edits(
  objective: str, arg: str | None, beside: str, **weights: float
) -> ConfigDict:
  """The config of a policy that edits images, with some of four rewards.

  "follow" is whether an edit does what the words ask for, "keep" whether the rest
  stays as it was, "person" whether somebody is recognised in another picture, and
  "look" how well it is drawn: exact measures of portraits, and at full size
  CLIPScore, the similarity to the source by CLIP and by DINO, and PickScore.

  Args:
    objective: "flow_grpo" or "diffusion_nft".
    arg: of the recipe; "full" trains adapters of FLUX.1 Kontext.
    beside: the recipe's file.
    **weights: of the rewards by name.
  """
  size = size_of(arg)
  if size == "full":
    spec = f"../align_public.py:kontext,objective={objective}"
    rewards = dict(
      follow=PUBLISHED["clip"],
      keep=dict(fn="image_similarity", weights=PUBLISHED["clip"]["weights"]),
      person=dict(fn="image_similarity", weights="facebook/dinov2-base"),
      look=PUBLISHED["pick"],
    )
  else:
    small = ",smoke" if size == "smoke" else ""
    spec = f"../portrait_edits.py:objective={objective}{small}"
    rewards = dict(
      follow=dict(fn="carried_out"),
      keep=dict(fn="left_alone"),
      person=dict(fn="same_person"),
      look=dict(fn="drawn"),
    )
  config = config_lib.load_sibling(spec, beside)
  config.rewards = {
    name: dict(**rewards[name], weight=weight)
    for name, weight in weights.items()
  }
  config.composition = dict(name="weighted_sum")
  config.advantage = dict(name="group", std="group")
  return config


def on_portraits(
  config: ConfigDict, arg: str | None, beside: str, name: str = "portraits"
) -> None:
  """Portraits in the place of scenes: policy, prompts and held-out rewards.

  Args:
    config: of the job align on scenes.
    arg: of the recipe.
    beside: the recipe's file.
    name: "portraits" or "portrait_edits".
  """
  small = ":smoke" if size_of(arg) == "smoke" else ""
  other = config_lib.load_sibling(f"../{name}.py{small}", beside)
  for section in ("model", "init", "heldout_rewards"):
    config[section] = other[section]
  fields = ("source", "grammar", "kind_weights")
  config.data.update({name: other.data[name] for name in fields})


def judge_with(
  config: ConfigDict, arg: str | None, **judges: dict[str, Any]
) -> None:
  """Judges of the program as the rewards.

  Args:
    config: of the job align.
    arg: of the recipe; without public weights the judge that ships says yes or no
      of scenes, and a tiny model with random ones, whose thoughts are short,
      stands in for what that cannot do.
    **judges: rewards by name, without weights unless these are published.
  """
  is_full = size_of(arg) == "full"
  for name, judge in judges.items():
    entry = dict(weight=1.0) | judge
    if is_full:
      entry["dtype"] = "bfloat16"
      if judge["fn"].startswith("vlm_"):
        entry["weights"] = "Qwen/Qwen2.5-VL-7B-Instruct"
    else:
      is_taught = (
        judge.keys() <= {"fn", "weight"} and judge["fn"] == "vlm_pointwise"
      )
      entry.update(
        weights="package:judge" if is_taught else "tiny",
        length=64 if is_taught else 1024,
      )
      if judge.get("think") or judge["fn"].endswith("think"):
        entry["think"] = 8
    judges[name] = entry
  config.rewards = judges
  config.composition = dict(name="weighted_sum")


def follow_gradient(config: ConfigDict, arg: str | None) -> None:
  """The rewards' gradient through the last steps of the sampler (DRaFT).

  Args:
    config: of the job align.
    arg: of the recipe.
  """
  config.objective = dict(name="align_prop")
  config.regularizers = dict()
  config.rollout.sampler = dict(name="ode")
  if size_of(arg) != "full":
    rate = min(config.optimizer.learning_rate, 1e-4)
    config.optimizer.learning_rate = rate


def of_motion(
  objective: str, arg: str | None, beside: str, asked: str
) -> ConfigDict:
  """The config of a policy of videos that is rewarded for how things move.

  Args:
    objective: its name.
    arg: of the recipe; "full" trains adapters of Wan 2.1 of 1.3B, from words, without
      any reward; the other sizes draw moving scenes.
    beside: the recipe's file.
    asked: name of the reward of moving scenes that reads what is asked for.
  """
  size = size_of(arg)
  if size == "full":
    spec = f"../align_public.py:wan_t2v,objective={objective}"
    config = config_lib.load_sibling(spec, beside)
    config.video.frames = 9
    config.rewards = dict()
    return config
  small = ",smoke" if size == "smoke" else ""
  spec = f"../motion.py:objective={objective}{small}"
  config = config_lib.load_sibling(spec, beside)
  config.rewards = {asked: dict(fn=asked, weight=1.0)}
  return config


def _of_objective(
  arg: str | None, beside: str, objective: dict[str, Any]
) -> ConfigDict:
  """The config of an objective without regularizers."""
  config = load("diffusion_nft", arg, beside)
  config.objective = objective
  config.regularizers = dict()
  return config


def preference(arg: str | None, beside: str, **objective: Any) -> ConfigDict:
  """The config of a preference loss, whose samples all pull in one direction.

  It has no regularizers and, where the scene policy is trained, a small learning
  rate.

  Args:
    arg: of the recipe.
    beside: the recipe's file.
    **objective: its name with its options.
  """
  config = _of_objective(arg, beside, objective)
  if size_of(arg) != "full":
    config.optimizer.learning_rate = 5e-5
  return config


def for_users(arg: str | None, beside: str, **objective: Any) -> ConfigDict:
  """The config of a policy that learns to draw for planted users from pairs.

  Eight users of opposite tastes in colour, and four more in the test alone; the
  layers that read the user learn, the others stay.

  Args:
    arg: of the recipe: "default" on the scenes on two cores, "smoke" in miniature;
      there is no full size.
    beside: the recipe's file.
    **objective: its name with its options.
  """
  is_small = require_scenes(arg, "draws for users of")
  config = preference(arg, beside, **objective)
  config.model.user = 3  # as the encoder of comparisons gives
  config.data.preferences = config.data.source
  config.data.users.update(count=8, unseen=4)
  config.align.trained = "(^|/)user_"
  config.optimizer.learning_rate = 1e-3
  if is_small:
    config.data.users.update(count=2, unseen=2, rows=8)
  else:
    config.rollout.prompts = 128
    config.align.update(iterations=100, times=1, updates=1)
  return config


def of_scores(
  arg: str | None, beside: str, *rewards: str, width: int = 8
) -> ConfigDict:
  """The config of a policy that learns a dataset of mixed images by their scores.

  Flow matching on images of which half are right, with their scores as a condition
  (`setup.row_scores`).

  Args:
    arg: of the recipe: "default" on the scenes on two cores, "smoke" in miniature;
      there is no full size.
    beside: the recipe's file.
    *rewards: of `reward_with`.
    width: numbers for the score of each reward.
  """
  is_small = require_scenes(arg, "fine-tunes a policy of")
  config = _of_objective(arg, beside, dict(name="flow_matching"))
  config.align.density = dict(name="logit_normal")
  config.data.update(dataset=config.data.source, caption_drop=0.1)
  reward_with(config, arg, **dict.fromkeys(rewards, 1.0))
  config.model.user = width * len(rewards)
  config.data.scored.rewards = rewards
  if is_small:
    config.data.scored.rows = 16
  else:
    config.rollout.prompts = 128
    config.align.update(iterations=300, times=1, updates=1)
  return config


def draw_in(config: ConfigDict, steps: int, sampler: str = "renoise") -> None:
  """A sampler of few steps wherever the config draws, evaluations included.

  A few-step student is not a flow: its velocities point to samples and do not
  follow a path, and a sampler with more steps understates what it has learned.

  Args:
    config: of the job align.
    steps: of the sampler.
    sampler: its name.
  """
  for section in ("rollout", "eval", "sample"):
    config[section].update(num_steps=steps)
    config[section].sampler = dict(name=sampler)


def distilled(arg: str | None, beside: str, **objective: Any) -> ConfigDict:
  """The config of a few-step student that learns from a teacher and a fake score.

  Args:
    arg: of the recipe.
    beside: the recipe's file.
    **objective: its name with its options.
  """
  config = _of_objective(arg, beside, objective)
  config.optimizer.learning_rate = 5e-5
  draw_in(config, 4)
  config.align.update(noise="path", times=2, updates=2)
  config.players.fake = dict(
    fn="fake_score", steps=2, optimizer=dict(learning_rate=1e-4)
  )
  return config


def on_dataset(arg: str | None, beside: str, **objective: Any) -> ConfigDict:
  """The config of one-step predictions of images of a dataset, not of samples.

  Args:
    arg: of the recipe.
    beside: the recipe's file.
    **objective: its name with its options.
  """
  config = _of_objective(arg, beside, objective)
  config.data.dataset = "dataset" if size_of(arg) == "full" else "scenes"
  config.optimizer.learning_rate = 1e-4
  return config


def on_controls(arg: str | None, beside: str, **objective: Any) -> ConfigDict:
  """The config of `on_dataset` for a policy that starts from a control image.

  Grey portraits, their edges, or maps of their regions, which words say how to colour;
  at full size the rows of a folder with a control "image" and its "target". The reward
  extracts the same again: `condition_cycle`, or `regions`.

  Args:
    arg: of the recipe: a size, and control=grey, edges or regions; "full" trains
      adapters of FLUX.1 Kontext.
    beside: the recipe's file.
    **objective: its name with its options.

  Raises:
    UserError: regions at full size.
  """
  options = config_lib.parse_arg(arg, size=SIZES, control=CONTROLS)
  arg, control = options["size"], options["control"]
  if arg == "full" and control == "regions":
    raise UserError(
      "control=regions: the regions of portraits alone are known, and at full size"
      ' images are of any kind; take "edges" or "grey"'
    )
  config = on_dataset(arg, beside, **objective)
  cycle: dict[str, Any] = dict(fn="regions", weight=1.0)
  if control != "regions":
    field = "source" if control == "grey" else "target"
    cycle |= dict(fn="condition_cycle", condition=control, field=field)
  if size_of(arg) == "full":
    spec = "../align_public.py:kontext,objective=diffusion_nft"
    other = config_lib.load_sibling(spec, beside)
    other.objective, other.regularizers = config.objective, dict()
    other.data.dataset = config.data.dataset
    other.optimizer.learning_rate = config.optimizer.learning_rate
    config = other
  else:
    on_portraits(config, arg, beside, "portrait_edits")
    config.data.update(
      dataset="portrait_edits",
      kind_weights=(0, 0, 0, 0, 0, 0, 0, 1, 0),
      control="" if control == "grey" else control,
    )
    cycle["kinds"] = kinds = dict(colour=1.0)
    config.heldout_rewards = {
      name: dict(fn=name, weight=1.0, kinds=kinds)
      for name in ("done", "untouched", "drawn")
    }
  if size_of(arg) == "default":
    config.rollout.prompts = 64
    config.align.update(iterations=60, times=2, updates=2)
    config.eval.update(every=30, quick_samples=96, guidance_scales=(1.0,))
    config.optimizer.learning_rate = 3e-4
  config.rewards = dict(cycle=cycle)
  return config


def require_scenes(arg: str | None, does: str) -> bool:
  """Whether a recipe that has no full size runs in miniature.

  Args:
    arg: of the recipe.
    does: what it does with the scenes, for the message.

  Raises:
    UserError: a size there is not.
  """
  size = size_of(arg)
  if size == "full":
    raise UserError(
      f"this recipe {does} the scenes and has no full size; take"
      ' "default" or "smoke"'
    )
  return size == "smoke"


def _training(is_small: bool, beside: str) -> ConfigDict:
  """The config that trains a reward model on the scenes."""
  small = ":smoke" if is_small else ""
  config = config_lib.load_sibling(f"../train_reward_scenes.py{small}", beside)
  if is_small:
    config.train_reward.init_from_policy = False  # its model is narrower
  return config


def reward_model(
  arg: str | None,
  beside: str,
  *,
  head: dict[str, Any] | None = None,
  loss: dict[str, Any] | None = None,
  **training: Any,
) -> ConfigDict:
  """The config that a recipe of a reward model starts from.

  Args:
    arg: of the recipe: "default" trains on the scenes on two cores, "smoke"
      does so in miniature; there is no full size.
    beside: the recipe's file.
    head: of the model, the base's if None; a hidden layer is smaller in
      miniature.
    loss: with its options, the base's if None.
    **training: further fields of `train_reward`.

  Raises:
    UserError: a size there is not.
  """
  is_small = require_scenes(arg, "trains a reward model on")
  config = _training(is_small, beside)
  if head is not None:
    if is_small and head.get("hidden"):
      head = head | dict(hidden=64)
    config.reward_model.head = head
  if loss is not None:
    config.train_reward.loss = loss
  config.train_reward.update(training)
  return config


def of_users(
  arg: str | None, beside: str, head: dict[str, Any], loss: dict[str, Any]
) -> ConfigDict:
  """The config of a reward model conditioned on the user.

  Eight planted users of opposite tastes in warm colours, and four more in the
  test alone; fewer in miniature.

  Args:
    arg: of the recipe, see `reward_model`.
    beside: the recipe's file.
    head: of the model.
    loss: with its options.
  """
  config = reward_model(arg, beside, head=head, loss=loss)
  users = config.train_reward.users
  users.update(count=8, unseen=4, weight=0.7)
  if size_of(arg) == "smoke":
    users.update(count=3, unseen=1, shown=1)
  return config


def taught_judge(arg: str | None, beside: str, **judge: Any) -> ConfigDict:
  """The config that goes on to teach a judge about scenes.

  Args:
    arg: of the recipe: "default" goes on from the judge that ships, on scenes;
      "smoke" does so in miniature from nothing; there is no full size.
    beside: the recipe's file.
    **judge: fields of `config.judge`.

  Raises:
    UserError: a size there is not.
  """
  is_small = require_scenes(arg, "trains a judge on")
  size = ":smoke" if is_small else ""
  config = config_lib.load_sibling(f"../pretrain_judge.py{size}", beside)
  config.judge.update(judge, tasks=("scenes",))
  if not is_small:
    config.judge.weights = "package:judge"
    config.pretrain.update(steps=120, batch_size=16)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=10)
    config.eval.update(every=40, quick_samples=128)
    config.checkpoint.every = 40
  return config


def by_verdicts(
  rule: dict[str, Any], arg: str | None, beside: str
) -> ConfigDict:
  """`taught_judge` that learns from what its verdicts after thoughts earn.

  Args:
    rule: of `verdicts.rule`, with its options.
    arg: of the recipe, see there.
    beside: the recipe's file.
  """
  config = taught_judge(arg, beside)
  config.verdicts.rule = rule
  return config


def judged(arg: str | None, beside: str, **judging: Any) -> ConfigDict:
  """The config that trains a reward model and judges it beside others.

  The others are the detector, which labels the test, and rewards that read no
  words.

  Args:
    arg: of the recipe: "default" on the scenes on two cores, "smoke" in
      miniature; there is no full size.
    beside: the recipe's file.
    **judging: fields of `eval.judging`.

  Raises:
    UserError: a size there is not.
  """
  is_small = require_scenes(arg, "judges rewards on")
  config = _training(is_small, beside)
  config.job, config.jobs = "pipeline", ("train_reward", "evaluate")
  config.rewards = dict(
    learned=dict(fn="learned"),
    detector=dict(fn="detector"),
    smooth=dict(fn="smooth"),
    bytes=dict(fn="jpeg_compressibility"),
  )
  config.eval.preferences = config.data.source
  config.eval.judging.update(judging)
  if is_small:
    views = min(config.eval.judging.views, 8)
    config.eval.judging.update(
      rows=12, rows_at_once=4, views=views, severities=2
    )
  return config


def published_reward(
  arg: str | None,
  beside: str,
  *,
  backbone: dict[str, Any],
  head: dict[str, Any],
  loss: dict[str, Any],
  optimizer: dict[str, Any],
  train: str = "full",
  last_layers: dict[str, int] | None = None,
  **training: Any,
) -> ConfigDict:
  """The config of a published reward model's own training.

  Args:
    arg: of the recipe: "full" trains public weights on a file of preferences,
      pairs.jsonl; "default" a small tower of the same kind on the scenes, and
      "smoke" does so in miniature, both at a rate for weights that start random.
    beside: the recipe's file.
    backbone: of the full size; a small one of its name takes its place.
    head: of the model.
    loss: with its options.
    optimizer: the authors'.
    train: the trained part, see `reward_models.RewardModel`.
    last_layers: layers of each part that are trained at full size; all if None.
    **training: further fields of `train_reward` at full size, the authors'.
  """
  size = size_of(arg)
  config = _training(size == "smoke", beside)
  # the towers are not the policy's
  config.train_reward.init_from_policy = False
  config.reward_model.head = head
  config.reward_model.train = train
  config.train_reward.loss = loss
  if size != "full":
    config.reward_model.backbone = dict(name=backbone["name"], size="tiny")
    rate = dict(name="adamw", learning_rate=1e-3, weight_decay=0.01)
    config.train_reward.optimizer.update(rate)
    return config
  config.reward_model.backbone = backbone
  config.data.update(source="pairs.jsonl", grammar="free")
  config.train_reward.update(
    source="pairs.jsonl",
    ema_decay=0.0,
    last_layers=last_layers or {},
    **training,
  )
  plain = dict(schedule="constant", warmup_steps=0, b2=0.999, weight_decay=0.0)
  config.train_reward.optimizer.update(plain | optimizer)
  return config


def steered(
  arg: str | None,
  beside: str,
  *,
  sampler: str = "cps",
  num_steps: int = 10,
  **steering: Any,
) -> ConfigDict:
  """The config of an evaluation that a reward steers.

  Args:
    arg: of the recipe: "default" draws the scenes on two cores, "smoke" does so
      in miniature; there is no full size.
    beside: the recipe's file.
    sampler: name of the sampler.
    num_steps: of the sampler.
    **steering: the method with its options.

  Raises:
    UserError: a size there is not.
  """
  is_small = require_scenes(arg, "steers the policy of")
  small = ":smoke" if is_small else ""
  config = config_lib.load_sibling(f"../evaluate_scenes.py{small}", beside)
  if not is_small:
    config.eval.samples = 240
  config.eval.update(guidance_scales=(1.0,), num_steps=num_steps)
  config.eval.sampler = dict(name=sampler)
  config.eval.steering = steering
  return config


def steered_by_judge(config: ConfigDict) -> ConfigDict:
  """The judge that ships steers scenes; the detector watches.

  Args:
    config: of `steered`.
  """
  judge = dict(fn="vlm_pointwise", weights="package:judge", length=64)
  config.rewards = dict(judge=dict(judge, weight=1.0))
  config.heldout_rewards = dict(detector=dict(fn="detector", weight=1.0))
  return config


def train_reward_first(
  config: ConfigDict, arg: str | None, beside: str
) -> ConfigDict:
  """A reward model that the run trains first is the reward; the detector watches.

  Args:
    config: of the job align or evaluate on scenes.
    arg: of the recipe.
    beside: the recipe's file.
  """
  reward = _training(size_of(arg) == "smoke", beside)
  config.job, config.jobs = "pipeline", ("train_reward", config.job)
  config.reward_model = reward.reward_model
  config.train_reward = reward.train_reward
  config.rewards = dict(learned=dict(fn="learned", weight=1.0))
  config.heldout_rewards = dict(detector=dict(fn="detector", weight=1.0))
  return config


def steered_by_estimates(
  config: ConfigDict,
  arg: str | None,
  beside: str,
  *,
  estimates: tuple[int, ...],
) -> ConfigDict:
  """Steers by a reward that learned the detector's from clean estimates.

  It has the name of `eval.steering.by`; the detector is the reward itself.

  Args:
    config: of `steered`.
    arg: of the recipe.
    beside: the recipe's file.
    estimates: steps before each estimate that it learns from.
  """
  steps = config.eval.num_steps
  config = train_reward_first(config, arg, beside)
  config.rewards = dict(detector=dict(fn="detector", weight=1.0))
  config.rewards[config.eval.steering.by] = dict(fn="learned", weight=0.0)
  config.heldout_rewards = dict()
  training = config.train_reward
  training.loss = dict(name="regression")
  training.update(labels="detector", label_noise=0.0, pictures_per_row=4)
  training.pictures.update(renders=0, spoiled=0, borrowed=0)
  training.sampling.update(
    samples=4, guidance_scales=(1.0,), num_steps=steps, estimates=estimates
  )
  return config


def aligned_and_judged(
  config: ConfigDict, arg: str | None, beside: str, **judging: Any
) -> ConfigDict:
  """As `train_reward_first`, and after it rewards are judged on held-out prompts.

  Args:
    config: of the job align on scenes.
    arg: of the recipe, see `judged`.
    beside: the recipe's file.
    **judging: fields of `eval.judging`.
  """
  judges = judged(arg, beside, **judging)
  config = train_reward_first(config, arg, beside)
  config.jobs = (*config.jobs, "evaluate")
  for field in ("preferences", "judging"):
    config.eval[field] = judges.eval[field]
  return config


def differentiable(
  config: ConfigDict, arg: str | None, beside: str, *names: str
) -> ConfigDict:
  """Rewards that the loss differentiates: `PUBLISHED` ones at full size.

  The other sizes train one first (see `train_reward_first`) and follow it at a rate
  of at most 1e-4: a slope pulls all parameters one way at every step.

  Args:
    config: of the job align.
    arg: of the recipe.
    beside: the recipe's file.
    *names: of published rewards.
  """
  if size_of(arg) != "full":
    rate = min(config.optimizer.learning_rate, 1e-4)
    config.optimizer.learning_rate = rate
    return train_reward_first(config, arg, beside)
  config.rewards = {name: dict(PUBLISHED[name]) for name in names}
  return config


def reward_feedback(arg: str | None, beside: str) -> ConfigDict:
  """The config of ReFL's step: a reward's gradient up to a margin, at a late step.

  Args:
    arg: of the recipe.
    beside: the recipe's file.
  """
  size = size_of(arg)
  config = load("diffusion_nft", arg, beside)
  config.objective = dict(name="refl", margin=2.0, scale=1e-3)
  config.regularizers = dict()
  config.rollout.sampler = dict(name="ode")
  config.align.update(last_steps=1 if size == "smoke" else 3, updates=1)
  config.align.depth = dict(name="uniform")
  if size == "full":
    config.rollout.num_steps = 40
    config.align.last_steps = 10
  return differentiable(config, arg, beside, "image_reward")


def reward_with(config: ConfigDict, arg: str | None, **weights: float) -> None:
  """Several rewards that need no training: "task", "look" and "bytes".

  On scenes they are the detector, the smoothness of the image and its JPEG size;
  at full size CLIPScore, PickScore and the JPEG size.

  Args:
    config: of the job align.
    arg: of the recipe.
    **weights: of those that are trained on, by name.
  """
  task, aesthetic = dict(fn="detector"), dict(fn="smooth")
  if size_of(arg) == "full":
    task, aesthetic = PUBLISHED["clip"], PUBLISHED["pick"]
  rewards = dict(
    task=task, look=aesthetic, bytes=dict(fn="jpeg_compressibility")
  )
  config.rewards = {
    name: dict(**rewards[name], weight=weight)
    for name, weight in weights.items()
  }
