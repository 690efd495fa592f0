"""The over-optimisation panel: signs that a policy games its reward.

None of these numbers is trained on. They are cheap, computed from images and
scores of the step, and change before reward hacking is visible.
"""

from __future__ import annotations

import dataclasses

import flax.struct
import jax.numpy as jnp
import numpy as np

from jaxreward.evaluation.divergence import (
  divergence_warning as divergence_warning,
)
from jaxreward.evaluation.diversity import group_diversity, pairs_exist
from jaxreward.numerics import Mean, safe_sqrt
from jaxreward.types import Array, ArrayLike

LUMINANCE = (0.2126, 0.7152, 0.0722)  # Rec. 709


@flax.struct.dataclass
class Panel:
  """Means over samples, groups or pairs; None if not measured.

  Attributes:
    trained_reward: the reward of the update.
    heldout_reward: a reward that is never trained on.
    accuracy: share of strictly correct images.
    diversity: `group_diversity`, over groups with a pair.
    kl: divergence from the reference policy.
    clip_fraction_high: share of ratios clipped above 1.
    clip_fraction_low: share of ratios clipped below 1.
    zero_variance_groups: share of groups without a signal.
    disagreement: `ranking_disagreement` of trained and held-out reward.
    edge_density: `edge_density`.
    colour_entropy: `colour_entropy`, bits.
    brightness: `brightness`.
    texture: mean |Laplacian| where nothing should be drawn.
    out_of_range: share of values outside [0, 1] before the clip.
  """

  trained_reward: Mean | None = None
  heldout_reward: Mean | None = None
  accuracy: Mean | None = None
  diversity: Mean | None = None
  kl: Mean | None = None
  clip_fraction_high: Mean | None = None
  clip_fraction_low: Mean | None = None
  zero_variance_groups: Mean | None = None
  disagreement: Mean | None = None
  edge_density: Mean | None = None
  colour_entropy: Mean | None = None
  brightness: Mean | None = None
  texture: Mean | None = None
  out_of_range: Mean | None = None

  def metrics(self, prefix: str = "panel/") -> dict[str, Mean]:
    """The measured entries by name, for the metric writer."""
    pairs = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
    return {prefix + name: mean for name, mean in pairs if mean is not None}


def measure_panel(
  images: ArrayLike,
  mask: ArrayLike,
  *,
  trained: ArrayLike | None = None,
  heldout: ArrayLike | None = None,
  strict: ArrayLike | None = None,
  texture: ArrayLike | None = None,
  out_of_range: ArrayLike | None = None,
  kl: Mean | None = None,
  clip_fraction_high: Mean | None = None,
  clip_fraction_low: Mean | None = None,
) -> Panel:
  """Fills the panel from one batch of groups; jit-able.

  Args:
    images: [P, G, H, W, C], in [0, 1].
    mask: bool [P, G], False for padding and failed samples.
    trained: [P, G], the reward trained on; non-finite entries are excluded.
    heldout: [P, G], a reward not trained on.
    strict: [P, G], 1 for a correct image.
    texture: [P, G].
    out_of_range: [P, G].
    kl: from the update.
    clip_fraction_high: from the update.
    clip_fraction_low: from the update.

  Returns:
    A Panel of pooled means; add panels of micro-batches with `jax.tree.map`.
  """
  mask = jnp.asarray(mask, bool)
  score = lambda x: None if x is None else Mean.of(x, mask & jnp.isfinite(x))
  has_both = trained is not None and heldout is not None
  return Panel(
    trained_reward=score(trained),
    heldout_reward=score(heldout),
    accuracy=score(strict),
    diversity=Mean.of(group_diversity(images, mask), pairs_exist(mask)),
    kl=kl,
    clip_fraction_high=clip_fraction_high,
    clip_fraction_low=clip_fraction_low,
    zero_variance_groups=(
      None if trained is None else zero_variance_groups(trained, mask)
    ),
    disagreement=(
      ranking_disagreement(trained, heldout, mask) if has_both else None
    ),
    edge_density=Mean.of(edge_density(images), mask),
    colour_entropy=Mean.of(colour_entropy(images), mask),
    brightness=Mean.of(brightness(images), mask),
    texture=score(texture),
    out_of_range=score(out_of_range),
  )


def luminance(images: ArrayLike) -> Array:
  """Rec. 709 weighted channels, [..., H, W] from [..., H, W, C], C 1 or 3.

  Raises:
    ValueError: for another number of channels.
  """
  images = jnp.asarray(images, jnp.float32)
  channels = images.shape[-1]
  if channels == 1:
    return images[..., 0]
  if channels != 3:
    raise ValueError(f"images need 1 or 3 channels, got shape {images.shape}")
  return jnp.sum(images * jnp.asarray(LUMINANCE), axis=-1)


