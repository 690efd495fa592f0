"""The rewards that a config names: resolved, bound and loaded."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jaxreward import (
  buckets,
  paths,
  rewards,
  setup,
  tasks,
  user_code,
)
from jaxreward import config as config_lib
from jaxreward.errors import UserError, nearest, shown
from jaxreward.reward_models import RewardModel
from jaxreward.setup import checks, reward_model
from jaxreward.training import sharding
from jaxreward.types import Array, Params, Policy, PromptBatch

SECTIONS = ("rewards", "heldout_rewards")
JUDGED = (*SECTIONS, "judged_rewards")  # with those that are judged alone
_RESERVED = ("weight", "weights", "kinds")
_FOLDER = "folder"  # argument of a loader: its folder in the working directory
_FACT_OF = "fact_of"  # argument of a loader: the task's facts about its prompts
POLICY_OF = "policy_of"  # argument of a loader: weights of the run's policy


@dataclasses.dataclass(frozen=True)
class _Entry:
  """A reward of the config, its function resolved and bound."""

  field: str
  name: str
  fn: Callable[..., Any]
  weight: float | rewards.RowWeight
  is_learned: bool
  weights: str
  loads: Callable[..., rewards.Loaded] | None


def registry() -> dict[str, Callable[..., Any]]:
  """All named rewards, those of the tasks first."""
  return tasks.rewards() | rewards.REGISTRY


def sections_of(config: ConfigDict) -> Iterator[tuple[str, ConfigDict]]:
  """(field, section) of every reward that a config names."""
  for section in JUDGED:
    for name in config[section]:
      yield f"{section}.{name}", config[section][name]


def load(
  config: ConfigDict,
  workdir: epath.Path,
  sections: Sequence[str] = SECTIONS,
  mesh: Mesh | None = None,
  frames: int | None = None,
) -> dict[str, rewards.Reward]:
  """The rewards of some sections of `JUDGED`; `frames` as in `score_frames`.

  A section's entry is `dict(fn=..., weight=..., **arguments)`; `fn` is a name
  of the registry, a dotted path or "file.py:function". A learned reward takes
  `weights`, its safetensors file; without, the one trained in the working
  directory. A published one takes `weights`, a folder or hub id, and the other
  options of its loader. Parameters are sharded by their own rules.
  `kinds=dict(upscale=2.0, ...)` restricts a reward to these categories of
  prompts, with a factor on its weight.

  Raises:
    UserError: an entry is invalid; raised before any computation.
  """
  placement_mesh = setup.make_mesh(config) if mesh is None else mesh

  def published(entry: _Entry, loaded: rewards.Loaded) -> dict[str, Any]:
    arrays = dict(loaded.arrays)
    if any(
      isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(arrays)
    ):
      raise UserError(
        f'config.{entry.field}.weights="{entry.weights}": a model without weights,'
        " for job=compile_check; name a folder or a hub id"
      )
    return jax.tree.map(jax.device_put, arrays, _places(loaded, placement_mesh))

  return _build(
    config, bind(config, sections, frames), workdir,
    lambda entry: _load_learned(entry, workdir, mesh), published,
  )  # fmt: skip


def abstract(
  config: ConfigDict,
  workdir: epath.Path,
  mesh: Mesh,
  absent: dict[str, str],
) -> dict[str, rewards.Reward]:
  """As `load`, with sharded shapes instead of arrays.

  The architecture is that of the trained model, or of `config.reward_model`.
  A published reward that cannot be read is replaced by zeros, and the reason
  put into `absent` under its name.
  """

  def learned(entry: _Entry):
    file = _learned_file(entry, workdir)
    if file.exists() or "reward_model" not in config:
      scorer = _read_learned(entry, workdir).scorer
    else:
      scorer = reward_model.make(config)
    params = setup.shapes(scorer.saved_shapes, scorer.sharding_rules, mesh)
    tokenize = scorer.backbone.read
    return _bound_learned(entry, scorer), {"params": params}, tokenize

  def published(entry: _Entry, loaded: rewards.Loaded) -> dict[str, Any]:
    del entry
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      dict(loaded.arrays), _places(loaded, mesh),
    )  # fmt: skip

  return _build(config, bind(config), workdir, learned, published, absent)


def _zeros(images: Array, prompts: PromptBatch) -> Array:
  del prompts
  return jnp.zeros(images.shape[:2])


def _build(
  config: ConfigDict,
  entries: dict[str, _Entry],
  workdir: epath.Path,
  learned,
  published,
  absent: dict[str, str] | None = None,
) -> dict[str, rewards.Reward]:
  functions = {name: entry.fn for name, entry in entries.items()}
  contexts: dict[str, Mapping[str, Any]] = {}
  prepares: dict[str, Any] = {}
  for name, entry in entries.items():
    if entry.is_learned:
      functions[name], contexts[name], tokenize = learned(entry)
      if tokenize:
        prepares[name] = lambda texts, tokenize=tokenize: {
          "text": tokenize(texts)
        }
    elif entry.loads:
      try:
        loaded = _load(config, entry, workdir)
      except UserError as error:
        if absent is None or not entry.weights:
          raise
        functions[name], absent[name] = _zeros, str(error)
        continue
      functions[name] = _with(entry.fn, loaded.static)
      contexts[name] = published(entry, loaded)
      if loaded.prepare:
        prepares[name] = loaded.prepare
  weights = {name: entry.weight for name, entry in entries.items()}
  return rewards.build(functions, weights, contexts, prepares)


def _load(
  config: ConfigDict, entry: _Entry, workdir: epath.Path
) -> rewards.Loaded:
  """Runs the entry's loader; its errors name the entry."""
  if entry.weights:
    logging.info(
      "config.%s: reading %s", entry.field, shown(entry.weights, 200)
    )
  assert entry.loads
  extra: dict[str, Any] = {}
  names = inspect.signature(entry.loads).parameters
  if POLICY_OF in names:
    extra[POLICY_OF] = functools.partial(
      _policy_of, config, entry.field, workdir
    )
  if _FOLDER in names:
    if buckets.is_bucket(workdir):
      raise UserError(
        f"config.{entry.field} keeps answers and counts in the working"
        f" directory, line by line; --workdir={workdir} has to be a folder"
      )
    extra[_FOLDER] = workdir / entry.field.replace(".", "/")
  try:
    return user_code.call(f"config.{entry.field}", entry.loads, **extra)
  except UserError as error:
    if str(error).startswith("config."):
      raise
    raise UserError(f"config.{entry.field}: {error}") from error


