"""The feed contract: rows made from a rollout, and arrays offered by name.

A method (an objective or a regularizer) is a plain function. The names of its
positional arguments are the arrays it reads; its keyword-only arguments are its
options. The feed that offers all of those names makes its rows, and an array
that no method asks for is never computed.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from absl import logging

from jaxreward.errors import LINE, UserError, nearest
from jaxreward.flow import log_prob, rollout, steppers
from jaxreward.flow.sampler import Sampler, Share, TakeStep
from jaxreward.methods import asks, prepare_of
from jaxreward.types import Array, ArrayLike, Policy, Trajectory

Rows = dict[str, Any]
_LOGGED = 200  # characters of a line of names
BOOLS = ("mask", "group_mask", "real", "group_real")  # offers of this type
# "sealed": from the rollout, reproduced bit for bit by the update at the cost of
# one more forward pass. "stored": from the rollout, but recomputed in the first
# optimizer step, so that its ratios are exactly 1. "recomputed": by a forward pass
# before the first optimizer step.
OLD_LOG_PROBS = ("sealed", "stored", "recomputed")
# "fresh": drawn for each time. "first": that which the sample began as. "path": the
# sampler's own latents before some of its steps, in the place of noised samples.
NOISES = ("fresh", "first", "path")


@flax.struct.dataclass
class Credit:
  """The credit that a group's scores are turned into.

  Attributes:
    signal: float32 [P, G], the composed reward.
    advantage: float32 [P, G], or [P, G, T] with one per denoising step; NaN
      where a sample does not count.
    mask: bool [P, G].
    columns: name -> float32 [P, G], further outputs of the advantage.

  Where rewards stay apart, signal and advantage are {name: array}; a feed makes
  rows for one of them at a time.
  """

  signal: Any
  advantage: Any
  mask: ArrayLike
  columns: Mapping[str, ArrayLike] = flax.struct.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Drift:
  """A move of the sampler along the gradient of a player's values.

  Attributes:
    player: that gives "value".
    scale: of the gradient in the latents, added after the step.
    first: the first step, as a share of all.
    is_unit: whether gradients have length 1 per element, as a root mean square.
  """

  player: str
  scale: float
  first: float
  is_unit: bool = False

  def at(self, gradient: Array, i: Array, steps: int) -> Array:
    """What step i of T adds to the latents."""
    if self.is_unit:
      axes = tuple(range(1, gradient.ndim))
      size = jnp.sqrt(jnp.mean(jnp.square(gradient), axes, keepdims=True))
      gradient = gradient / jnp.maximum(size, 1e-12)
    return jnp.where(i >= round(self.first * steps), self.scale, 0) * gradient


@dataclasses.dataclass(frozen=True)
class Plan:
  """Static geometry of a run: layout of the samples and trained steps.

  Attributes:
    table: constants of the sampler's T steps.
    trained: indices of the steps, or of the times per sample, whose loss is
      taken each iteration; K of them.
    layout: of the samples, as the rollout draws them.
    rows: layout of the rows a loss reads: samples, pairs or groups.
    prompts: P.
    group: G.
    updates: optimizer steps per iteration.
    guidance_scale: of the rollout, and of a loss on its steps.
    feed: makes the objective's rows.
    take_step: runs a step of the rollout; None for plain operations.
    split: what is split over optimizer steps, "times" (each sees every row)
      or "samples" (each sees every time).
    replay: recomputes a stored step; None for plain operations.
    shift: of the times at which finished samples are noised again.
    t_min: the smallest of these times.
    density: uniform draws -> these times before the shift.
    origin: of the samples: "rollout", or "dataset" or "preferences", files.
    pairs: of each group, for the feed "pairs".
    last_steps: steps that a loss may differentiate, for the feed "tail".
    depth: (key, last_steps) -> how many of them are differentiated.
    old_log_prob: where log-probabilities of stored steps come from, one of
      `OLD_LOG_PROBS`.
    is_fresh: whether the parameters that drew the samples are those of the
      first optimizer step.
    move: iteration -> first step of a window that moves; None for one that
      stays. The table then has noise in every step.
    outside: constants of the steps without noise, where the window moves.
    end: the step before which a window that moves ends.
    counted: which of the trained steps lie in the window, bool [K]; None for all.
    among: indices of the steps among which each sample draws K of its own, in the
      place of `trained`; empty where all samples train the same.
    share: which samples of a group share their first noise.
    is_aside: whether each step's noise leaves a chain without noise, see `Sampler`.
    parts_at_window: whether they diverge where a moving window begins.
    drift: of a player's values, which the sampler climbs; None for none.
    start: (policy, prompts, decoder) -> clean latents [P, ...] that samples
      start from, or None for noise alone.
    rounds: most chains of the policy's own before those of the group.
    history: layout of these chains, a row for each prompt.
    whole: steps of a chain from noise to the sample that a group then starts from;
      None for none.
    noise: of samples that are noised again, one of `NOISES`.
    gap: between the two times of a row of the feed "predicted".
    is_controlled: whether contexts of differentiated rewards also have rows for
      prompts with words of praise, and of blame, in front.
    real: so many members of each group, the last, are reference images.
    render: (keys [B], prompts) -> reference images [B, H, W, C], where there are
      any.
  """

  table: steppers.StepTable
  trained: tuple[int, ...] | Array
  layout: rollout.Layout
  rows: rollout.Layout
  prompts: int
  group: int
  updates: int
  guidance_scale: float
  feed: Feed
  take_step: TakeStep | None = None
  split: str = "times"
  replay: log_prob.Replay | None = None
  shift: float = 1.0
  t_min: float = 0.02
  density: Callable[[Array], Array] = lambda u: u
  origin: str = "rollout"
  pairs: int = 1
  last_steps: int = 1
  depth: Callable[[Any, int], Any] = lambda key, most: most
  old_log_prob: str = "sealed"
  is_fresh: bool = True
  move: Callable[[Array], Array] | None = None
  outside: steppers.StepTable | None = None
  end: int = 0
  counted: Array | None = None
  among: tuple[int, ...] = ()
  share: Share | None = None
  is_aside: bool = False
  parts_at_window: bool = False
  drift: Drift | None = None
  start: Callable[..., Array | None] = lambda *_: None
  rounds: int = 0
  history: rollout.Layout | None = None
  whole: steppers.StepTable | None = None
  noise: str = "fresh"
  gap: float = 0.1
  is_controlled: bool = False
  real: int = 0
  render: Callable[..., Array] | None = None

  @property
  def is_on_policy(self) -> bool:
    """Whether the parameters that drew the samples take the only step."""
    return self.updates == 1 and self.is_fresh

  def sampler(
    self,
    policy: Policy,
    layout: rollout.Layout,
    gradient: Callable[..., Array] | None = None,
  ) -> Sampler:
    """The sampler of an iteration whose plan this is (`at`).

    Args:
      policy: takes the parameters that draw.
      layout: of the plan, spread over the mesh in use.
      gradient: of the drift's values: (x, t, rows of the prompts) -> like x.
    """
    push, drift = None, self.drift
    if gradient is not None and drift is not None:
      push = lambda x, step, i, index: drift.at(
        gradient(x, step.t, index), i, len(self.table.t)
      )
    return Sampler(
      policy, self.table, layout, self.guidance_scale,
      is_recorded=self.feed.keeps == "steps",
      is_sealed=self.old_log_prob == "sealed" and self.feed.needs_noise,
      take_step=self.take_step,
      share=self.share, push=push, is_aside=self.is_aside,
    )  # fmt: skip

  def at(self, iteration: Array, levels: Array | None = None) -> Plan:
    """The plan of one iteration: its constants may be traced arrays.

    Args:
      iteration: int32.
      levels: of noise, [T], in the place of the table's; for windows that stay.
    """
    if levels is not None:
      table = steppers.with_levels(self.table, levels)
      return dataclasses.replace(self, table=table)
    if self.move is None:
      return self
    size, start = len(self.trained), self.move(iteration)
    steps = jnp.arange(len(self.table.t))
    inside = (steps >= start) & (steps < jnp.minimum(start + size, self.end))
    table = jax.tree.map(
      lambda noisy, plain: jnp.where(inside, noisy, plain),
      self.table, self.outside,
    )  # fmt: skip
    share = self.share
    if share is not None and self.parts_at_window:
      share = dataclasses.replace(share, steps=(start,))
    trained = start + jnp.arange(size)
    return dataclasses.replace(
      self, table=table, trained=jnp.minimum(trained, len(steps) - 1),
      counted=trained < self.end, move=None, share=share,
    )  # fmt: skip


# (trajectory, credit, prompt ids [P], plan, scalar key) -> rows [K, R, ...]; the
# entry "step", if there is one, holds scalars per time, [K], or rows, [K, R]
Make = Callable[[Trajectory, Credit, ArrayLike, Plan, Any], Rows]


@dataclasses.dataclass(frozen=True)
class Feed:
  """Makes rows from a rollout, and offers arrays of them by name.

  Attributes:
    make: trajectory and credit -> rows with leaves [K, R, ...].
    offers: name -> function that computes the array of a micro-batch.
    size: plan -> samples that a row holds: 1, or more where rows are pairs or
      groups.
    per_group: plan -> rows of each group.
    keeps: latents that the rollout stores: "steps" all, "samples" the last,
      "tail" those at which the differentiated steps begin, and the last.
    needs_noise: whether it reads steps of a sampler with noise.
    is_per_step: whether its rows take credit [P, G, T].
    latents: names of offers that have the shape of latents; the others have one
      number per row.
    stacks: names of offers that hold several latents of each row, [M, N, ...].
    scalars: names of offers that are one number for the whole micro-batch.
    is_grouped: whether its arrays are [R, G, ...] instead of [M, ...].
    scoring: names of offers that differentiate the rewards.
    needs_scores: whether one of them is read, see `narrowed`.
    follows: names of offers for which samples are drawn by a policy that follows
      the trained one.
    at_points: name of a point -> name of a network -> what offers its velocity
      there.
  """

  make: Make
  offers: Mapping[str, Callable[[Any], Array]]
  size: Callable[[Plan], int] = lambda plan: 1
  per_group: Callable[[Plan], int] = lambda plan: plan.group
  keeps: str = "samples"
  needs_noise: bool = False
  is_per_step: bool = False
  latents: tuple[str, ...] = ()
  stacks: tuple[str, ...] = ()
  scalars: tuple[str, ...] = ()
  is_grouped: bool = False
  scoring: tuple[str, ...] = ()
  needs_scores: bool = False
  follows: tuple[str, ...] = ()
  at_points: Mapping[str, Callable[[str], Callable[[Any], Array]]] = (
    dataclasses.field(default_factory=dict)
  )


def with_references(feed: Feed, names: Iterable[str]) -> Feed:
  """The feed with arrays of further networks, named after them.

  They are "v_NAME", "NAME_mean", "v_NAME_chosen" and "v_NAME_rejected",
  "group_v_NAME" or "v_NAME_POINT", by what the feed offers of the reference; "tail"
  has none.
  """
  names = tuple(names)
  more: dict[str, Callable[[Any], Array]] = {}
  velocity = lambda role, *x: lambda arrays: arrays.velocity(role, *x)
  mean = lambda role: lambda arrays: arrays.step(role)[1]
  for name in names:
    if "v_reference" in feed.offers:
      more[f"v_{name}"] = velocity(name)
    if "reference_mean" in feed.offers:
      more[f"{name}_mean"] = mean(name)
    if "v_ref_chosen" in feed.offers:
      for side in ("chosen", "rejected"):
        more[f"v_{name}_{side}"] = velocity(name, f"x_{side}")
    if feed.is_grouped:
      more[f"group_v_{name}"] = group_velocity(name)
    for at, offer in feed.at_points.items():
      more[f"v_{name}_{at}"] = offer(name)
  return dataclasses.replace(
    feed, offers={**more, **feed.offers}, latents=(*feed.latents, *more)
  )


def narrowed(feed: Feed, methods: Iterable[Callable[..., Any]]) -> Feed:
  """The feed for the methods that will read it: whether they need scores."""
  names = {name for fn in methods for name in reads(fn)}
  return dataclasses.replace(
    feed, needs_scores=not names.isdisjoint(feed.scoring)
  )


def group_velocity(
  role: str, *, is_empty: bool = False
) -> Callable[[Any], Array]:
  """Velocities of R groups, [R, G, ...], from one pass over R G rows.

  Args:
    role: of the network.
    is_empty: whether they are those of the empty prompt.
  """

  def compute(arrays):
    x, t, index = (arrays.rows[k] for k in ("x_t", "t", "prompt_index"))
    flat = lambda y: y.reshape(-1, *y.shape[2:])
    network = arrays.network(role)
    run = network.empty if is_empty else network.velocity
    return run(flat(x), flat(t), flat(index)).reshape(x.shape)

  key = (role, "empty") if is_empty else role
  return lambda arrays: arrays.once(key, lambda: compute(arrays))


def shapes(
  fn: Callable[..., Any], feed: Feed, maps: Iterable[str] = ()
) -> dict[str, Any]:
  """Shapes of the arrays a method reads, with the right ranks and size 2.

  Args:
    fn: the method.
    feed: that makes its rows.
    maps: names of columns with two axes more.
  """
  prepare = prepare_of(fn)
  prepared = prepare.gives if prepare else ()
  lead = (2, 2) if feed.is_grouped else (2,)

  def shape(name: str):
    dims = (*lead, 1, 1, 1) if name in feed.latents else lead
    dims = (*lead, 2, 1, 1, 1) if name in feed.stacks else dims
    dims = () if name in feed.scalars else dims
    dims = (*lead, 2, 2) if name in maps else dims
    dtype = bool if name in BOOLS else jnp.float32
    return jax.ShapeDtypeStruct(dims, dtype)

  return {name: shape(name) for name in (*asks(fn), *prepared)}


def reads(fn: Callable[..., Any]) -> tuple[str, ...]:
  """Names that a feed must offer: arguments that are not prepared."""
  prepare = prepare_of(fn)
  if prepare is None:
    return asks(fn)
  names = [name for name in asks(fn) if name not in prepare.gives]
  return tuple(dict.fromkeys([*names, *asks(prepare.read)]))


def match(
  fn: Callable[..., Any],
  feeds: Mapping[str, Feed],
  field: str,
  also: Iterable[str] = (),
) -> str:
  """The name of the first feed that offers every array a method reads.

  Args:
    fn: an objective or a regularizer.
    feeds: by name.
    field: of the config that names the method, for the error.
    also: names that are offered whatever the feed, for rows with "x_t" and "t".

  Raises:
    UserError: names the missing array and the available ones.
  """
  names = [name for name in reads(fn) if name not in also]
  is_noisy = len(names) < len(reads(fn))
  for name, feed in feeds.items():
    if is_noisy and not {"x_t", "t"} <= set(feed.offers):
      continue
    if set(names) <= set(feed.offers):
      return name
  raise UserError(_missing(f"config.{field}: ", names, feeds))


def _missing(
  prefix: str, names: Iterable[str], feeds: Mapping[str, Feed]
) -> str:
  """The error line: the missing array, and what the nearest feed offers."""
  names = list(names)
  lacks = {k: [n for n in names if n not in f.offers] for k, f in feeds.items()}
  best = min(lacks, key=lambda k: len(lacks[k]))
  unknown = lacks[best][0]
  offers = feeds[best].offers
  return _with_offers(
    f'{prefix}no feed offers "{unknown}"{nearest(unknown, offers)} beside the'
    " other arguments",
    f'"{best}"', offers,
  )  # fmt: skip


def _with_offers(text: str, feed: str, offers: Iterable[str]) -> str:
  """The text and the names a feed offers: in it, or logged before it if long."""
  names = ", ".join(sorted(offers))
  if len(line := f"{text}; {feed} has {names}") <= LINE:
    return line
  for part in textwrap.wrap(f"{feed} has {names}", _LOGGED):
    logging.info("%s", part)
  return f"{text}; what {feed} has is listed above"


def require(
  fn: Callable[..., Any],
  name: str,
  feed: Feed,
  field: str,
  also: Iterable[str] = (),
) -> None:
  """Refuses a regularizer that does not fit the feed of the objective.

  Raises:
    UserError: names the missing array.
  """
  for argument in reads(fn):
    if argument not in feed.offers and argument not in also:
      raise UserError(
        _with_offers(
          f'config.{field}: it reads "{argument}", which the feed "{name}" of'
          " config.objective.name does not offer",
          f'"{name}"',
          feed.offers,
        )
      )


def call(fn: Callable[..., Any], arrays: Callable[[str], Array]) -> Any:
  """Calls a method with the arrays it reads."""
  return fn(**{name: arrays(name) for name in asks(fn)})


def cut(rows: Rows, plan: Plan) -> Rows:
  """Leaves [K, R, ...] -> micro-batches [U, N, M, ...]; scalars of "step" -> [U, N].

  Row r of R lies in chunk r mod C, so that a sharded axis stays sharded.
  """
  rows = dict(rows)
  steps = rows.pop("step", None)
  micros = jax.tree.map(lambda x: _cut(x, plan), rows)
  if steps is not None:
    parts = lambda x: (_cut_steps if x.ndim == 1 else _cut)(x, plan)
    micros["step"] = jax.tree.map(parts, steps)
    count = jax.tree.leaves(micros["step"])[0].shape[:2]
    first = jnp.arange(plan.updates)[:, None] == 0
    micros["is_first"] = jnp.broadcast_to(first, count)
  return micros


def _cut(x: Array, plan: Plan) -> Array:
  chunks, updates = plan.rows.chunks, plan.updates
  times = x.shape[0]
  x = x.reshape(times, -1, chunks, *x.shape[2:]).swapaxes(1, 2)
  if plan.split == "samples":
    x = x.reshape(times, -1, updates, *x.shape[2:])
    x = jnp.moveaxis(x, 2, 0).reshape(times, chunks, *x.shape[3:])
  return x.reshape(updates, times * chunks // updates, *x.shape[2:])


def _cut_steps(x: Array, plan: Plan) -> Array:
  chunks, updates = plan.rows.chunks, plan.updates
  if plan.split == "samples":
    return jnp.tile(jnp.repeat(x, chunks // updates), (updates, 1))
  return jnp.repeat(x, chunks).reshape(updates, -1)
