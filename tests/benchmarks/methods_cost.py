"""What a method costs beside Flow-GRPO: seconds per evaluation of the network.

  python tests/benchmarks/methods_cost.py --cache DIR

One rollout and one update of each recipe's miniature with the policy of the scenes,
on one device; rewards are a channel of the image, so that the policy's own work is
measured. Evaluations are counted, not assumed: the FLOPs of both programs over those
of one forward pass of one sample (`compilation.flops`); a backward pass counts as two.
Seconds are those that all cores worked, which other work on the machine hardly changes.
A method whose seconds per evaluation exceed those of Flow-GRPO does work beside the
network; rollout and update stand apart, since a backward pass takes more than its FLOPs. The second table is the compiler's account of the memory that an update needs
for itself, for reward gradients of several depths.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from jaxreward import config as config_lib  # noqa: E402
from jaxreward.compilation import flops  # noqa: E402
from jaxreward.rewards import contexts_of  # noqa: E402
from jaxreward.training import async_rollout, utilization  # noqa: E402
from tests import tiny  # noqa: E402

BASE = "flow_grpo"
METHODS = (
  BASE, "dancegrpo", "grpo_guard", "mixgrpo", "sage_grpo", "prime",
  "euphonium", "diffusion_nft", "awm", "ac_flow", "flow_dpo", "dgpo",
  "draft_k", "srpo", "rg_lcd", "hallo_live_hpdmd", "tdm_r1",
)  # fmt: skip
SAMPLES = 64
OF_CONFIGS = (BASE, "diffusion_nft")  # those that are no recipe
SIZES = {"rollout.prompts": 8, "rollout.group": 8, "rollout.microbatch": 64}
DEPTHS = {
  "refl, last step": ("refl", 1), "draft_k, last step": ("draft_k", 1),
  "draft_k, last 2 of 5": ("draft_k", 2), "alignprop, last 4 of 5": ("alignprop", 4),
}  # fmt: skip


def miniature(name: str, **given):
  """The programs of a recipe's miniature."""
  spec = f"recipes/{name}.py:smoke"
  if name in OF_CONFIGS:
    spec = f"align_scenes.py:{name},smoke"
  return iteration(spec, SIZES | given)


def iteration(spec: str, given: dict):
  """The programs of a config, each of whose rewards is a channel of the image."""
  config = tiny.load(spec, given)
  rewards = list(config.rewards) or ["redness"]
  with config.unlocked():
    config.rewards = {
      reward: dict(fn=f"{tiny.HERE}:redness", channel=i % 3)
      for i, reward in enumerate(rewards)
    }
  return tiny.Iteration(config, tiny.mesh_of(1), real=True)


def forward_flops(one) -> float:
  """FLOPs of one evaluation of the network for one sample."""
  policy, rows = one.policy, 12
  x = jnp.zeros((rows, *policy.latent_shape))
  index = jnp.zeros(rows, jnp.int32)

  def run(params, words):
    cond = policy.encode(params, words)
    rows_of = jax.tree.map(lambda leaf: leaf[index], cond)
    return policy.velocity(params, x, jnp.ones(rows), rows_of)

  words = jax.tree.map(jnp.asarray, one.batch.words)
  params = one.parts.base or one.parts.state.params
  with jax.set_mesh(one.mesh):
    jaxpr = jax.make_jaxpr(run)(params, words)
    encoding = jax.make_jaxpr(policy.encode)(params, words)
  return (flops.count(jaxpr) - flops.count(encoding)) / rows


def draw_arguments(one) -> tuple:
  """Of the program that draws, at the first iteration."""
  parts = one.parts
  state = parts.state
  return (
    async_rollout.draw_params(state), state.step, parts.base, one.batch, None,
    state.players if parts.has_drift else None,
  )  # fmt: skip


