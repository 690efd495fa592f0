"""What several jobs build first: policy, weights, mesh, placed arrays."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from flax import traverse_util
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import models, paths, processes, rng, user_code
from jaxreward.data import pipeline, sources
from jaxreward.data.scenes import grammar
from jaxreward.errors import UserError, nearest, shown
from jaxreward.flow import rollout, schedule, steppers
from jaxreward.jobs import adapters, videos
from jaxreward.models import (
  attention,
  convert,
  fields,
  hub,
  lora,
  vae,
  video_vae,
)
from jaxreward.training import mesh as mesh_lib
from jaxreward.training import sharding, state, weights
from jaxreward.types import Array, ArrayLike, Params, Policy

ASSETS = epath.Path(__file__).parent.parent / "assets"
POLICY_FILE = "policy.safetensors"  # what align and pretrain write
OWN_POLICY = "workdir:policy"


def _bare_policy(config: ConfigDict) -> Policy:
  bound = config_lib.bind(config.model, models.REGISTRY, field="model")
  return user_code.call("config.model", bound)


def make_policy(config: ConfigDict) -> Policy:
  """The architecture that `config.model` names, with its autoencoder.

  Raises:
    UserError: one of the two is not known, or they do not go together.
  """
  policy = _bare_policy(config)
  if videos.is_video(policy) and config.data.grammar != "free":
    raise UserError(
      f'config.data.grammar="{config.data.grammar}": "{config.model.name}" makes'
      ' videos, and the detector judges pictures; use "free"'
    )
  section = config.autoencoder
  if section.name != "none":
    bound = config_lib.bind(
      section, models.AUTOENCODERS, field="autoencoder", reserved=("weights",)
    )
    made = user_code.call("config.autoencoder", bound)
    policy = _with_autoencoder(policy, made, config)
  return videos.as_strips(policy, config)


def _with_autoencoder(
  policy: Policy, autoencoder: vae.Autoencoder, config: ConfigDict
) -> Policy:
  dims = len(policy.latent_shape)
  if autoencoder.is_video != videos.is_video(policy):
    kinds = ("pictures", "videos")
    raise UserError(
      f'config.autoencoder.name="{config.autoencoder.name}" is one of'
      f' {kinds[autoencoder.is_video]}, and "{config.model.name}" makes'
      f" {kinds[not autoencoder.is_video]}: take one that fits"
    )
  channels = policy.latent_shape[-1]
  if channels != autoencoder.channels:
    raise UserError(
      f'config.autoencoder.name="{config.autoencoder.name}" has latents of'
      f" {autoencoder.channels} channels, and the policy"
      f' "{config.model.name}" of {channels}: take one that fits'
    )

  def to_pixels(latents: Array, decoder: Params | None = None) -> Array:
    rows = latents.reshape(-1, *policy.latent_shape)
    images = autoencoder.decode(decoder, rows)
    return images.reshape(*latents.shape[:-dims], *images.shape[1:])

  def to_latents(images: Array, decoder: Params | None = None) -> Array:
    if not autoencoder.is_video:
      return autoencoder.encode(decoder, images)
    frames, *_, wanted = policy.pictures["picture"].shape[1:]  # pyrefly: ignore
    if wanted == channels:  # the first frame and no mask
      return autoencoder.encode(decoder, images[:, None])
    return video_vae.from_pictures(autoencoder, decoder, images, frames)

  return dataclasses.replace(
    policy,
    to_pixels=to_pixels,
    to_latents=to_latents,
    decoder=autoencoder.init,
    decoder_rules=autoencoder.sharding_rules,
    decoder_layout=autoencoder.layout,
    decoder_fields=autoencoder.public_fields,
  )


def score_frames(
  config: ConfigDict, reward: Callable[..., Any]
) -> Callable[..., Any]:
  """A reward of pictures as it scores what the policy of the config makes."""
  policy = _bare_policy(config)
  return videos.scored(reward, config) if videos.is_video(policy) else reward


def make_schedule(config: ConfigDict) -> schedule.Schedule:
  """The sampling times that `config.rollout.schedule` and `.shift` describe.

  Raises:
    UserError: values that make no sense, or too few steps somewhere.
  """
  bound = config_lib.bind(
    config.rollout.schedule, schedule.REGISTRY, field="rollout.schedule",
    positional=2,
  )  # fmt: skip
  shape, shift = make_policy(config).latent_shape, config.rollout.shift
  with user_code.blamed("config.rollout.schedule", bound, host=False):
    try:
      made = bound(shift, shape)
    except UserError as error:
      raise UserError(f"config.{error}") from error
  for section in ("rollout", "eval", "sample"):
    count = config[section].num_steps
    try:
      with user_code.blamed("config.rollout.schedule", bound, host=False):
        made.times(count)
    except UserError as error:
      raise UserError(
        f"config.{section}.num_steps={count}, config.rollout.shift={shift:g}:"
        f" {error}"
      ) from error
  return made


def make_sampler(
  config: ConfigDict, section: str
) -> Callable[..., steppers.StepTable]:
  """(times, noisy steps or None) -> constants, of `config.<section>.sampler`.

  Raises:
    UserError: no such sampler, or options that it does not take.
  """
  field = f"{section}.sampler"
  bound = config_lib.bind(
    config[section].sampler, steppers.REGISTRY, field=field, positional=2
  )

  def make(times: ArrayLike, noisy: ArrayLike | None = None) -> Any:
    with user_code.blamed(f"config.{field}", bound, host=False):
      try:
        return bound(times, noisy)
      except UserError as error:
        raise UserError(f"config.{section}.{error}") from error

  return make


def step_table(
  config: ConfigDict, section: str, noisy: ArrayLike | None = None
) -> steppers.StepTable:
  """Constants of the steps of a section, "rollout", "eval" or "sample"."""
  made, count = make_schedule(config), config[section].num_steps
  table = make_sampler(config, section)(made.times(count), noisy)
  return dataclasses.replace(table, told=made.told(count))


def load_prompts(
  config: ConfigDict, split: str | None
) -> tuple[grammar.Prompt, ...]:
  """The prompts of `config.data` of one split; None for all of a file's.

  Of the grammar's own prompts only those are taken that the policy knows.

  Raises:
    UserError: a prompt of one's own that the policy does not know.
  """
  policy, source = make_policy(config), config.data.source
  free = config.data.grammar == "free"
  if split is None:
    found = sources.all_prompts(
      source, free=free, with_pictures=policy.takes_source
    )
  else:
    found = sources.load_prompts(
      source, split, policy.kinds if source == "scenes" else None,
      free=free, with_pictures=policy.takes_source,
    )  # fmt: skip
  for prompt in found if policy.kinds else ():
    if grammar.KIND_NAMES[prompt.kind] not in policy.kinds:
      raise UserError(
        f'config.data.source={source}: the prompt "{shown(prompt.text)}" is of the kind'
        f' "{grammar.KIND_NAMES[prompt.kind]}", and config.model.condition='
        f'"class" knows {", ".join(policy.kinds)} alone, such as "a red circle"'
        ' or "three squares"; leave it out, or set config.model.condition to'
        ' "text"'
      )
  return found


def prompt_batches(config: ConfigDict) -> pipeline.PromptBatches:
  """Batches of `config.rollout.prompts` training prompts, by the step.

  Prompts in any words are of one kind, and come equally often.
  """
  free = config.data.grammar == "free"
  return pipeline.prompt_batches(
    load_prompts(config, "train"), seed=config.seed,
    batch_size=config.rollout.prompts,
    kind_weights=None if free else config.data.kind_weights,
    side=picture_side(make_policy(config)),
  )  # fmt: skip


def prompt_ids(config: ConfigDict) -> np.ndarray:
  """uint32 [N], the ids of all training prompts."""
  prompts = load_prompts(config, "train")
  return np.array([prompt.prompt_id for prompt in prompts], np.uint32)


def picture_side(policy: Policy) -> tuple[int, int]:
  """(height, width) in pixels of what a policy draws, of videos a frame's."""
  rows = jax.ShapeDtypeStruct((1, *policy.latent_shape), jnp.float32)
  decoder = None
  if policy.decoder is not None:
    decoder = jax.eval_shape(policy.decoder, jax.random.key(0))
  height = jax.eval_shape(policy.to_pixels, rows, decoder).shape[-3]
  latent_height, latent_width = policy.latent_shape[-3:-1]
  return height, height // latent_height * latent_width


