"""A fast student of a slow judge, whose labels arrive while the policy learns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError
from jaxreward.numerics import Mean
from jaxreward.players.contract import JUDGED_ROWS, Player
from jaxreward.players.critics import REPLICATED, logits_of
from jaxreward.types import ArrayLike

LOSSES = ("pairs", "labels")
Values = Float[ArrayLike, "B"]


def student(
  *, width: int = 16, depth: int = 3, hidden: int = 128, loss: str = "pairs"
) -> Player:
  """Its score of an image and its prompt is the reward, learned of a judge (ONI).

  With "pairs" it orders a sample and the next of its group as the judge does,
  softplus(-(l - l')) of the better less the worse; with "labels" it tells the judge's
  scores above 1/2 from others by their cross entropy, and its score is 1 or 0.
  Zheng et al. 2024, https://arxiv.org/abs/2410.23022, read in the authors' code, where a
  language model labels what an agent in NetHack is told; the small network of images is
  an adaptation.

  Args:
    width: see `models.vision.critic`.
    depth: the same.
    hidden: the same.
    loss: "pairs" or "labels".

  Raises:
    UserError: another loss, or sizes of which there is no network.
  """
  if loss not in LOSSES:
    raise UserError(f'loss="{loss}": it is one of {", ".join(LOSSES)}')
  init, logit = logits_of(width, depth, hidden)

  is_pairs = loss == "pairs"
  score = lambda arrays: (
    arrays("logit") if is_pairs else 1.0 * (arrays("logit") > 0)
  )
  offers = {"logit": logit("image"), "score": score}
  if is_pairs:
    offers["rival_logit"] = logit("rival_image")
  single = ("image", "signal", "mask", "prompt_index")
  return Player(
    init, ranked if is_pairs else above_half, offers=offers,
    reads=JUDGED_ROWS if is_pairs else single, score="score", judged=True,
    rules=REPLICATED,
  )  # fmt: skip


def ranked(
  logit: Values,
  rival_logit: Values,
  signal: Values,
  rival_signal: Values,
  mask: Bool[ArrayLike, "B"],
) -> tuple[Mean, dict[str, Mean]]:
  """-log sigmoid of the better one's logit less the worse one's; ties left out."""
  gap = jnp.where(mask, jnp.asarray(signal) - rival_signal, 0.0)
  margin = jnp.sign(gap) * (jnp.asarray(logit) - rival_logit)
  counts = jnp.asarray(mask) & (gap != 0)
  metrics = {"accuracy": Mean.of(margin > 0, counts)}
  value = Mean.of(jax.nn.softplus(-margin), counts)
  return value, jax.lax.stop_gradient(metrics)


def above_half(
  logit: Values, signal: Values, mask: Bool[ArrayLike, "B"]
) -> tuple[Mean, dict[str, Mean]]:
  """Cross entropy of a label above 1/2."""
  is_good = jnp.where(mask, signal, 0.0) > 0.5
  margin = jnp.where(is_good, logit, -jnp.asarray(logit))
  metrics = {"accuracy": Mean.of(margin > 0, mask)}
  value = Mean.of(jax.nn.softplus(-margin), mask)
  return value, jax.lax.stop_gradient(metrics)