def _policy_of(
  config: ConfigDict, entry: str, workdir: epath.Path, spec: str, name: str
) -> tuple[Policy, Params]:
  """The run's policy with the weights that an option of a reward names.

  Raises:
    UserError: a policy that reads outputs of text encoders, or no such file.
  """
  policy = setup.make_policy(config)
  if policy.prompts is not None:
    raise UserError(
      f'config.{entry}.fn: the policy "{config.model.name}" reads outputs of text'
      " encoders, and the reward reads word ids alone; take another reward"
    )
  return policy, setup.load_params(
    config, policy, spec=spec, field=f"{entry}.{name}", workdir=workdir
  )


def _with(fn: Callable[..., Any], static: Mapping[str, Any]):
  return functools.update_wrapper(functools.partial(fn, **static), fn)


def _places(loaded: rewards.Loaded, mesh: Mesh) -> dict[str, Any]:
  """Shardings of the arrays: by their rules, or replicated."""
  places: dict[str, Any] = {}
  for name, tree in loaded.arrays.items():
    specs = jax.tree.map(lambda _: PartitionSpec(), tree)
    if name in loaded.rules:
      specs = sharding.param_specs(tree, loaded.rules[name], mesh)
    places[name] = jax.tree.map(
      lambda spec: NamedSharding(mesh, spec), specs,
      is_leaf=lambda x: isinstance(x, PartitionSpec),
    )  # fmt: skip
  return places


