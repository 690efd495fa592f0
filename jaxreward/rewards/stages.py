"""How far a video has come through the stages of a demonstration."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, require_counts, require_positive
from jaxreward.models.vision import encoders
from jaxreward.models.vision.encoders import Encoder
from jaxreward.rewards import references as files
from jaxreward.rewards import sets
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

Features = Float[ArrayLike, "N E"]


def segments(
  features: Features, known: Bool[ArrayLike, "N"], stages: int
) -> Bool[Array, "S N"]:
  """Which frames are of which stage: the cuts of least variance.

  The sum over the stages of the mean over features of their variance within the
  stage, over all ways to cut the known frames into `stages` runs of 1 frame or more.

  Args:
    features: of the frames of a demonstration, in order.
    known: frames that exist; they stand first.
    stages: S.
  """
  x, there = jnp.asarray(features, jnp.float32), jnp.asarray(known)
  place, count = jnp.arange(len(x)), there.sum()
  cuts = np.array(
    [*itertools.combinations(range(1, len(x)), stages - 1)], np.int32
  ).reshape(-1, stages - 1)
  first = np.pad(cuts, ((0, 0), (1, 0)))
  last = jnp.concatenate([cuts, jnp.full((len(cuts), 1), count)], 1)
  member = (place >= first[..., None]) & (place < last[..., None])
  weight = member.astype(jnp.float32)  # [C, S, N]
  number = jnp.maximum(weight.sum(-1), 1)[..., None]
  mean = jnp.einsum("csn,ne->cse", weight, x, precision="highest") / number
  square = jnp.einsum(
    "csn,cne->cse", weight.reshape(len(cuts), stages, -1),
    jnp.broadcast_to(jnp.square(x), (len(cuts), *x.shape)), precision="highest",
  ) / number  # fmt: skip
  cost = (square - jnp.square(mean)).mean(-1).sum(-1)
  is_whole = member.any(-1).all(-1)
  return member[jnp.argmin(jnp.where(is_whole, cost, jnp.inf))]


def _moments(x: Array, member: Array) -> tuple[Array, Array]:
  weight = member.astype(jnp.float32)
  weight = weight / jnp.maximum(weight.sum(-1, keepdims=True), 1)
  mean = weight @ x
  spread = jnp.square(x - mean[:, None])
  return mean, jnp.sqrt(jnp.einsum("sn,sne->se", weight, spread))


def stage_scores(
  rows: Float[ArrayLike, "*B E"],
  features: Features,
  known: Bool[ArrayLike, "N"],
  *,
  stages: int = 3,
  top: int = 32,
  alpha: float = 5.0,
  floor: float = 0.1,
) -> Float[Array, "*B"]:
  """sum_g 2^(g - 1) R_g / sum_g 2^(g - 1), g = 2 ... S: progress, in [0, 1].

  R_g is the mean over the `top` features of largest alpha |m+ - m-| - (s+ + s-) of
  exp(-z^2 / 2), z = (x - m+) / sqrt(s+^2 + (floor s)^2): m and s are means and
  deviations of a feature within the stage (+), outside of it (-) and over the whole
  demonstration.

  Args:
    rows: x, features of what is scored.
    features: of the frames of a demonstration.
    known: frames that exist; they stand first.
    stages: S.
    top: features that count in each stage.
    alpha: weight of means that differ, against deviations.
    floor: least deviation, in those of the whole demonstration.
  """
  x, there = jnp.asarray(features, jnp.float32), jnp.asarray(known)
  member = segments(x, there, stages)
  mean, std = _moments(x, member)
  outside, its_std = _moments(x, there & ~member)
  _, whole = _moments(x, there[None])
  merit = alpha * jnp.abs(mean - outside) - (std + its_std)
  index = jax.lax.top_k(merit, min(top, x.shape[-1]))[1][1:]
  take = lambda a: jnp.take_along_axis(a[1:], index, -1)
  least = floor * take(jnp.broadcast_to(whole, mean.shape))
  width = jnp.sqrt(jnp.square(take(std)) + jnp.square(least) + 1e-12)
  z = (jnp.asarray(rows, jnp.float32)[..., index] - take(mean)) / width
  scores = jnp.exp(-jnp.square(z) / 2).mean(-1)  # [*B, S - 1]
  weight = 2.0 ** np.arange(1, stages)
  return scores @ (weight / weight.sum())


def load_stages(
  weights: str = "",
  references: str = "",
  *,
  frames: int = 8,
  image_size: int = 512,
  size: str = "",
  dtype: str = "float32",
  microbatch: int = 64,
) -> Loaded:
  """What features are taken with, and the demonstrations.

  Args:
    weights: an image tower, as of `set_vendi`.
    references: folder of the demonstrations; its lines name "frames", the files of
      a video's frames in order; see `references`. Empty for blends of the prompts'
      sources and targets.
    frames: of a demonstration, at most.
    image_size: length in pixels of the shorter side of frames of a folder.
    size: see `encoders.load`.
    dtype: see `encoders.load`.
    microbatch: see `encoders.load`.
  """
  require_counts("", least=2, frames=frames)
  tower = sets.load_set(weights, size=size, dtype=dtype, microbatch=microbatch)
  stills = files.images_of(references, "frames", image_size, frames)
  static = {**tower.static, "frames": frames}
  return dataclasses.replace(tower, static=static, prepare=stills)


def _blends(prompts: PromptBatch, count: int) -> tuple[Array, Array]:
  """From the source to the target in `count` frames [P, N, H, W, 3]."""
  before, has_source = files.resolve(prompts, "source", None, None)
  after, has_target = files.resolve(prompts, "target", None, None)
  share = jnp.linspace(0.0, 1.0, count)[:, None, None, None]
  known = jnp.asarray(has_source & has_target)
  known = jnp.broadcast_to(known, (len(known), count))
  return (1 - share) * before + share * after, known


@declare(
  takes_frames=True, loads=load_stages, applies=sets.has_target_and_source
)
def stage_progress(
  images: Float[ArrayLike, "P G *F H W 3"],
  prompts: PromptBatch,
  *,
  encoder: Encoder,
  params: Params,
  frames: int,
  reference: Float[ArrayLike, "P N h w 3"] | None = None,
  known: Bool[ArrayLike, "P N"] | None = None,
  stages: int = 3,
  top: int = 32,
  alpha: float = 5.0,
  floor: float = 0.1,
) -> dict[str, Float[Array, "P G"]]:
  """Mean over frames of `stage_scores` by the prompt's demonstration.

  Sermanet et al. 2016, https://arxiv.org/abs/1612.06699, of robots: stages of a few
  demonstrations, the features that tell each apart, and more for later stages. No
  code of the authors was read: the exact cuts (theirs are recursive), the form of R_g,
  its floor and the weights are unverified; a prompt has one demonstration.

  Args:
    images: in [0, 1], or frames of clips; one with a value that is not finite scores
      NaN.
    prompts: P prompts.
    encoder: an image tower.
    params: of the tower.
    frames: of a demonstration.
    reference: demonstrations of a folder.
    known: frames that exist; a prompt with fewer than `stages` scores NaN.
    stages: of a demonstration, see `segments`; the first earns nothing.
    top: see `stage_scores`.
    alpha: see there.
    floor: see there.

  Raises:
    UserError: options out of range.
  """
  require_positive("", alpha=alpha, floor=floor)
  require_counts("", top=top)
  if not 2 <= stages <= min(frames, 4):
    raise UserError(
      f"stages={stages}: from 2 to {min(frames, 4)}, and no more than frames of a"
      " demonstration"
    )
  if reference is None or known is None:
    reference, known = _blends(prompts, frames)
  clips = jnp.asarray(images)
  clips = clips if clips.ndim == 6 else clips[:, :, None]
  features, usable = encoders.image_features(encoder, params, clips)
  usable = usable.all(-1)
  features = jnp.where(usable[..., None, None], features, 0.0)
  stills, _ = encoders.image_features(encoder, params, reference)
  score = jax.vmap(
    lambda rows, demo, there: stage_scores(
      rows, demo, there, stages=stages, top=top, alpha=alpha, floor=floor
    )
  )(features, stills, jnp.asarray(known)).mean(-1)
  is_known = jnp.asarray(known).sum(-1) >= stages
  return {
    "stage_progress": jnp.where(usable & is_known[:, None], score, jnp.nan)
  }
