"""Players of a config: bound, checked and created."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import rng, setup, user_code
from jaxreward.errors import UserError, nearest, require_counts, shown
from jaxreward.methods import asks, prepare_of
from jaxreward.players import JUDGED_ROWS, PLAYERS, ROWS, Player, Sizes
from jaxreward.setup import checks, real
from jaxreward.training import mesh as mesh_lib
from jaxreward.training import optimizer, state
from jaxreward.types import Array, Policy, PromptBatch

OPTIMIZER = dict(name="adamw", learning_rate=1e-3, clip_norm=1.0)
_OF_A_JUDGE = ("judge", "lag", "floor")
_RESERVED = (
  "weight", "every", "until", "steps", "average", "optimizer", "normalize",
  *_OF_A_JUDGE,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Role:
  """A player of a run.

  Attributes:
    name: the config's key for it.
    player: its network and its loss.
    tx: its optimizer.
    every: it trains in every n-th iteration, starting with the first.
    until: the iteration from which it stays as it is; 0 for never.
    steps: optimizer steps in such an iteration, each over all samples.
    average: decay of the average that others read, per step.
    weight: of its score among the rewards.
    render: (keys [B], prompts) -> reference images [B, H, W, C], if the task
      renders them.
    normalize: whether its scores are in units of their running deviation.
    judge: of `config.judged_rewards`, whose labels it learns from; or empty.
    lag: iterations after which these arrive.
    floor: share of pairs that it has to order as the judge does for the policy to
      follow it; 0 for none.
  """

  name: str
  player: Player
  tx: optax.GradientTransformation
  every: int = 1
  until: int = 0
  steps: int = 1
  average: float = 0.0
  weight: float = 0.0
  render: Callable[..., Array] | None = None
  normalize: bool = False
  judge: str = ""
  lag: int = 0
  floor: float = 0.0


Roles = tuple[Role, ...]


def bind(config: ConfigDict) -> Roles:
  """Binds the players of a config; no array is allocated.

  Raises:
    UserError: an invalid section, an unknown option, a name that is taken, or a
      loss that reads an unknown array.
  """
  roles = tuple(_bind(config, name) for name in config.players)
  gives = [name for role in roles for name in role.player.gives]
  for name in [*gives, *predicts(roles)]:
    if [*gives, *predicts(roles)].count(name) > 1:
      raise UserError(
        f'config.players: two of them give "{name}", which objectives read by'
        " this name; keep one"
      )
  for role in roles:
    _check_loss(role, gives)
  first = config.align.hold_policy
  if first and first >= config.align.iterations:
    raise UserError(
      f"config.align.hold_policy={first}: the policy would be held in all"
      f" {config.align.iterations} of config.align.iterations"
    )
  return roles


def _bind(config: ConfigDict, name: str) -> Role:
  section, field = config.players[name], f"players.{name}"
  if not isinstance(section, ConfigDict):
    raise UserError(
      f"config.{field}={section!r}: a player is a section; name its function in"
      f" config.{field}.fn"
    )
  if "/" in name:
    raise UserError(
      f'config.{field}: metrics of a player are called after it, with a "/"'
      " behind; give it a name without one"
    )
  if name in config.rewards or name in config.heldout_rewards:
    raise UserError(
      f'config.{field}.fn: a reward is called "{name}" too; give the player'
      " another name"
    )
  make_player = config_lib.bind(
    section, PLAYERS, field=field, key="fn", reserved=_RESERVED
  )
  try:
    player = user_code.call(f"config.{field}", make_player)
  except UserError as error:
    if str(error).startswith("config."):
      raise
    raise UserError(f"config.{field}.{error}") from error
  if not isinstance(player, Player):
    raise UserError(
      f"config.{field}.fn={shown(section.fn)}: it returned a"
      f" {type(player).__name__}; expected a jaxreward.players.Player"
    )
  weight: Any = section.get("weight", 0.0)
  average: Any = section.get("average", 0.0)
  every: Any = section.get("every", 1)
  steps: Any = section.get("steps", 1)
  until: Any = section.get("until", 0)
  require_counts(f"config.{field}.", every=every, steps=steps)
  require_counts(f"config.{field}.", least=0, until=until)
  if player.tunes and player.tunes not in config.rewards:
    raise UserError(
      f"config.{field}.reward={shown(player.tunes)}: it changes a reward of the"
      f" run; there are {', '.join(config.rewards) or 'none'}"
    )
  if not checks.is_finite(weight):
    raise UserError(f"config.{field}.weight={weight}: expected a finite number")
  if weight and not player.score:
    raise UserError(
      f"config.{field}.weight={weight}: {shown(section.fn)} gives no score of a"
      " picture; leave it out"
    )
  if not (checks.is_finite(average) and 0 <= average < 1):
    raise UserError(
      f"config.{field}.average={average}: expected at least 0 and less than 1"
    )
  normalize: Any = section.get("normalize", False)
  if normalize and not player.score:
    raise UserError(
      f"config.{field}.normalize={normalize}: {shown(section.fn)} gives no score"
      " of a picture; leave it out"
    )
  return Role(
    name, player, _optimizer(config, section, field), every, until, steps,
    float(average), float(weight), setup.make_task(config).render,
    bool(normalize), *_of_a_judge(config, section, field, player),
  )  # fmt: skip


def _of_a_judge(
  config: ConfigDict, section: ConfigDict, field: str, player: Player
) -> tuple[str, int, float]:
  """(judge, lag, floor) of a section.

  Raises:
    UserError: options of a player without a judge, no such judge, or rows that no
      label brings.
  """
  options = [key for key in _OF_A_JUDGE if key in section]
  if not player.judged:
    if options:
      raise UserError(
        f"config.{field}.{options[0]}: {shown(section.fn)} learns from no judge;"
        ' leave it out, or take fn="student"'
      )
    return "", 0, 0.0
  judge: Any = section.get("judge", "")
  lag: Any = section.get("lag", 0)
  floor: Any = section.get("floor", 0.0)
  if judge not in config.judged_rewards:
    raise UserError(
      f"config.{field}.judge={shown(judge)}: it names the reward whose scores it"
      f" learns{nearest(str(judge), config.judged_rewards)}; config.judged_rewards"
      f" has {', '.join(config.judged_rewards) or 'none'}"
    )
  require_counts(f"config.{field}.", least=0, lag=lag)
  if lag and lag >= config.align.iterations:
    raise UserError(
      f"config.{field}.lag={lag}: no label would arrive in"
      f" config.align.iterations={config.align.iterations}; lower it"
    )
  if not (checks.is_finite(floor) and 0 <= floor <= 1):
    raise UserError(f"config.{field}.floor={floor}: expected 0 to 1")
  wrong = [name for name in player.reads if name not in JUDGED_ROWS]
  if wrong or not player.score:
    raise UserError(
      f"config.{field}.fn={shown(section.fn)}: a player that is judged has a"
      f" score, and rows of {', '.join(JUDGED_ROWS)}"
    )
  return judge, lag, float(floor)


def _optimizer(config: ConfigDict, section: ConfigDict, field: str):
  section_options: Any = section.get("optimizer", ConfigDict())
  every: Any = section.get("every", 1)
  steps: Any = section.get("steps", 1)
  total = -(-config.align.iterations // every) * steps
  return optimizer_of(
    OPTIMIZER | section_options.to_dict(), f"{field}.optimizer", total
  )


def optimizer_of(
  options: Mapping[str, Any], field: str, total: int
) -> optax.GradientTransformation:
  """The optimizer of an open section.

  Args:
    options: arguments of `training.optimizer.make_optimizer`.
    field: of the section.
    total: its steps.

  Raises:
    UserError: unknown options or values; names the field.
  """
  make_optimizer = config_lib.bind(
    ConfigDict({**options, "fn": "optimizer"}),
    {"optimizer": _make}, field=field, key="fn", supplied=("total_steps",),
  )  # fmt: skip
  try:
    return make_optimizer(total_steps=total)
  except UserError as error:
    message = str(error).removeprefix("optimizer.")
    raise UserError(f"config.{field}.{message}") from error


def _make(
  *,
  total_steps: int,
  name: str = "adamw",
  learning_rate: float = 1e-3,
  schedule: str = "constant",
  warmup_steps: int = 0,
  final_scale: float = 0.0,
  clip_norm: float = 1.0,
  weight_decay: float = 0.0,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
) -> optax.GradientTransformation:
  tx, _ = optimizer.make_optimizer(
    name=name, learning_rate=learning_rate, schedule=schedule,
    warmup_steps=warmup_steps, total_steps=total_steps, final_scale=final_scale,
    clip_norm=clip_norm, weight_decay=weight_decay, b1=b1, b2=b2, eps=eps,
  )  # fmt: skip
  return tx


def _check_loss(role: Role, gives: list[str]) -> None:
  """Refuses a loss that reads unknown arrays."""
  player, loss = role.player, role.player.loss
  prepare = prepare_of(loss)
  names = [*asks(loss), *(asks(prepare.read) if prepare else ()), *player.reads]
  prepared_names = set(prepare.gives) if prepare else set()
  others = () if player.judged else gives
  available = {*player.reads, *player.offers, *others, "words"}
  for name in names:
    if name in player.reads and name not in ROWS:
      raise UserError(
        f'config.players.{role.name}.fn: it reads rows of "{name}"; there are'
        f" {', '.join(ROWS)}"
      )
    if name not in available | prepared_names:
      raise UserError(
        f'config.players.{role.name}.fn: its loss reads "{name}", which nobody'
        f" offers; there are {', '.join(sorted(available))}"
      )


def gives(roles: Roles) -> tuple[str, ...]:
  """Names of arrays for objectives, beyond those of the feed."""
  return tuple(name for role in roles for name in role.player.gives)


def predicts(roles: Roles) -> tuple[str, ...]:
  """Names of arrays that players make of an objective's predicted samples."""
  return tuple(name for role in roles for name in role.player.predicts)