def put_decoder(
  config: ConfigDict, policy: Policy, mesh: Mesh
) -> Params | None:
  """`load_decoder` on the mesh, by the autoencoder's sharding rules."""
  found = load_decoder(config, policy)
  return None if found is None else put(found, decoder_shapes(policy, mesh))


def decoder_shapes(policy: Policy, mesh: Mesh) -> Params | None:
  """Shapes of the autoencoder's parameters, with their shardings."""
  if policy.decoder is None:
    return None
  like = jax.eval_shape(policy.decoder, jax.random.key(0))
  return shapes(like, policy.decoder_rules, mesh)


def load_decoder(config: ConfigDict, policy: Policy) -> Params | None:
  """Parameters of the autoencoder: from a checkpoint, or drawn from the seed.

  Returns:
    NumPy arrays or fresh ones, on no mesh; None for a policy without one.
  """
  if policy.decoder is None:
    return None
  key = rng.stream_key(config.seed, "autoencoder")
  spec = config.autoencoder.get("weights", "")
  if not spec:
    return jax.jit(policy.decoder)(key)
  logging.info("autoencoder from %s", shown(spec, 200))
  like = jax.eval_shape(policy.decoder, key)
  _check_config(spec, policy.decoder_fields, "autoencoder")
  return convert.load_params(spec, policy.decoder_layout, like)


