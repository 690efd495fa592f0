"""Where a relation is lost: `python tests/benchmarks/position_probe.py [FILE]`.

Asks a scene policy, by default the base of the package, on prompts of two coloured
items that it was not trained on:

- whether its words say on which side of the other item each one stands: a
  linear probe of the values that the image blocks attend to;
- what it loses with a wrong caption, in mean squared error of the predicted
  clean image per element, by time: the items in the opposite relation, or with
  each other's colours. At t = 1 the most that a relation can be worth is the
  squared distance between the mean images of both captions, given beside it.
"""

from __future__ import annotations

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxreward import config as config_lib
from jaxreward import setup
from jaxreward.flow import path
from jaxreward.tasks.scenes import grammar, render

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "base.py"
OPPOSITE = np.array([0, 2, 1, 4, 3])
TIMES = (1.0, 0.97, 0.94, 0.9, 0.8, 0.7, 0.5)
ROWS, DRAWS = 256, 4


def coloured(*splits: str) -> list[grammar.Prompt]:
  """Position prompts with colours."""
  prompts = (p for s in splits for p in grammar.prompts(s, ("position",)))
  return [p for p in prompts if p.items[0][1] != grammar.ANY_COLOUR]


def opposite(prompt: grammar.Prompt) -> grammar.Prompt:
  """The same items in the opposite relation."""
  items = " ".join(prompt.text.split())
  words = grammar.RELATIONS[prompt.relation]
  turned = grammar.RELATIONS[OPPOSITE[prompt.relation]]
  return grammar.parse(items.replace(words, turned))


def recoloured(prompt: grammar.Prompt) -> grammar.Prompt:
  """The items with each other's colours."""
  words = prompt.text.split()
  words[1], words[-2] = words[-2], words[1]
  return grammar.parse(" ".join(words))


def probe_words(policy, params) -> float:
  """Share of shape words in unseen prompts whose side a linear map tells."""

  def features(prompts):
    rows = grammar.batch(prompts)
    values = np.asarray(policy.encode(params, rows.tokens)["kv"])[:, :, 1]
    last = (rows.tokens > 0).sum(-1) - 1
    of_words = [
      values[np.arange(len(last)), ..., word, :].reshape(len(last), -1)
      for word in (np.full_like(last, 2), last)
    ]
    relation = rows.extras.relation
    return np.concatenate(of_words), np.concatenate(
      [relation, OPPOSITE[relation]]
    )

  x, y = features(coloured("train"))
  unseen, sides = features(coloured("validation", "heldout"))
  mean, scale = x.mean(0), x.std(0) + 1e-6
  x, unseen = (x - mean) / scale, (unseen - mean) / scale
  gram = x.T @ x + 1e-3 * len(x) * np.eye(x.shape[1])
  weights = np.linalg.solve(gram, x.T @ np.eye(5)[y])
  return float(((unseen @ weights).argmax(-1) == sides).mean())


def main(checkpoint: str) -> None:
  """Prints the figures of a checkpoint."""
  config = config_lib.load_sibling(CONFIG.name, str(CONFIG))
  config.init.checkpoint = checkpoint
  policy = setup.make_policy(config)
  params = jax.tree.map(jnp.asarray, setup.load_params(config, policy))
  print(
    f"side told by the words, chance .25: {probe_words(policy, params):.2f}"
  )

  unseen = coloured("validation", "heldout")
  order = np.random.default_rng(0).permutation(len(unseen))[:ROWS]
  prompts = [unseen[i] for i in order]
  right = grammar.batch(prompts)
  wrong = {
    "opposite": grammar.batch([opposite(p) for p in prompts]),
    "colours": grammar.batch([recoloured(p) for p in prompts]),
  }

  @jax.jit
  def errors(params, key, t):
    keys = jax.random.split(key, len(prompts))
    x0 = 2 * render.render_prompts(keys, right) - 1
    noise = jax.random.normal(jax.random.fold_in(key, len(prompts)), x0.shape)
    times = jnp.full(len(prompts), t)
    x_t = path.interpolate(x0, noise, times)

    def error(tokens):
      v = policy.velocity(params, x_t, times, policy.encode(params, tokens))
      return jnp.square(path.x0_from_velocity(x_t, v, times) - x0).mean()

    own = error(right.tokens)
    return own, {k: error(b.tokens) - own for k, b in wrong.items()}

  print(
    "| t | error | more with the opposite relation | with colours swapped |"
  )
  print("| --- | --- | --- | --- |")
  for t in TIMES:
    draws = [errors(params, jax.random.key(i), t) for i in range(DRAWS)]
    own, more = jax.tree.map(lambda *x: float(np.mean(x)), *draws)
    print(
      f"| {t} | {own:.4f} | {more['opposite']:.5f} | {more['colours']:.5f} |"
    )

  few = jax.tree.map(lambda x: jnp.asarray(x)[:8], (right, wrong["opposite"]))

  @jax.jit
  def mean_images(key):
    draw = lambda k, rows: render.render_prompts(jax.random.split(k, 8), rows)
    keys = jax.random.split(key, 1000)
    over = lambda rows: jax.lax.map(lambda k: 2 * draw(k, rows) - 1, keys)
    return [over(rows).mean(0) for rows in few]

  first, second = mean_images(jax.random.key(DRAWS))
  most = float(jnp.square(first - second).mean())
  print(f"the most that a relation is worth at t = 1: {most:.4f}")


if __name__ == "__main__":
  main(sys.argv[1] if len(sys.argv) > 1 else "package:scenes_base")
