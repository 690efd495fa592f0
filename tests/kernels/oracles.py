"""What the kernels compute, in float64 NumPy, written from the formulas."""

import numpy as np


def relative(found, expected) -> float:
  """Error in the norm of what is expected."""
  found, expected = np.asarray(found, np.float64), np.asarray(expected)
  scale = np.linalg.norm(expected.ravel())
  return np.linalg.norm((found - expected).ravel()) / max(scale, 1e-12)


def advantage(
  signal, mask, std="group", epsilon=1e-4, clip=5.0, baseline="group"
):
  """[P, G], a group at a time."""
  signal = np.asarray(signal, np.float64)
  result = np.zeros(signal.shape)
  everything = signal[mask]
  for p in range(len(signal)):
    r = signal[p][mask[p]]
    if len(r) == 0:
      continue
    a = r - r.mean()
    if baseline == "leave_one_out":
      a = np.array(
        [r[i] - np.delete(r, i).mean() for i in range(len(r))]
        if len(r) > 1
        else [0.0]
      )
    if std == "group":
      a = a / (r.std() + epsilon)
    elif std == "batch":
      a = a / (everything.std() + epsilon)
    result[p][mask[p]] = np.clip(a, -clip, clip) if clip else a
  return result


def policy_loss(log_prob, old, advantage, keep, low, high):
  """(mean loss, its gradient [P, G, T], metrics)."""
  x = np.where(keep, np.float64(1) * log_prob - old, 0.0)
  a = np.broadcast_to(advantage[..., None], x.shape)
  ratio = np.exp(x)
  surrogate = a * ratio
  bounded = a * np.clip(ratio, low, high)
  count = max(keep.sum(), 1)
  mean = lambda v: np.where(keep, v, 0.0).sum() / count
  active = surrogate <= bounded
  gradient = np.where(keep & active, -surrogate, 0.0) / count
  metrics = {
    "ratio": mean(ratio),
    "log_ratio_abs": mean(np.abs(x)),
    "approx_kl": mean(np.expm1(np.longdouble(x)) - x),
    "clip_fraction_low": mean((a < 0) & (ratio < low)),
    "clip_fraction_high": mean((a > 0) & (ratio > high)),
  }
  return -mean(np.minimum(surrogate, bounded)), gradient, metrics


def _log_sigmoid(x):
  return -np.logaddexp(0.0, -x)


def pair_nats(d, gap, ties, margin=0.0, noise=0.0, k=2.0, width=0.0):
  """(loss, whether it counts) of pairs with lead d and rating gap."""
  tie = np.abs(gap) <= width
  p = np.where(tie, 0.5, (gap > 0).astype(float))
  if ties == "rao_kupper":
    first = _log_sigmoid(d - np.log(k))
    second = _log_sigmoid(-d - np.log(k))
    both = np.log(k**2 - 1) + first + second
    return -np.where(tie, both, np.where(p > 0.5, first, second)), tie | True
  p = noise + (1 - 2 * noise) * p
  loss = -p * _log_sigmoid(d - margin) - (1 - p) * _log_sigmoid(-d - margin)
  return loss, ~tie if ties == "skip" else tie | True


def pairwise_loss(scores, ratings, mask, ties="half", **options):
  """(sum of losses, number of pairs) over the pairs i < j of all groups."""
  total, count = 0.0, 0
  for s, r, m in zip(scores, ratings, mask, strict=True):
    s, r = np.float64(1) * s[m], np.float64(1) * r[m]
    i, j = np.triu_indices(len(s), 1)
    loss, counts = pair_nats(s[i] - s[j], r[i] - r[j], ties, **options)
    total, count = total + loss[counts].sum(), count + counts.sum()
  return total, count


def win_rate(scores, mask, temperature):
  """[N, G], a candidate at a time."""
  result = np.zeros(scores.shape)
  for n, i in np.argwhere(mask):
    others = mask[n].copy()
    others[i] = False
    d = np.float64(scores[n, i]) - scores[n][others]
    if temperature:
      chance = np.exp(_log_sigmoid(d / temperature))
    else:
      chance = (np.sign(d) + 1) / 2
    result[n, i] = chance.mean() if others.any() else 0.5
  return result


def log_prob(x_next, mean, std, log_scale):
  """[B], mean over latent elements."""
  error = np.square(np.float64(1) * x_next - mean)
  error = error.reshape(len(error), -1).mean(1)
  if not std:
    return np.zeros(len(error))
  if not log_scale:
    return -error
  return -error / (2 * std**2) - np.log(std) - 0.5 * np.log(2 * np.pi)


def slopes(function, x, directions, size=1e-4):
  """Directional derivatives of `function` at x by central differences."""
  x = np.asarray(x, np.float64)
  return np.array(
    [
      (function(x + size * d) - function(x - size * d)) / (2 * size)
      for d in directions
    ]
  )
