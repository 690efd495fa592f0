"""Verdicts that a judge writes after a thought, and their rewards.

A rule is a function of `Verdicts` that gives each of G answers to R questions a
reward [R, G]; answers of one question are then compared (GRPO).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError, require_not_negative
from jaxreward.models.vlm.decode import Answers
from jaxreward.types import Array, ArrayLike


@flax.struct.dataclass
class Verdicts:
  """Properties of G answers to each of R questions.

  Attributes:
    is_right: bool [R, G], the word after the thought is the exact answer.
    is_formed: bool [R, G], one thought, one of the verdicts, and the end.
    listened: float [R, G], probability of the exact answer for a listener, who
      reads the thought and not its verdict; 0 without a thought.
    alike: float [R, G], similarity of the thought to the exact one: F1 of their
      words; 0 without a thought.
  """

  is_right: Array
  is_formed: Array
  listened: Array
  alike: Array


def overlap(
  first: Int[ArrayLike, "*#B T"],
  first_mask: Bool[ArrayLike, "*#B T"],
  second: Int[ArrayLike, "*#B S"],
  second_mask: Bool[ArrayLike, "*#B S"],
  vocabulary: int,
) -> Float[Array, "*B"]:
  """F1 of the tokens of two texts, each counted with its multiplicity."""

  def counts(ids: ArrayLike, mask: ArrayLike) -> Array:
    each = jax.nn.one_hot(ids, vocabulary) * jnp.asarray(mask)[..., None]
    return each.sum(-2)

  both = counts(first, first_mask), counts(second, second_mask)
  total = both[0].sum(-1) + both[1].sum(-1)
  return 2 * jnp.minimum(*both).sum(-1) / jnp.maximum(total, 1)


def read(
  answers: Answers,
  truth: Int[ArrayLike, "R"],
  *,
  close: int,
  verdicts: Sequence[int],
  stop: int,
  heard: Float[Array, "R G T V"],
  exact: Int[ArrayLike, "R S"],
  exact_mask: Bool[ArrayLike, "R S"],
) -> Verdicts:
  """Reads the verdicts of answers that begin within a thought.

  Args:
    answers: as drawn.
    truth: the right verdict of each question, a token.
    close: the token that ends a thought.
    verdicts: tokens that are verdicts.
    stop: the token that ends an answer.
    heard: the listener's logits of every token.
    exact: the exact thought of each question.
    exact_mask: False for padding.
  """
  tokens, mask = answers.tokens, answers.mask
  closes = (tokens == close) & mask
  after = closes.argmax(-1)[..., None] + jnp.arange(1, 3)
  inside = jnp.minimum(after, tokens.shape[-1] - 1)
  take = lambda x: jnp.take_along_axis(x, inside, -1) & (after == inside)
  is_verdict = jnp.isin(tokens, jnp.asarray(verdicts)) & mask
  is_stop = (tokens == stop) & mask
  right = (tokens == jnp.asarray(truth)[:, None, None]) & is_verdict
  has_thought = closes.any(-1)
  formed = (closes.sum(-1) == 1) & take(is_verdict)[..., 0]
  at = jnp.take_along_axis(heard, inside[..., :1, None], 2)[..., 0, :]
  chances = jax.nn.softmax(at[..., jnp.asarray(verdicts)], -1)
  is_truth = jnp.asarray(truth)[:, None] == jnp.asarray(verdicts)
  share = (chances * is_truth[:, None]).sum(-1)
  has_room = has_thought & (after == inside)[..., 0]
  is_thought = mask & (closes.cumsum(-1) == 0) & has_thought[..., None]
  each = lambda x: jnp.asarray(x)[:, None]
  alike = overlap(
    tokens, is_thought, each(exact), each(exact_mask), heard.shape[-1]
  )
  return Verdicts(
    has_thought & take(right)[..., 0],
    formed & take(is_stop)[..., 1],
    jnp.where(has_room, share, 0.0),
    alike,
  )


def signed(written: Verdicts) -> Float[Array, "R G"]:
  """1 for the right verdict, and -1 for a wrong one or none (RM-R1).

  Chen et al. 2025, https://arxiv.org/abs/2505.02387.
  """
  return jnp.where(written.is_right, 1.0, -1.0)


def added(written: Verdicts) -> Float[Array, "R G"]:
  """1 for the right verdict and 1 for the form (UnifiedReward-Think).

  Wang et al. 2025, https://arxiv.org/abs/2505.03318.
  """
  return written.is_right + 1.0 * written.is_formed


def gated(written: Verdicts) -> Float[Array, "R G"]:
  """1 for the right verdict in the right form, else 0 (branch and rethink).

  Jiao et al. 2025, https://arxiv.org/abs/2510.23596; `unverified`: whether a
  broken form scores below 0.
  """
  return 1.0 * (written.is_right & written.is_formed)


def listened(written: Verdicts, *, weight: float = 0.5) -> Float[Array, "R G"]:
  """`added`, and how far the thought alone convinces a frozen listener.

  Gambashidze et al. 2025, https://arxiv.org/abs/2506.22832; `unverified`: the
  weight, and that a wrong verdict still earns the listener's part.

  Args:
    written: the verdicts.
    weight: of the listener's probability of the right verdict.

  Raises:
    UserError: a negative weight.
  """
  require_not_negative("", weight=weight)
  return added(written) + weight * written.listened


def explained(written: Verdicts) -> Float[Array, "R G"]:
  """Similarity of a right verdict's thought to the exact one (RM-NLHF).

  Wang et al. 2026, https://arxiv.org/abs/2601.07349, where similarity is the F1
  of the arguments of a critique and of a human one; here of words.
  `unverified`: how verdict and similarity are combined. Their model that
  predicts it without a human critique is left out: here all thoughts are known.
  """
  return written.is_right * written.alike


def graded(written: Verdicts, *, least: float = 0.5) -> Float[Array, "R G"]:
  """1 for a right verdict, or 1.5 after a thought similar to the exact one.

  A wrong verdict in the right form earns .3, or .4 if its thought shares a word
  with the exact one; a wrong form earns 0. The table is that of ARM-Thinker,
  Ding et al. 2025, https://arxiv.org/abs/2512.05111, which scores tool calls
  that are attempted and that succeed. Here a thought counts as an attempt if it
  shares a word with the exact one, and as a success if `alike` reaches `least`.

  Args:
    written: the verdicts.
    least: similarity from which a thought is a success, in (0, 1].

  Raises:
    UserError: `least` is out of range.
  """
  if not 0 < least <= 1:
    raise UserError(f"least={least}: it is a likeness, above 0 and at most 1")
  right = jnp.where(written.alike >= least, 1.5, 1.0)
  wrong = jnp.where(written.alike > 0, 0.4, 0.3)
  return written.is_formed * jnp.where(written.is_right, right, wrong)


RULES: dict[str, Callable[..., Float[Array, "R G"]]] = {
  "added": added,
  "explained": explained,
  "gated": gated,
  "graded": graded,
  "listened": listened,
  "signed": signed,
}


def loss_of(
  now: Float[Array, "R G T"],
  reference: Float[Array, "R G T"],
  credit: Float[Array, "R G"],
  *,
  kl: float,
) -> Float[Array, "R G T"]:
  """Policy-gradient loss of every token of on-policy answers.

  -A exp(log p - stop(log p)) + kl (exp(d) - d - 1), d = log p_ref - log p
  (Shao et al. 2024, https://arxiv.org/abs/2402.03300, eq. 3 and 4); the ratio
  is exactly 1, so that no clipping is needed.

  Args:
    now: log-probabilities of the drawn tokens.
    reference: those of the reference policy.
    credit: advantage A of each answer.
    kl: weight of the KL term.
  """
  ratio = jnp.exp(now - jax.lax.stop_gradient(now))
  loss = -jax.lax.stop_gradient(credit)[..., None] * ratio
  gap = reference - now
  return loss + kl * (jnp.exp(gap) - gap - 1)