def weights(roles: Roles) -> dict[str, float]:
  """Weights of the players whose score is a reward."""
  return {role.name: role.weight for role in roles if role.weight}


def reads(roles: Roles, name: str) -> bool:
  """Whether rows of this name are read by some player."""
  return any(name in role.player.reads for role in roles)


def require_references(
  roles: Roles, config: ConfigDict, batches: Callable[[int], PromptBatch]
) -> None:
  """Refuses players that read reference images where there are none."""
  for role in roles:
    if "real_image" not in role.player.reads:
      continue
    if real.are_missing(role.render, batches):
      raise UserError(
        f"config.players.{role.name}.fn: it reads reference pictures, which the"
        f" prompts of config.data.source={shown(config.data.source)} do not"
        ' have; name a file with a "target" for each prompt, or take scenes'
      )


def validate(roles: Roles, policy: Policy) -> None:
  """Creates the players on shapes only.

  Raises:
    UserError: names a player that cannot be created for this policy.
  """
  sizes = _sizes(policy) if roles else None
  for role in roles:
    with user_code.blamed(
      f"config.players.{role.name}", role.player.init, host=False
    ):
      jax.eval_shape(lambda role=role: _create(role, 0, sizes))


def copies(config: ConfigDict) -> tuple[str, ...]:
  """Names of the players that are copies of the policy, as networks of a loss."""
  return tuple(role.name for role in bind(config) if role.player.copies)