def bind(
  config: ConfigDict,
  sections: Sequence[str] = SECTIONS,
  frames: int | None = None,
) -> dict[str, _Entry]:
  """Resolves and checks the rewards without reading any weights.

  The detector is held out if nothing else is and no reward uses it.
  """
  entries: dict[str, _Entry] = {}
  task = setup.make_task(config)
  for section in sections:
    for name in config[section]:
      if name in entries:
        raise UserError(
          f'config.{section}.{name}: "{name}" is in another section too;'
          " a held-out reward is one that is not trained on"
        )
      _check_name(section, name)
      _check_kinds(config, task, section, name)
      entries[name] = _bound(config[section][name], f"{section}.{name}", task)
  entries = {
    name: dataclasses.replace(
      entry, fn=setup.score_frames(config, entry.fn, frames)
    )
    for name, entry in entries.items()
  }
  _refuse_learned(config, task, entries)
  _refuse_of_other_tasks(task, entries)
  _refuse_without_pictures(config, task, entries)
  if (
    task.judge and entries and "heldout_rewards" in sections
    and not config.heldout_rewards
  ):  # fmt: skip
    _hold_out(task, entries)
  return entries


def _refuse_of_other_tasks(
  task: tasks.Task, entries: Mapping[str, _Entry]
) -> None:
  """Refuses rewards of another task."""
  for entry in entries.values():
    if getattr(entry.fn, "takes_verdict", False) and not task.verdict:
      raise UserError(
        f"config.{entry.field}: the detector judges scenes alone, and"
        f' config.data.grammar="{task.name}"; take another reward'
      )
    owners = [n for n, t in tasks.TASKS.items() if entry.name in t.rewards]
    if owners and task.name not in owners:
      raise UserError(
        f'config.{entry.field}.fn="{entry.name}": it judges tasks with a'
        " picture; set config.data.source and config.data.grammar to"
        f' "{owners[0]}"'
      )


def _check_name(section: str, name: str) -> None:
  """Refuses names that charts, files or flags cannot hold."""
  if not name.isprintable() or re.search(r"[\s./\\\[\]*?]|^$", name):
    raise UserError(
      f"config.{section}: a reward is called {shown(repr(name))}; take letters,"
      " digits, _ and -"
    )


def _check_kinds(
  config: ConfigDict, task: tasks.Task, section: str, name: str
) -> None:
  """Refuses categories that the task does not have."""
  categories = list(task.categories.values())
  entry: Any = config[section][name]
  factors = entry.get("kinds", {}) if isinstance(entry, ConfigDict) else {}
  for category in factors if isinstance(factors, ConfigDict) else ():
    if category not in categories:
      raise UserError(
        f'config.{section}.{name}.kinds: "{category}" is not known'
        f"{nearest(category, categories)}; with config.data.grammar="
        f'"{task.name}" there are {", ".join(categories)}'
      )


def _refuse_learned(
  config: ConfigDict, task: tasks.Task, entries: Mapping[str, _Entry]
) -> None:
  for entry in entries.values():
    language = _language(config, entry) if entry.is_learned else None
    spoken = (task.language or "scenes") if task.tokenize else ""
    if language is not None and language != spoken:
      raise UserError(
        f'config.{entry.field}.fn="learned": the reward model reads the words of'
        f' the {language} alone, and config.data.grammar="{task.name}"; take'
        " another reward"
      )


def _language(config: ConfigDict, entry: _Entry) -> str | None:
  """The task whose word ids alone a learned reward reads."""
  file = epath.Path(paths.expand(entry.weights)) if entry.weights else None
  if file is not None and file.exists():
    return reward_model.language_of(file)
  section: Any = config.get("reward_model", ConfigDict())
  return reward_model.spoken(section.get("backbone", {}))