def decode_chunks(
  policy: Policy,
  latents: Array,
  layout: rollout.Layout,
  decoder: Params | None,
) -> ArrayLike:
  """Pixels of latents [B, ...], one micro-batch after the other."""
  if decoder is None:
    return policy.to_pixels(latents)
  chunks = rollout.to_chunks(latents, layout.chunks)
  pixels = jax.lax.map(lambda z: policy.to_pixels(z, decoder), chunks)
  return rollout.from_chunks(pixels)


def checkpoint_path(
  spec: str,
  field: str = "init.checkpoint",
  workdir: epath.Path | None = None,
) -> epath.Path:
  """The safetensors file that a config names.

  Args:
    spec: its path; "package:NAME" for one shipped with the package;
      "workdir:policy" for what an earlier job wrote into the working directory.
    field: where the spec stands, for errors.
    workdir: of a job that reads policies; None for one that writes them.
  """
  if spec.startswith("workdir:"):
    return _own_policy(spec, field, workdir)
  if not spec.startswith("package:"):
    return paths.find(spec, f"config.{field}")
  name = spec.removeprefix("package:")
  path = ASSETS / f"{name}.safetensors"
  if not path.exists():
    known = [
      f"package:{p.stem}" for p in ASSETS.iterdir() if p.suffix == path.suffix
    ]
    raise UserError(
      f"config.{field}={spec} is not shipped{nearest(spec, known)}"
    )
  return path


def _own_policy(spec: str, field: str, workdir: epath.Path | None):
  """The policy of the working directory, or a line that says who makes it."""
  if spec != OWN_POLICY:
    raise UserError(
      f"config.{field}={spec} is not known{nearest(spec, [OWN_POLICY])}"
    )
  if workdir is None:
    raise UserError(
      f"config.{field}={spec}: this job does not start from a policy that its"
      " working directory holds; name a file or package:NAME"
    )
  path = workdir / POLICY_FILE
  if not path.exists():
    raise UserError(
      f"config.{field}={spec}: there is no {path} yet; put a job that writes it"
      " (align or pretrain) before this one in config.jobs, or name a file"
    )
  return path


def load_params(
  config: ConfigDict,
  policy: Policy,
  *,
  spec: str = "",
  field: str = "init.checkpoint",
  workdir: epath.Path | None = None,
) -> Params:
  """Parameters of a policy: from a file, or drawn from the seed.

  Args:
    config: of the run.
    policy: the architecture.
    spec: which file, see `checkpoint_path`; empty for `init.checkpoint` with
      the adapter of `init.adapter`.
    field: where the spec stands.
    workdir: see `checkpoint_path`.
  """
  if spec:
    return _load_plain(config, policy, spec, field, workdir)
  spec, field = config.init.checkpoint, "init.checkpoint"
  params = _load_plain(config, policy, spec, field, workdir)
  return adapters.add(config, policy, params)


def _load_plain(
  config: ConfigDict,
  policy: Policy,
  spec: str,
  field: str,
  workdir: epath.Path | None,
) -> Params:
  """See `load_params`; without adapters, and no other file for no spec."""
  key = rng.stream_key(config.seed, "init")
  if not spec:
    return jax.jit(policy.init)(key)
  like = jax.eval_shape(policy.init, key)
  logging.info("starting from %s", shown(spec, 200))
  if policy.layout and not _is_own(spec):
    return _load_public(spec, policy, like)
  path = checkpoint_path(spec, field, workdir)
  if not policy.optional:
    return weights.load_params(path, like)
  fresh = _chosen(jax.jit(policy.init)(key), policy.optional)
  return weights.load_params(path, like, fresh)


def _load_public(spec: str, policy: Policy, like: Params) -> Params:
  """A public checkpoint; of several networks, the folder with all of them."""

  def load(spec: str, like: Params) -> Params:
    _check_config(spec, policy.public_fields, "model")
    return convert.load_params(spec, policy.layout, like)

  if policy.parts is None:
    return load(spec, like)
  return {
    name: load(f"{spec}:{folder}", like[name])
    for name, folder in policy.parts.items()
  }


def _check_config(spec: str, known: fields.Fields | None, field: str) -> None:
  """Refuses weights whose `config.json` speaks of another network."""
  if known is None:
    return
  record = hub.read_config(spec)
  fields.check(record, known, of=f"{spec}: config.json")
  if not record:
    logging.info(
      "%s has no config.json: its flags are taken to be those of config.%s",
      shown(spec, 150), field,
    )  # fmt: skip


