"""Scores of several rewards, some failed, and how an oracle reads them."""

import jax
import numpy as np

WEIGHTS = {"a": 1.0, "b": 0.5, "c": 2.0}

P, G = 5, 6


def draw(seed, *, failed=0.1, steps=None):
  """({name: [P, G]}, mask): in [0, 1], on a grid of `steps` for ties."""
  rng = np.random.default_rng(seed)
  scores = {k: rng.random((P, G)).astype(np.float32) for k in WEIGHTS}
  for name in scores:
    if steps:
      scores[name] = np.round(scores[name] * steps).astype(np.float32) / steps
    bad = rng.random((P, G)) < failed
    scores[name][bad] = rng.choice([np.nan, np.inf, -np.inf], bad.sum())
  scores["heldout"] = np.full((P, G), np.nan, np.float32)
  return scores, rng.random((P, G)) > 0.1


def valid(scores, mask):
  """Where a sample counts: nothing weighted has failed."""
  return mask & np.all([np.isfinite(scores[k]) for k in WEIGHTS], 0)


def run(compose, scores, mask, weights=WEIGHTS, **options):
  """(signal, mask) as NumPy arrays, from one program."""
  fn = jax.jit(lambda s, m: compose(s, m, weights, **options))
  return tuple(np.asarray(x) for x in fn(scores, mask))


def one(*rows):
  """Scores of one group by hand: {"a": [1, G], ...} and a mask."""
  names = list(WEIGHTS)[: len(rows)]
  scores = {
    k: np.asarray([r], np.float32) for k, r in zip(names, rows, strict=True)
  }
  return scores, np.ones((1, len(rows[0])), bool), dict.fromkeys(names, 1.0)
