"""Where samples start: from noise, or from a partly noised image."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import rng
from jaxreward.errors import UserError, require_counts
from jaxreward.setup.policies import make_policy
from jaxreward.setup.task import make_task
from jaxreward.types import Array, Params, Policy, PromptBatch

FIELDS = ("source", "target")
REFERENCE = "reference"
MOST_ROUNDS = 100
OWN = "own"


@dataclasses.dataclass(frozen=True)
class Start:
  """A start of the sampler.

  Attributes:
    of: field of the prompts that holds the image, "reference" for what the task
      renders where none is given, or "own" for what the policy draws; "" starts from
      noise.
    strength: share of the steps that are run.
    rounds: of the policy's own chains that may come before.
  """

  of: str = ""
  strength: float = 1.0
  rounds: int = 0

  def skipped(self, steps: int) -> int:
    """Skipped steps of the schedule; at least one is run."""
    return steps - max(1, round(self.strength * steps))


def noise() -> Start:
  """All steps, from noise alone."""
  return Start()


def picture(
  *, of: str = "source", strength: float = 0.6, rounds: int = 0
) -> Start:
  """The last steps only, from a noised image of the prompt.

  SDEdit (Meng et al. 2022, https://arxiv.org/abs/2108.01073): of T steps the last
  round(strength T) are taken, from (1 - t) x + t noise at their first time t.

  Args:
    of: "source", the image to edit, or "target", the exact answer. Samples of
      a prompt without one are not finite, and masked.
    strength: above 0, below 1.
    rounds: most chains of the policy itself from there, one after another, that
      come before those of the group, which then share its last image: their number is
      drawn per prompt from 0 on, up to 100. Of `rollout` alone.

  Raises:
    UserError: another field, or a strength or rounds out of their range.
  """
  require_counts("start.", least=0, most=MOST_ROUNDS, rounds=rounds)
  if of not in FIELDS:
    raise UserError(f'start.of="{of}": expected {" or ".join(FIELDS)}')
  if not 0 < strength < 1:
    raise UserError(
      f"start.strength={strength:g}: expected a share of the steps above 0 and"
      ' below 1; for all of them use start.name="noise"'
    )
  return Start(of, strength, rounds)


def reference(*, strength: float = 0.6, rounds: int = 0) -> Start:
  """The last steps only, from a noised reference image of the prompt.

  That is its "target", or a picture that the task renders, the same whenever the
  prompt comes. InstructVideo (https://arxiv.org/abs/2312.12490) fine-tunes by such
  partial chains: 12 of 20 steps.

  Args:
    strength: above 0, below 1.
    rounds: see `picture`.

  Raises:
    UserError: a strength or rounds out of their range.
  """
  return dataclasses.replace(
    picture(strength=strength, rounds=rounds), of=REFERENCE
  )


def own(*, strength: float = 0.6) -> Start:
  """The last steps again, from a noised sample of the policy itself.

  Per prompt and iteration one sample is drawn from noise by all steps, and the group
  explores around it. FlowBoost (https://arxiv.org/abs/2601.18005) perturbs and repairs
  what its flow has drawn; the perturbation is noise here and the repair the chain back.
  Of `rollout` alone.

  Args:
    strength: above 0, below 1.

  Raises:
    UserError: a strength out of its range.
  """
  return dataclasses.replace(picture(strength=strength), of=OWN)


REGISTRY = {
  "noise": noise,
  "picture": picture,
  "reference": reference,
  "own": own,
}


def make_start(config: ConfigDict, section: str) -> Start:
  """What `config.<section>.start` names; noise for sections without it.

  Raises:
    UserError: an unknown start or option, or prompts without images.
  """
  if "start" not in config[section]:
    return Start()
  make = config_lib.bind(
    config[section].start, REGISTRY, field=f"{section}.start"
  )
  try:
    start = make()
  except UserError as error:
    raise UserError(f"config.{section}.{error}") from error
  if start.rounds and section != "rollout":
    raise UserError(
      f"config.{section}.start.rounds={start.rounds}: only config.rollout.start"
      " has rounds of the policy's own before it; leave it out"
    )
  if start.of == OWN and section != "rollout":
    raise UserError(
      f'config.{section}.start.name="own": only config.rollout.start explores around'
      ' samples of its own; use start.name="noise"'
    )
  if start.of in FIELDS and not make_policy(config).takes_source:
    raise UserError(
      f'config.{section}.start.name="picture": prompts of the policy'
      f' "{config.model.name}" hold no pictures; take one that edits, or'
      ' start.name="noise"'
    )
  return start


def start_latents(
  config: ConfigDict,
  section: str,
  policy: Policy,
  prompts: PromptBatch,
  decoder: Params | None = None,
) -> Array | None:
  """Clean latents [P, ...] that samples start from; None where they are to be drawn."""
  of = make_start(config, section).of
  if of in ("", OWN):
    return None
  images = getattr(prompts, of, None)
  if of == REFERENCE:
    images = _references(config, prompts)
  if images is None:
    raise UserError(
      f'config.{section}.start.of="{of}": no prompt of config.data.source='
      f"{config.data.source} has one"
    )
  return to_latents(policy, jnp.asarray(images), decoder)


def _references(config: ConfigDict, prompts: PromptBatch) -> Array | None:
  """Targets of the prompts, or renders of their task; None without either."""
  if prompts.target is not None:
    return jnp.asarray(prompts.target)
  render = make_task(config).render
  if render is None:
    return None
  ids = jnp.asarray(prompts.ids)
  keys = rng.sample_keys(
    rng.stream_key(config.seed, "start"), ids, jnp.zeros_like(ids, jnp.int32)
  )
  return render(keys, prompts.plain)


def to_latents(
  policy: Policy, images: Array, decoder: Params | None = None
) -> Array:
  """Latents of images [B, H, W, 3] in [0, 1]; of pixels, in [-1, 1]."""
  if policy.to_latents is None:
    return images * 2 - 1
  return policy.to_latents(images, decoder).astype(jnp.float32)