def _chosen(tree: Params, pattern: str) -> Params:
  """The leaves whose path the pattern finds, as a nested dict."""
  flat = traverse_util.flatten_dict(tree, sep="/")
  kept = {name: x for name, x in flat.items() if re.search(pattern, name)}
  return traverse_util.unflatten_dict(kept, sep="/")


def _is_own(spec: str) -> bool:
  """Whether a file is one that `weights.save_params` has written.

  Its names are paths; public names never hold a slash.
  """
  if spec.startswith(("package:", "workdir:")):
    return True
  is_file = spec.endswith(".safetensors") and paths.is_file(paths.expand(spec))
  return is_file and any("/" in name for name in hub.open_weights(spec))


def make_mesh(config: ConfigDict) -> Mesh:
  """The mesh of `config.mesh` over all devices of the program."""
  if jax.process_count() != processes.count():
    raise UserError(
      f"config.processes.detect=False: this is one of {jax.process_count()}"
      " processes, which have to know of each other; set it to True"
    )
  form = config.model.get("attention", "plain")
  attention.require_platform(form, jax.default_backend())
  return mesh_lib.make_mesh(**config.mesh.to_dict())


def profile_folder(
  config: ConfigDict, workdir: epath.Path
) -> epath.Path | None:
  """Where `config.profile` puts a trace and a table; None without it."""
  return workdir / "profile" if config.profile else None


@dataclasses.dataclass(frozen=True)
class Trainable:
  """What of a policy is trained, and how it becomes whole.

  Attributes:
    policy: takes whole parameters (with adapters, if there are any).
    plain: the policy without adapters, for the reference.
    init: base -> what is trained, at step 0; run it in jit, which leaves out
      what of the model is not an adapter.
    whole: (trained, base) -> parameters that `policy` takes.
    export: (trained, base) -> parameters that `plain` takes.
  """

  policy: Policy
  plain: Policy
  init: Callable[[Params], Params]
  whole: Callable[[Params, Params], Params]
  export: Callable[[Params, Params], Params]


def make_trainable(config: ConfigDict, policy: Policy) -> Trainable:
  """All parameters (`config.lora.rank` 0) or adapters of that rank."""
  if not config.lora.rank:
    whole = lambda trained, base: trained
    return Trainable(policy, policy, lambda base: base, whole, whole)
  options = {k: config.lora[k] for k in ("rank", "alpha", "targets")}
  adapted = lora.adapt_policy(policy, **options)
  key = rng.stream_key(config.seed, "lora")

  def init(base: Params) -> Params:
    del base
    return lora.split(adapted.init(key))[1]

  def export(trained: Params, base: Params) -> Params:
    return lora.fuse(lora.merge(base, trained), alpha=options["alpha"])

  def whole(trained: Params, base: Params) -> Params:
    return lora.merge(base, trained)

  return Trainable(adapted, policy, init, whole, export)


def shapes(tree: Any, rules, mesh: Mesh, params: Params | None = None) -> Any:
  """Shapes of arrays (or of shapes), with shardings by the rules.

  Args:
    tree: a training state, or parameters.
    rules: the architecture's table.
    mesh: where they will live.
    params: what of the tree the rules speak of; all of it if None.
  """
  abstract = jax.eval_shape(lambda: tree)
  params = abstract if params is None else params
  shardings = sharding.state_shardings(abstract, rules, mesh, params=params)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract, shardings,
  )  # fmt: skip


def put(tree: Any, placed: Any) -> Any:
  """A copy of the arrays where `shapes` says; donating it leaves them alone."""
  copy = lambda x: jax.tree.map(lambda a: a + 0, x)
  places = jax.tree.map(lambda x: x.sharding, placed)
  return jax.jit(copy, out_shardings=places)(tree)


def parts_of(
  placed: state.TrainState, base: Params | None = None
) -> dict[str, Any]:
  """The parts of a state by the names that people call them by."""
  return {
    "parameters": placed.params,
    "optimizer": placed.opt_state,
    "average": placed.ema,
    "sampling policy": placed.old,
    "reference": base,
  }


def log_placement(placed: state.TrainState, base: Params | None = None) -> None:
  """Says which device holds which part of a state, and of its reference."""
  parts = parts_of(placed, base)
  logging.info("largest arrays:\n%s", sharding.describe(parts, limit=6))


def batch_devices() -> int:
  """Parts that the mesh in use cuts a batch into; 1 without a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  return math.prod(mesh.shape.get(axis, 1) for axis in mesh_lib.BATCH_AXES)


def spread_rows(tree: Any) -> Any:
  """Cuts the first axis of every leaf over the mesh in use; call it in jit.

  What is computed row by row from these leaves is then cut alike.
  """
  if batch_devices() == 1:
    return tree
  rows = PartitionSpec(mesh_lib.BATCH_AXES)
  return jax.lax.with_sharding_constraint(tree, rows)