def create(
  roles: Roles, seed: int, policy: Policy, trained: Any, rows: int = 1
) -> dict[str, state.Player]:
  """States of the players at step 0.

  Args:
    roles: of the run.
    seed: of the run.
    policy: of the run.
    trained: the policy's parameters.
    rows: of an iteration's samples, padding included.
  """
  sizes = _sizes(policy) if roles else None
  return {
    role.name: _create(role, seed, sizes, trained, rows) for role in roles
  }


def _create(
  role: Role, seed: int, sizes: Any, trained: Any = None, rows: int = 1
) -> state.Player:
  if role.player.copies and trained is not None:
    params = jax.tree.map(jnp.copy, trained)
  else:
    key = rng.stream_key(seed, f"player/{role.name}")
    params = role.player.init(key, sizes)
  pending = (role.lag, rows, *sizes.image) if role.player.judged else None
  return state.create_player(
    params, role.tx, average=role.average > 0, pending=pending,
    normalize=role.normalize,
  )  # fmt: skip


def _sizes(policy: Policy) -> Sizes:
  input_shapes: Any = policy.prompts
  if input_shapes is None:
    input_shapes = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  latent = policy.latent_shape
  decoder = None
  if policy.decoder is not None:
    decoder = jax.eval_shape(policy.decoder, jax.random.key(0))
  x = jax.ShapeDtypeStruct((1, *latent), jnp.float32)
  image = jax.eval_shape(policy.to_pixels, x, decoder)
  return Sizes(image.shape[1:], latent, input_shapes)


def placed(
  roles: Roles, fresh: Any, mesh: Any, policy_rules: Any
) -> dict[str, state.Player]:
  """Shapes of the players' states with shardings by their own rules."""
  rules_of = lambda player: (
    policy_rules if player.copies else player.rules or (("", ()),)
  )
  states = {
    role.name: setup.shapes(
      fresh[role.name], rules_of(role.player), mesh,
      params=fresh[role.name].params,
    )
    for role in roles
  }  # fmt: skip
  spread = NamedSharding(mesh, PartitionSpec(None, mesh_lib.BATCH_AXES))
  for name, player in states.items():
    if player.pending is not None:
      images = player.pending.images
      images = jax.ShapeDtypeStruct(images.shape, images.dtype, sharding=spread)
      pending = dataclasses.replace(player.pending, images=images)
      states[name] = dataclasses.replace(player, pending=pending)
  return states
