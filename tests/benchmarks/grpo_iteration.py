"""Times one Flow-GRPO iteration against the same work in PyTorch.

  python tests/benchmarks/grpo_iteration.py --pairs 5

Three processes, pinned to the same two cores, hold the scene policy at the
sizes of `configs/align_scenes.py:flow_grpo`: jaxreward, PyTorch eager and
`torch.compile` (`torch_peer.py`). Each warms up; then they take turns, one
iteration at a time and one process at a time, so that whatever else the
machine does meets all three. A line of JSON follows the table.

  python tests/benchmarks/grpo_iteration.py \
    --peers jaxreward mesh8x1 mesh2x4

does the same with eight virtual devices on those two cores (data x fsdp): what
a mesh costs where it cannot gain anything. `--peers jaxreward sealed stored
recomputed` compares where old log-probabilities come from (`align.old_log_prob`).
`--peers jaxreward dew dew_words` sets us beside Dew (`dew_peer.py`), whose
processes run with `--dew-python`.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve()
ROOT = HERE.parent.parent.parent
PEERS = ("jaxreward", "eager", "compile")
MESHES = {
  "jaxreward": (1, 1), "mesh2x1": (2, 1), "mesh4x1": (4, 1), "mesh8x1": (8, 1),
  "mesh2x4": (2, 4),
}  # fmt: skip
OLD_LOG_PROBS = ("sealed", "stored", "recomputed")
DEW = ("dew", "dew_words")
KNOWN = (*MESHES, *OLD_LOG_PROBS, "eager", "compile", *DEW)
PARTS = ("rollout", "update", "iteration")
SPEC = f"{ROOT}/configs/align_scenes.py:flow_grpo"
# Freed memory is kept for the next call, in all three alike.
MALLOC = {
  "MALLOC_ARENA_MAX": "1",
  "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
  "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
}


def main(argv=None) -> None:
  flags = parse(argv)
  if flags.peer:
    serve(flags)
    return
  cores = sorted(os.sched_getaffinity(0))[: flags.threads]
  workers, warm = {}, {}
  try:
    for peer in flags.peers:  # one after another: each compiles alone
      workers[peer] = start(peer, flags, cores)
      warm[peer] = read(workers[peer])
      print(
        f"{peer:10s} warm after {warm[peer]['seconds']:.0f} s, at most"
        f" {warm[peer]['mebibytes']:.0f} MiB",
        flush=True,
      )
    times = take_turns(workers, flags.pairs)
  finally:
    for worker in workers.values():
      worker.stdin.close()
      worker.wait()
  report(times, warm, flags, cores)


def parse(argv) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--pairs", type=int, default=5, help="turns of each")
  parser.add_argument("--threads", type=int, default=2, help="and cores")
  parser.add_argument("--warmup", type=int, default=2, help="iterations first")
  parser.add_argument("--peers", nargs="+", choices=KNOWN, default=PEERS)
  parser.add_argument("--prompts", type=int, default=16)
  parser.add_argument("--group", type=int, default=16)
  parser.add_argument("--steps", type=int, default=8, help="of the sampler")
  parser.add_argument(
    "--plain-malloc", action="store_true", help="leave the allocator as it is"
  )
  parser.add_argument(
    "--dew-python", default=sys.executable, help="an interpreter that has Dew"
  )
  parser.add_argument("--peer", choices=KNOWN, help=argparse.SUPPRESS)
  return parser.parse_args(argv)


def start(peer: str, flags, cores) -> subprocess.Popen:
  """A worker process, bound to the cores before it loads anything."""
  env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  env["OMP_NUM_THREADS"] = str(flags.threads)
  data, fsdp = MESHES.get(peer, (1, 1))
  env["JAX_NUM_CPU_DEVICES"] = str(data * fsdp)
  if not flags.plain_malloc:
    env |= MALLOC
  options = ("threads", "warmup", "prompts", "group", "steps")
  python = flags.dew_python if peer in DEW else sys.executable
  return subprocess.Popen(
    [python, "-W", "ignore", str(HERE), f"--peer={peer}"]
    + [f"--{name}={getattr(flags, name)}" for name in options],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env=env,
    preexec_fn=lambda: os.sched_setaffinity(0, cores),
  )


def read(worker) -> dict:
  line = worker.stdout.readline()
  if not line:
    raise SystemExit(f"a worker ended with status {worker.wait()}")
  return json.loads(line)


def take_turns(workers, pairs: int) -> dict[str, dict[str, list[float]]]:
  """Seconds per peer and part; who goes first rotates."""
  times = {peer: {part: [] for part in PARTS} for peer in workers}
  names = list(workers)
  for turn in range(pairs):
    shift = turn % len(names)
    for peer in names[shift:] + names[:shift]:
      workers[peer].stdin.write("go\n")
      workers[peer].stdin.flush()
      for part, seconds in read(workers[peer]).items():
        times[peer][part].append(seconds)
  return times


def report(times, warm, flags, cores) -> None:
  """A table of medians and ratios to jaxreward, and all of it as JSON."""
  ours = times.get("jaxreward")
  found = {"cores": cores, "samples": flags.prompts * flags.group}
  found |= {f"{peer}/warm": ready for peer, ready in warm.items()}
  print(f"\n{'':22s}{'median ms':>10s}{'min':>8s}{'max':>8s}{'ratio':>8s}")
  for part in PARTS:
    for peer, parts in times.items():
      values = parts[part]
      row = {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "all": values,
      }
      ratio = ""
      if ours:  # of the turns, each against its neighbour in time
        turns = [a / b for a, b in zip(values, ours[part], strict=True)]
        row["ratio"] = statistics.median(turns)
        row["ratio_range"] = (min(turns), max(turns))
        ratio = f"{row['ratio']:.2f}"
      found[f"{peer}/{part}"] = row
      cells = "".join(f"{row[k] * 1e3:8.0f}" for k in ("min", "max"))
      print(
        f"{part:11s}{peer:11s}{row['median'] * 1e3:10.0f}{cells}{ratio:>8s}"
      )
  print("\n" + json.dumps(found))


def serve(flags) -> None:
  """One iteration for every line on stdin, its times as a line of JSON."""
  out = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # whatever a library prints goes elsewhere
  begin = time.perf_counter()
  is_torch = flags.peer in ("eager", "compile")
  make = make_torch if is_torch else make_jaxreward
  if flags.peer in DEW:
    make = make_dew
  rollout, update = make(flags)

  def iterate():
    t0 = time.perf_counter()
    drawn = rollout()
    t1 = time.perf_counter()
    update(drawn)
    t2 = time.perf_counter()
    return dict(zip(PARTS, (t1 - t0, t2 - t1, t2 - t0), strict=True))

  for _ in range(flags.warmup):
    iterate()
  seconds = time.perf_counter() - begin
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
  ready = {"seconds": seconds, "mebibytes": peak}
  print(json.dumps(ready), file=out, flush=True)
  for _ in sys.stdin:
    print(json.dumps(iterate()), file=out, flush=True)


def load_job(flags):
  """(config, policy, parameters, plan, prompts) of the align job."""
  import jax

  from jaxreward import config as config_lib
  from jaxreward import setup
  from jaxreward.jobs import align
  from jaxreward.tasks.scenes import grammar

  overrides = [
    ("rollout.prompts", str(flags.prompts)),
    ("rollout.group", str(flags.group)),
    ("rollout.num_steps", str(flags.steps)),
  ]
  if flags.peer in OLD_LOG_PROBS:
    overrides.append(("align.old_log_prob", flags.peer))
  config = config_lib.load(SPEC, overrides)
  policy = setup.make_policy(config)
  params = jax.tree.map(jax.numpy.asarray, setup.load_params(config, policy))
  plan = align.make_plan(config, devices=jax.device_count())
  chosen = grammar.prompts("train")
  chosen = chosen[:: len(chosen) // flags.prompts][: flags.prompts]
  return config, policy, params, plan, grammar.batch(chosen)


def rewards(flags):
  """The same made-up rewards for everyone, [P, G]."""
  import numpy as np

  drawn = np.random.default_rng(0).normal(size=(flags.prompts, flags.group))
  return drawn.astype(np.float32)


def make_jaxreward(flags):
  """(rollout, update) through the programs of the align job."""
  import jax

  from jaxreward.data import pipeline
  from jaxreward.jobs import align
  from jaxreward.training import mesh as mesh_lib

  config, policy, params, plan, prompts = load_job(flags)
  mesh = mesh_lib.make_mesh(*MESHES.get(flags.peer, (1, 1)))
  with jax.set_mesh(mesh):
    parts = align.prepare(config, mesh, policy, params, plan, {"detector": 1.0})
    batch = pipeline.place_batch(mesh, replicated=True)(prompts)
  held = {"state": parts.state}
  scores = {"detector": jax.numpy.asarray(rewards(flags))}

  def rollout():
    with jax.set_mesh(mesh):
      drawn = parts.sample(held["state"], parts.base, batch)
      return jax.block_until_ready(drawn)

  def update(drawn):
    with jax.set_mesh(mesh):
      held["state"], metrics = parts.update(
        held["state"], parts.base, drawn[0], scores, batch
      )
      jax.block_until_ready((held["state"], metrics))

  return rollout, update


def make_torch(flags):
  """(rollout, update) of `torch_peer.Trainer`, with the same weights."""
  import torch
  import torch_peer

  torch.set_num_threads(flags.threads)
  torch.manual_seed(0)
  config, policy, params, plan, prompts = load_job(flags)
  net = {k: v for k, v in config.model.items() if k in torch_peer.SIZES}
  vocabulary, _ = params["text"]["embedding"].shape
  words, _ = params["text"]["position"].shape
  model = torch_peer.SceneDiT(vocabulary, words, **net)
  o = config.optimizer
  recipe = torch_peer.Recipe(
    steps=torch_peer.steps_of(plan.table),
    trained=plan.trained,
    updates=plan.updates,
    group=plan.group,
    clip_range=config.objective.clip_range,
    kl=config.regularizers.kl.weight,
    learning_rate=o.learning_rate,
    clip_norm=o.clip_norm,
    betas=(o.b1, o.b2),
    ema_decay=config.ema.decay,
  )
  trainer = torch_peer.Trainer(
    torch_peer.load_flax(model, params),
    recipe,
    compiled=flags.peer == "compile",
  )
  tokens = torch.from_numpy(prompts.tokens).long()
  reward = torch.from_numpy(rewards(flags))
  return (
    lambda: trainer.rollout(tokens, policy.latent_shape),
    lambda drawn: trainer.update(*drawn, reward, tokens),
  )


def make_dew(flags):
  """(rollout, update) of Dew, with the same network and weights."""
  import dew_peer

  config, _, params, plan, prompts = load_job(flags)
  return dew_peer.make(
    config, params, plan, prompts.tokens, rewards(flags),
    trains_words=flags.peer == "dew_words",
  )  # fmt: skip


if __name__ == "__main__":
  main()