def measured(name: str, repeats: int) -> list[tuple[float, float]]:
  """(evaluations per sample, seconds) of a rollout, and of an update."""
  one = miniature(name)
  parts = one.parts
  with jax.set_mesh(one.mesh):
    arguments = draw_arguments(one)
    draw = parts.draw.trace(*arguments)
    draws = draw.lower().compile()
    trajectory, _, images = draws(*arguments)
    scores = one.scores(images)
    contexts = contexts_of(one.rewards, one.batch) if one.rewards else None
    rest = (
      parts.base, trajectory, scores, one.batch, contexts, None,
      one.step_scores(one.state, trajectory, scores),
      {"references": one.references()},
    )  # fmt: skip
    update = parts.update.trace(one.state, *rest)
    updates = update.lower().compile()
    seconds = []
    for _ in range(repeats + 1):
      state = jax.block_until_ready(one.state)
      marks = [time.process_time()]
      jax.block_until_ready(draws(*arguments))
      marks.append(time.process_time())
      jax.block_until_ready(updates(state, *rest))
      marks.append(time.process_time())
      seconds.append([b - a for a, b in itertools.pairwise(marks)])
  each = forward_flops(one) * one.plan.prompts * one.plan.group
  counts = [utilization.due(x.jaxpr) / each for x in (draw, update)]
  medians = [statistics.median(x) for x in zip(*seconds[1:], strict=True)]
  return list(zip(counts, medians, strict=True))


def counted(name: str) -> float:
  """Evaluations per sample of an iteration of configs/compare.py; only traces."""
  one = iteration(f"compare.py:{name}", {})
  parts = one.parts
  with jax.set_mesh(one.mesh):
    arguments = draw_arguments(one)
    draw = parts.draw.trace(*arguments)
    trajectory, _, images = jax.eval_shape(parts.draw, *arguments)
    scores = {k: jnp.zeros(images.shape[:2]) for k in one.weights}
    contexts = contexts_of(one.rewards, one.batch) if one.rewards else None
    update = parts.update.trace(
      parts.state, parts.base, trajectory, scores, one.batch, contexts, None,
      None, {"references": {}},
    )  # fmt: skip
  each = forward_flops(one) * one.plan.prompts * one.plan.group
  return sum(utilization.due(x.jaxpr) for x in (draw, update)) / each


def memory(name: str, steps: int) -> float:
  """MiB that the update of a reward's gradient needs for itself."""
  given = {"align.last_steps": steps, "rollout.num_steps": 5}
  one = miniature(name, **given)
  parts = one.parts
  with jax.set_mesh(one.mesh):
    trajectory, _, images = jax.eval_shape(
      parts.sample, one.state, parts.base, one.batch
    )
    scores = {k: jnp.zeros(images.shape[:2]) for k in one.weights}
    contexts = contexts_of(one.rewards, one.batch)
    program = parts.update.lower(
      one.state, parts.base, trajectory, scores, one.batch, contexts, None,
      None, {"references": {}},
    ).compile()  # fmt: skip
  return program.memory_analysis().temp_size_in_bytes / 2**20


def main() -> None:
  """Prints both tables as Markdown."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--cache", default="", help="folder of compiled programs")
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--methods", default=",".join(METHODS))
  parser.add_argument(
    "--count", action="store_true",
    help="evaluations alone, of the methods in configs/compare.py",
  )  # fmt: skip
  flags = parser.parse_args()
  if flags.count:
    for name in config_lib.load_module(f"{tiny.CONFIGS}/compare.py").METHODS:
      print(f"{name}: {counted(name):.1f}", flush=True)
    return
  if flags.cache:
    jax.config.update("jax_compilation_cache_dir", flags.cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  print(
    "| method | evaluations per sample: rollout | update | CPU seconds: rollout"
    " | update | ms per evaluation: rollout | update |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
  )
  for name in flags.methods.split(","):
    (few, draw), (many, update) = measured(name, flags.repeats)
    unit = 1e3 / SAMPLES
    print(
      f"| `{name}` | {few:.1f} | {many:.1f} | {draw:.2f} | {update:.2f} |"
      f" {unit * draw / few:.2f} | {unit * update / many:.2f} |",
      flush=True,
    )
  print("\n| reward gradient | MiB |\n| --- | --- |")
  for label, (name, steps) in DEPTHS.items():
    print(f"| {label} | {memory(name, steps):.1f} |", flush=True)


if __name__ == "__main__":
  main()