def brightness(images: ArrayLike) -> Array:
  """Mean luminance, [...] from images [..., H, W, C] in [0, 1]."""
  return jnp.mean(luminance(images), axis=(-2, -1))


def edge_density(images: ArrayLike) -> Array:
  """Mean Sobel magnitude of the luminance over inner pixels.

    mean sqrt(g_x^2 + g_y^2),  g_x = [1 2 1]^T [-1 0 1] / 8 * Y

  A ramp of slope s per pixel gives s; the one-pixel border is excluded.

  Args:
    images: [..., H, W, C], H and W at least 3.

  Returns:
    float32 [...], change of luminance per pixel.

  Raises:
    ValueError: when a side is shorter than 3 pixels.
  """
  y = luminance(images)
  if min(y.shape[-2:]) < 3:
    raise ValueError(f"edges need 3 x 3 pixels or more, got {y.shape[-2:]}")
  smooth_rows = (y[..., :-2, :] + 2 * y[..., 1:-1, :] + y[..., 2:, :]) / 4
  smooth_columns = (y[..., :-2] + 2 * y[..., 1:-1] + y[..., 2:]) / 4
  across = (smooth_rows[..., 2:] - smooth_rows[..., :-2]) / 2
  down = (smooth_columns[..., 2:, :] - smooth_columns[..., :-2, :]) / 2
  magnitude = safe_sqrt(jnp.square(across) + jnp.square(down))
  return jnp.mean(magnitude, axis=(-2, -1))


def colour_entropy(images: ArrayLike, *, bins: int = 4) -> Array:
  """Entropy of an image's joint colour histogram, in bits.

    H = -sum_b p_b log2 p_b

  over bins^C boxes of colour space. One flat colour gives 0, uniform noise
  nears C log2(bins), 6 bits by default.

  Args:
    images: [..., H, W, C]; values outside [0, 1] fall into the outer bins.
    bins: per channel.

  Returns:
    float32 [...].
  """
  images = jnp.asarray(images, jnp.float32)
  level = jnp.clip(jnp.floor(images * bins), 0, bins - 1).astype(jnp.int32)
  channels = images.shape[-1]
  box = jnp.sum(level * bins ** np.arange(channels), axis=-1)
  box = box.reshape(*images.shape[:-3], -1)
  same = box[..., None] == jnp.arange(bins**channels)
  p = jnp.mean(same, axis=-2, dtype=jnp.float32)
  filled = p > 0
  surprise = -jnp.log2(jnp.where(filled, p, 1.0))
  return jnp.sum(jnp.where(filled, p * surprise, 0.0), axis=-1)


def zero_variance_groups(
  rewards: ArrayLike, mask: ArrayLike, *, tolerance: float = 0.0
) -> Mean:
  """Share of groups whose rewards are all equal: they give no signal.

  Args:
    rewards: [P, G]; non-finite entries count as masked.
    mask: bool [P, G].
    tolerance: largest spread (maximum - minimum) that counts as equal.

  Returns:
    Mean over groups with a valid member; a single member has no spread.
  """
  rewards = jnp.asarray(rewards, jnp.float32)
  mask = jnp.asarray(mask, bool) & jnp.isfinite(rewards)
  top = jnp.max(jnp.where(mask, rewards, -jnp.inf), axis=1)
  bottom = jnp.min(jnp.where(mask, rewards, jnp.inf), axis=1)
  return Mean.of(top - bottom <= tolerance, jnp.any(mask, axis=1))


def ranking_disagreement(
  trained: ArrayLike, heldout: ArrayLike, mask: ArrayLike
) -> Mean:
  """Share of pairs within a group that two rewards rank in opposite order.

    #{i < j: (t_i - t_j)(h_i - h_j) < 0} / #{i < j: (t_i - t_j)(h_i - h_j) != 0}

  which is (1 - gamma) / 2 for Goodman and Kruskal's gamma: 0 when the rewards
  agree, 1/2 when they are unrelated, 1 when they are opposite. Pairs tied under
  either reward are excluded.

  Args:
    trained: [P, G]; non-finite entries count as masked.
    heldout: [P, G]; non-finite entries count as masked.
    mask: bool [P, G].

  Returns:
    Mean over the pairs of all groups (weight: number of ranked pairs).
  """
  trained = jnp.asarray(trained, jnp.float32)
  heldout = jnp.asarray(heldout, jnp.float32)
  mask = jnp.asarray(mask, bool) & jnp.isfinite(trained) & jnp.isfinite(heldout)
  order = lambda x: jnp.sign(x[:, :, None] - x[:, None, :])
  clean = lambda x: jnp.where(mask, x, 0.0)
  product = order(clean(trained)) * order(clean(heldout))
  members = mask.shape[1]
  upper = np.triu(np.ones((members, members), bool), 1)
  pair = mask[:, :, None] & mask[:, None, :] & upper & (product != 0)
  return Mean.of(product < 0, pair)