def _refuse_without_pictures(
  config: ConfigDict, task: tasks.Task, entries: Mapping[str, _Entry]
) -> None:
  """Refuses rewards that need source images where prompts have none."""
  for section in SECTIONS if task.has_pictures is False else ():
    for name, entry in config[section].items():
      fn = entries[name].fn if name in entries else None
      if getattr(fn, "applies", None) and not entry.get("references"):
        raise UserError(
          f"config.{section}.{name}: it compares with pictures, and the prompts"
          f' of config.data.source="{config.data.source}" bring none; name a'
          " folder in"
          f" config.{section}.{name}.references, or a .jsonl with pictures in"
          " config.data.source"
        )


def _hold_out(task: tasks.Task, entries: dict[str, _Entry]) -> None:
  """Holds out the task's own judge if no trained reward uses it."""
  if not any(getattr(e.fn, "takes_verdict", False) for e in entries.values()):
    name = f"heldout_{task.judge}" if task.judge in entries else task.judge
    entry = ConfigDict({"fn": task.judge})
    entries[name] = _bound(entry, f"heldout_rewards.{name}", task)


def _bound(entry: Any, field: str, task: tasks.Task) -> _Entry:
  if not isinstance(entry, ConfigDict):
    raise UserError(
      f"config.{field}={entry!r}: a reward is a section; name its function in"
      f" config.{field}.fn"
    )
  name: Any = entry.get("fn")
  is_learned, function = name == "learned", _resolve(entry, field)
  task_inputs = ("verdict",) if _is_own(function) else ()
  loads, options = _bound_loader(entry, function, field)
  fn = config_lib.bind(
    entry, registry(), field=field, key="fn", positional=2,
    reserved=(*_RESERVED, *options),
    supplied=("params", "scorer", "mean", "std", "text")
    if is_learned
    else (*task_inputs, *rewards.supplied(function)),
  )  # fmt: skip
  if task_inputs:
    _validate_options(fn, field)
  weight: Any = entry.get("weight", 1.0)
  file = entry.get("weights", "")
  if not checks.is_finite(weight):
    raise UserError(f"config.{field}.weight={weight}: expected a finite number")
  if not isinstance(file, str):
    raise UserError(f"config.{field}.weights={file}: expected a file's name")
  if file and not (is_learned or loads):
    raise UserError(
      f'config.{field}.weights={file}: the reward "{name}" reads none'
    )
  row_weight = _row_weight(entry, fn, float(weight), field, task)
  if loads and _FACT_OF in inspect.signature(loads).parameters:
    loads = functools.partial(loads, fact_of=task.fact_of)
  return _Entry(field, str(name), fn, row_weight, is_learned, file, loads)


def _row_weight(
  entry: ConfigDict,
  fn: functools.partial,
  weight: float,
  field: str,
  task: tasks.Task,
) -> float | rewards.RowWeight:
  """The weight; per row where it depends on the prompt."""
  factor_of = entry.get("kinds", {})
  if not isinstance(factor_of, Mapping | ConfigDict):
    raise UserError(
      f"config.{field}.kinds={factor_of}: it is a section, as in"
      " dict(upscale=1.0, add=0.5)"
    )
  for name in factor_of:
    if not checks.is_finite(factor_of[name]):
      raise UserError(
        f"config.{field}.kinds.{name}={factor_of[name]}: expected a finite number"
      )
  factors = tuple(
    (task.number(name), float(factor_of[name])) for name in factor_of
  )
  applies = None if entry.get("references") else getattr(fn, "applies", None)
  if not factors and applies is None:
    return weight
  if applies is not None:
    names = inspect.signature(applies).parameters
    options = {k: v for k, v in fn.keywords.items() if k in names}
    applies = functools.partial(applies, **options) if options else applies
  return rewards.RowWeight(weight, factors, applies)


