"""One Flow-GRPO iteration of Dew (PyPI `dewml`), for `grpo_iteration.py`.

Dew is another JAX library; its rollout, objective and trainer's step run here as
they ship, on the network of `jaxreward.models.policies.scene_dit` with its
weights, wrapped as a model of Dew's. What differs from our own iteration then is
the libraries' and not the network's:

- Dew's conditions come from frozen encoders, or are computed by the model at every
  step. Peer `dew` takes the first way: words are encoded once per rollout and once
  per optimizer step, for every sample (ours: once per prompt), and not trained.
  Peer `dew_words` takes the second: words are trained, as ours are, and encoded for
  every sample, step and transition.
- All steps of its rollout draw noise; of ours, those that are trained.
- Its rollout hands the whole trajectory to the host, where advantages are computed.
- One program takes one optimizer step on its share of the trained transitions; ours
  takes all optimizer steps of the iteration.
- Its slot for averaged parameters holds the reference, which a trained policy here
  has beside an average.

  python tests/benchmarks/dew_peer.py

shows that the trained transitions are ours, within rounding. Needs Python 3.12, Dew and
what jaxreward needs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from dew.diffusion.process import Process
from dew.diffusion.schedules import FlowMatchingScheduler
from dew.diffusion.transforms import FlowMatchPredictionTransform
from dew.inputs import Condition, Field, InputSpec
from dew.inputs.encoders import ConditionEncoder
from dew.nn.sharding import logical_axes
from dew.objectives.rl.flow import FlowGRPOObjective, FlowRollout
from dew.sampling.flow import FlowSDE
from dew.training.distributed import shard_batch
from dew.training.trainer import Trainer

from jaxreward.models.policies import scene_dit

# Fields of a rollout's batch with an axis of transitions, [N, K, ...].
BY_STEP = (
  "latents", "next_latents", "timesteps", "next_timesteps", "old_log_probs",
  "transition_mask",
)  # fmt: skip
# Kernels of the image blocks are stacked [depth, in, out].
STACKED = ("modulation", "qkv", "out", "up", "down")


@logical_axes({("blocks", name): (None,) * 3 for name in STACKED})
class ScenePolicy(nn.Module):
  """The scene policy as Dew calls a model: velocity [B, H, W, C]."""

  net: scene_dit.SceneDiT
  trains_words: bool

  def __call__(self, x, time, words, train=False):
    """x [B, H, W, C], time [B] in [0, 1000], words: ids or an encoding."""
    t = time / 1000
    cond = self.net.encode(words) if self.trains_words else words
    return scene_dit.velocity_from_x0(x, self.net(x, t, cond), t)


class Words(ConditionEncoder):
  """Word ids, passed on or encoded by frozen parameters."""

  def __init__(self, net: scene_dit.SceneDiT, params: Any):
    self.net, self.params = net, params

  @classmethod
  def from_pretrained(cls, checkpoint, *, params=None):
    raise NotImplementedError("a benchmark is not restored")

  def tokenize(self, texts):
    """The empty prompt, whatever the texts."""
    return np.zeros((len(texts), scene_dit.MAX_WORDS), np.int32)

  def encode(self, params, tokens):
    if not params:
      return jnp.asarray(tokens)
    return self.net.apply({"params": params}, tokens, method="encode")

  def to_json(self) -> dict:
    return {}


def make_net(config) -> scene_dit.SceneDiT:
  """The network of a config of the scene policy."""
  names = {f.name for f in dataclasses.fields(scene_dit.SceneDiT)}
  sizes = {k: v for k, v in config.model.items() if k in names - {"dtype"}}
  return scene_dit.SceneDiT(**sizes, dtype=jnp.dtype(config.model.dtype))


def make_objective(config, params, *, trains_words: bool) -> FlowGRPOObjective:
  """Flow-GRPO on the scene policy by Dew, with the options of our config."""
  net = make_net(config)
  frozen, trained = {}, params
  if not trains_words:
    frozen = {k: params[k] for k in ("text", "place")}
    trained = {k: v for k, v in params.items() if k != "text"}
  shape = (net.image_size, net.image_size, 3)
  return FlowGRPOObjective(
    ScenePolicy(net, trains_words),
    Process(
      FlowMatchingScheduler(shift=config.rollout.shift),
      FlowMatchPredictionTransform(),
    ),
    InputSpec(
      Field("image", shape), {"words": Condition(Words(net, frozen), "words")}
    ),
    sde=FlowSDE(config.rollout.sampler.noise_level),
    beta=config.regularizers.kl.weight,
    clip_range=config.objective.clip_range,
    guidance=None,
    variables={
      "params": {"net": trained},
      "encoders": {"words": frozen},
    },
  )


def make(config, params, plan, tokens, scores, *, trains_words: bool):
  """(rollout, update) of one iteration of Dew.

  Args:
    config: of `configs/align_scenes.py:flow_grpo`.
    params: of the scene policy.
    plan: of the align job; it trains the first steps.
    tokens: word ids [P, L].
    scores: rewards [P, G].
    trains_words: whether the model encodes the words.
  """
  assert plan.trained == tuple(range(len(plan.trained)))
  o = config.optimizer
  objective = make_objective(config, params, trains_words=trains_words)
  rollout = FlowRollout(
    objective,
    lambda images, batch: scores.reshape(-1),
    groups=plan.group,
    steps=len(plan.table.t) + 1,
    train_steps=len(plan.trained),
  )
  rule = optax.chain(
    optax.clip_by_global_norm(o.clip_norm),
    optax.adamw(o.learning_rate, o.b1, o.b2, weight_decay=0.0),
  )
  trainer = Trainer(objective, rule, key=0)
  state, *_ = trainer.place()
  held: dict[str, Any] = {"state": state, "step": None}
  keys = (jax.random.fold_in(jax.random.key(0), i) for i in itertools.count())
  batch = shard_batch(trainer.device_mesh, {"words": tokens})

  def draw():
    return rollout(held["state"], batch, next(keys))

  def update(rows):
    each = len(plan.trained) // plan.updates
    for first in range(0, len(plan.trained), each):
      share = {
        k: v[:, first : first + each] if k in BY_STEP else v
        for k, v in rows.items()
      }
      share = shard_batch(trainer.device_mesh, share)
      step: Callable[..., Any] | None = held["step"]
      if step is None:
        step = held["step"] = trainer.compile(held["state"], share)
      held["state"], held["loss"], *_ = step(held["state"], share)
    jax.block_until_ready((held["state"], held["loss"]))

  return draw, update


def check() -> None:
  """Prints how far Dew's trained transitions are from ours."""
  import argparse

  import grpo_iteration

  flags = argparse.Namespace(peer="dew", prompts=2, group=3, steps=8)
  config, policy, params, plan, prompts = grpo_iteration.load_job(flags)
  tokens = np.repeat(prompts.tokens, flags.group, 0)
  table = plan.table
  for trains_words in (False, True):
    objective = make_objective(config, params, trains_words=trains_words)
    variables = objective.held_variables()
    given = objective.encoded_conditions(variables, {"words": tokens})
    denoise = objective.denoiser(variables, given, None)
    x = jax.random.normal(
      jax.random.key(1), (len(tokens), *policy.latent_shape)
    )
    times = objective.process.times(flags.steps + 1)
    worst = 0.0
    for i in plan.trained:
      t, following = (jnp.full((len(x),), times[j]) for j in (i, i + 1))
      step = objective.sde.transition(
        x, t, following, *denoise(x, t), objective.process
      )
      at = jnp.full((len(x),), table.t[i])
      cond = policy.encode(params, tokens)
      ours = table.c_x[i] * x + table.c_v[i] * policy.velocity(
        params, x, at, cond
      )
      worst = max(worst, float(jnp.abs(step.mean - ours).max()))
      if table.std[i]:
        gap = np.sqrt(np.asarray(step.variance)) / table.std[i] - 1
        worst = max(worst, float(np.abs(gap).max()))
    print(f"trains_words={trains_words}: transitions differ by {worst:.1e}")


if __name__ == "__main__":
  check()