def _resolve(entry: ConfigDict, field: str) -> Callable[..., Any] | None:
  """The entry's function; None if it names none, which `bind` refuses."""
  if "fn" not in entry:
    return None
  return config_lib.resolve_callable(entry.fn, registry(), field=f"{field}.fn")


def _is_own(fn: Callable[..., Any] | None) -> bool:
  """Whether a reward of the package reads the task's measurements."""
  is_registered = fn in registry().values()
  return is_registered and bool(getattr(fn, "takes_verdict", False))


def _bound_loader(
  entry: ConfigDict, fn: Callable[..., Any] | None, field: str
) -> tuple[Callable[..., rewards.Loaded] | None, tuple[str, ...]]:
  """(the reward's loader with its options, their names)."""
  loader = getattr(fn, "loads", None)
  if loader is None:
    return None, ()
  supplied = (_FOLDER, _FACT_OF, POLICY_OF)
  names = tuple(
    n for n in inspect.signature(loader).parameters if n not in supplied
  )
  section = {"fn": entry.fn} | {k: entry[k] for k in names if k in entry}
  loader_fn = config_lib.bind(
    ConfigDict(section), {entry.fn: loader}, field=field, key="fn",
    supplied=supplied,
  )  # fmt: skip
  if check_options := getattr(loader, "check", None):
    try:
      user_code.call(f"config.{field}", check_options, loader_fn.keywords)
    except UserError as error:
      if str(error).startswith("config."):
        raise
      raise UserError(f"config.{field}: {error}") from error
  return loader_fn, names


def _validate_options(fn: Callable[..., Any], field: str) -> None:
  """Validates the options of a reward that uses the task's judge."""
  shape: Any = jax.ShapeDtypeStruct
  prompts = PromptBatch(
    ids=shape((1,), jnp.uint32), category=shape((1,), jnp.int32),
    mask=shape((1,), bool),
  )  # fmt: skip
  scores = shape((1, 1), jnp.float32)
  checks.validate_options(
    lambda images, prompts, verdict: fn(images, prompts, verdict=verdict),
    shape((1, 1, 1, 1, 3), jnp.float32), prompts,
    {name: scores for t in tasks.TASKS.values() for name in t.verdict},
    field=field, prefix=f"config.{field}: ",
  )  # fmt: skip


def _learned_file(entry: _Entry, workdir: epath.Path) -> epath.Path:
  path = entry.weights or workdir / reward_model.MODEL_FILE
  return epath.Path(paths.expand(path, f"config.{entry.field}.weights"))


def _read_learned(entry: _Entry, workdir: epath.Path):
  path = _learned_file(entry, workdir)
  if not path.exists():
    raise UserError(
      f"config.{entry.field}: there is no reward model at {path}; train one"
      " first (job train_reward) or name its file in"
      f" config.{entry.field}.weights"
    )
  return reward_model.load(path)


def require_trained(config: ConfigDict, workdir: epath.Path) -> None:
  """Reads the trained reward models that no later job will write.

  Raises:
    UserError: one is missing or damaged.
  """
  comes = config.job == "pipeline" and "train_reward" in config.jobs
  for entry in bind(config, JUDGED).values():
    if entry.is_learned and (entry.weights or not comes):
      _read_learned(entry, workdir)


def _load_learned(entry: _Entry, workdir: epath.Path, mesh: Mesh | None):
  """(function with its model bound, its arrays, its tokenizer)."""
  model = _read_learned(entry, workdir)
  params = model.params
  if mesh is not None:
    rules = model.scorer.sharding_rules
    params = setup.put(params, setup.shapes(params, rules, mesh))
  context = {"params": params, "mean": model.mean, "std": model.std}
  return (
    _bound_learned(entry, model.scorer),
    context,
    model.scorer.backbone.read,
  )


def _bound_learned(entry: _Entry, scorer: RewardModel):
  fn = functools.partial(entry.fn, scorer=scorer)
  return functools.update_wrapper(fn, entry.fn)
