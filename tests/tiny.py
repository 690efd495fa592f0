"""Runs that are small enough for a test: configs, weights, rewards, programs."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxreward import config as config_lib
from jaxreward import jobs, setup, workdirs
from jaxreward.data import pipeline
from jaxreward.flow import rollout, sampler
from jaxreward.jobs import align
from jaxreward.rewards import Scores, contexts_of, declare
from jaxreward.setup import (
  judge_labels,
  offline,
  players,
  references,
  row_scores,
)
from jaxreward.setup import rewards as reward_setup
from jaxreward.tasks.scenes import grammar
from jaxreward.training import async_rollout, loop, weights
from jaxreward.training import mesh as mesh_lib
from jaxreward.types import Policy
from tests import hurry

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
HERE = pathlib.Path(__file__).resolve()

MODEL = {
  "model.width": 32,
  "model.depth": 1,
  "model.heads": 2,
  "model.mlp_ratio": 2,
  "model.text_layers": 1,
  "model.unroll": 1,
}
# Smooth in the pictures, so that a last bit more or less changes little, and
# not the same for all members of a group, as the detector's score of noise is.
REWARD = {
  "rewards.detector": "none",
  "rewards.redness.fn": f"{HERE}:redness",
}
FAST = {
  "init.checkpoint": "",
  "eval.guidance_scales": "1.0",
  "optimizer.warmup_steps": 0,
}


def redness(images, prompts, *, scale=4.0, channel=0):
  """Mean of the red channel: a reward as a user would write it."""
  return scale * images[..., channel].mean((2, 3))


@declare(gives_errors=True)
def red_errors(images, prompts, *, scale=4.0, channel=0):
  """`redness` with what each pixel lacks of it."""
  errors = 1 - images[..., channel].reshape(*images.shape[:2], -1)
  value = redness(images, prompts, scale=scale, channel=channel)
  return Scores(value, errors=errors)


def lightness(images, *, scale=1.0):
  """An evaluator as a user would write it."""
  return {"lightness": scale * images.mean((2, 3, 4))}


def kl(fn: str, weight: float) -> dict:
  """Overrides for a term that holds the policy near its reference."""
  return {"regularizers.kl.fn": fn, "regularizers.kl.weight": weight}


def texts(*overrides) -> list[tuple[str, str]]:
  """Overrides as the command line gives them; later ones win."""
  merged = {}
  for one in overrides:
    merged |= one
  return [(k, str(v)) for k, v in merged.items()]


def flags(spec, workdir, *overrides) -> list[str]:
  """Arguments of `jaxreward.main`."""
  return [
    f"--config={CONFIGS / spec}",
    f"--workdir={workdir}",
    *(f"--config.{k}={v}" for k, v in texts(*overrides)),
  ]


def load(spec, *overrides):
  """The locked config of a file in configs/ with overrides."""
  return config_lib.load(str(CONFIGS / spec), texts(*overrides))


def use_one_device(monkeypatch) -> None:
  """Jobs see the first device alone: eight on two cores only make them slower."""
  first = jax.devices()[:1]
  monkeypatch.setattr(jax, "devices", lambda *_: first)


def run(config, workdir) -> epath.Path:
  """Runs the config's job in this process."""
  workdir = epath.Path(workdir)
  with workdirs.take(workdir, config):
    jobs.find(config)(config, workdir)
    jobs.report(config.job, workdir)
  return workdir


def start(arguments, *, devices=1, **kwargs) -> subprocess.Popen:
  """The same in a process of its own."""
  env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
  env["XLA_FLAGS"] = hurry.xla_flags(devices)  # it ends soon
  return subprocess.Popen(
    [sys.executable, "-m", "jaxreward.main", *arguments],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=env,
    **kwargs,
  )


def rows(workdir, job=None) -> list[dict]:
  """Rows of metrics.jsonl."""
  text = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
  found = [json.loads(line) for line in text.splitlines()]
  return [r for r in found if job is None or r["job"] == job]


def shaken(params, scale=0.05, seed=0):
  """Parameters with noise added: layers that start at zero do something."""
  leaves, tree = jax.tree.flatten(params)
  rng = np.random.default_rng(seed)
  drawn = [
    np.asarray(x) + scale * rng.standard_normal(x.shape).astype(np.float32)
    for x in leaves
  ]
  return jax.tree.unflatten(tree, drawn)


def drawn(init, *args, seed=0):
  """Parameters of the shapes that `init` gives, without a program to draw them.

  Kernels are normal, by their fan-in; vectors are one, and biases zero.
  """
  rng = np.random.default_rng(seed)

  def draw(path, like):
    if len(like.shape) < 2:
      is_bias = "bias" in jax.tree_util.keystr(path[-1:])
      return np.full(like.shape, float(not is_bias), like.dtype)
    fan_in = np.prod(like.shape[:-1])
    values = rng.standard_normal(like.shape, np.float32) / np.sqrt(fan_in)
    return values.astype(like.dtype)

  return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init, *args))


def save_weights(path, config, **kwargs) -> str:
  """A checkpoint of the config's model that draws more than grey."""
  policy = setup.make_policy(config)
  params = jax.jit(policy.init)(jax.random.key(0))
  weights.save_params(path, shaken(params, **kwargs))
  return str(path)


def small_policy(user: int = 0, side: int = 36) -> Policy:
  """Two layers on the pixels: compiles in a moment, and no layer is zero.

  Args:
    user: width of the vector of a user that it reads; 0 for none.
    side: of its images; those that edits start from are not looked at.
  """
  hidden, pixels = 16, side * side * 3

  def init(key):
    a, b, c, d = jax.random.split(key, 4)
    normal = lambda k, *shape: jax.random.normal(k, shape)
    of_user = {"user_in": normal(a, user, hidden)} if user else {}
    return of_user | {
      "words": normal(a, len(grammar.VOCAB), hidden) * 0.5,
      "into": {"kernel": normal(b, pixels, hidden) / pixels**0.5},
      "time": {"bias": normal(c, hidden)},
      "out": {"kernel": normal(d, hidden, pixels) * 0.2},
    }

  def velocity(params, x_t, t, cond):
    h = x_t.reshape(-1, pixels) @ params["into"]["kernel"]
    h = jnp.tanh(h + cond + t[:, None] * params["time"]["bias"])
    x0 = jnp.tanh(h @ params["out"]["kernel"]).reshape(x_t.shape)
    return (x_t - x0) / jnp.maximum(t, 0.05)[:, None, None, None]

  def encode(params, prompts):
    if not isinstance(prompts, dict):
      return params["words"][prompts].sum(1)
    words = params["words"][prompts["tokens"]].sum(1)
    return words + prompts["user"] @ params["user_in"] if user else words

  return Policy(
    init=init,
    encode=encode,
    user=user,
    velocity=velocity,
    to_pixels=lambda x, decoder=None: x * 0.5 + 0.5,
    latent_shape=(side, side, 3),
    sharding_rules=(
      ("^into/kernel$", ("fsdp", None)),
      ("^out/kernel$", (None, "fsdp")),
      ("^(words|time/bias|user_in)$", ()),
    ),
  )


def mesh_of(count, data=-1, fsdp=1, tensor=1):
  """A mesh over the first devices."""
  return mesh_lib.make_mesh(data, fsdp, tensor, devices=jax.devices()[:count])


class Iteration:
  """The programs of an align job on a mesh, with one batch of prompts.

  The policy is the small one; `real` takes the config's.

  Attributes:
    mesh: entered by every method.
    plan: geometry and constants.
    parts: what `align.prepare` makes.
    batch: prompts of the first iteration, on the mesh.
  """

  def __init__(self, config, mesh, *, real=False, plan=None, scale=4.0):
    self.scale = scale  # of the rewards
    self.config, self.mesh = config, mesh
    user, side = (
      config.model.get(name, default)
      for name, default in (("user", 0), ("image_size", 36))
    )
    small = functools.partial(small_policy, user, side)
    self.policy = setup.make_policy(config) if real else small()
    self.plan = plan or make_plan(config, mesh)
    loaded = reward_setup.load(config, epath.Path("."), ("rewards",))
    self.weights = {k: r.weight for k, r in loaded.items()}
    self.files = offline.batches(config)
    self.files = row_scores.conditioned(config, self.files, loaded)
    self.rewards = align.differentiated_rewards(self.plan, loaded, self.weights)
    if self.files is not None:
      self.weights = offline.WEIGHTS
    with jax.set_mesh(mesh):
      base = jax.jit(self.policy.init)(jax.random.key(0))
      base = shaken(base) if real else base
      self.parts = align.prepare(
        config, mesh, self.policy, base, self.plan, self.weights,
        self.rewards.values(),
      )  # fmt: skip
      put = pipeline.place_batch(mesh, replicated=True)
      self.rows = None if self.files is None else put(self.files(0))
      self.batch = self.rows.prompts if self.rows else put(prompts_of(config))

  @property
  def state(self):
    """The state at step 0, in arrays of its own: `update` uses them up."""
    return self.copy(self.parts.state)

  def copy(self, tree):
    """The tree in new buffers on the same places."""
    places = jax.tree.map(lambda x: x.sharding, tree)
    same = lambda t: jax.tree.map(lambda x: x + 0, t)
    return jax.jit(same, out_shardings=places)(tree)

  def sample(self, state):
    """(trajectory, pixels, images)."""
    with jax.set_mesh(self.mesh):
      if self.rows is not None:
        return self.parts.encode(self.rows.images), None, self.rows.images
      return self.parts.sample(state, self.parts.base, self.batch)

  def scores(self, images):
    """{reward: [P, G]}: a channel of the images for each, or of the file."""
    if self.rows is not None:
      return {offline.SCORE: self.rows.scores}
    return {
      name: redness(images, None, channel=i % 3, scale=self.scale)
      for i, name in enumerate(self.weights)
    }

  def step_scores(self, state, trajectory, scores):
    """Scores of every step's latents where the advantage asks for them."""
    if self.parts.finish is None:
      return None
    params = async_rollout.draw_params(state)
    images = [
      self.parts.finish(
        params, jnp.int32(i), self.parts.base, trajectory, self.batch
      )
      for i in range(len(self.plan.table.t))
    ]
    rows = [*(self.scores(x) for x in images), scores]
    return {k: jnp.stack([row[k] for row in rows], -1) for k in scores}

  def references(self):
    """Scores of the first policy where the composition takes them."""
    if not references.are_wanted(self.config):
      return {}
    params, last = (
      async_rollout.draw_params(self.parts.state),
      references.ITERATION,
    )
    return self.scores(
      self.parts.draw(params, jnp.int32(last), self.parts.base, self.batch)[2]
    )

  def update(self, state, trajectory, scores, images=None):
    """(state, metrics as numbers); the state given is used up."""
    contexts = contexts_of(self.rewards, self.batch) if self.rewards else None
    with jax.set_mesh(self.mesh):
      state, metrics = self.parts.update(
        state, self.parts.base, trajectory, scores, self.batch, contexts, None,
        self.step_scores(state, trajectory, scores),
        {"references": self.references()}, self.late(images),
      )  # fmt: skip
    return state, metrics

  def late(self, images):
    """Labels of the iteration for players that learn of a judge."""
    roles = [role for role in players.bind(self.config) if role.judge]
    if images is None or not roles:
      return None
    labels = judge_labels.Labels(
      redness(images, None), self.batch.words, self.batch.mask
    )
    return judge_labels.Late(images, {role.name: labels for role in roles})

  def step(self, state):
    """A whole iteration: (state, metrics, trajectory)."""
    trajectory, _, images = self.sample(state)
    scores = self.scores(images)
    state, metrics = self.update(state, trajectory, scores, images)
    return state, metrics, trajectory


def make_plan(config, mesh):
  """The plan that the align job would make on this mesh."""
  return align.make_plan(config, mesh_lib.round_up_to_devices(1, mesh))


def prompts_of(config, n=0):
  """Prompts of iteration n of the align job."""
  task = setup.make_task(config)
  batches = task.batches(
    task.prompts("train"),
    seed=config.seed,
    batch_size=config.rollout.prompts,
    kind_weights=config.data.kind_weights,
  )
  return batches(n)


def numbers(metrics) -> dict[str, float]:
  """Pooled means as floats, without those that weigh nothing."""
  return loop.to_numbers(metrics)


def with_old(state, params):
  """The state with another old policy."""
  old = state.references["old"].replace(params=params)
  return state.replace(references=state.references | {"old": old})


def flat(tree) -> np.ndarray:
  """All leaves as one float64 vector."""
  leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
  return np.concatenate(leaves)


def same_bits(a, b) -> bool:
  """Whether two trees hold the same bits."""
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(
    np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs
  )


def sample_rows(policy, params, keys, cond, uncond, table, **options):
  """A trajectory of rows with a conditioning each, in one chunk."""
  rows = len(keys)
  layout = rollout.make_layout(rows, 1, rows)
  drawer = sampler.Sampler(policy, table, layout, **options)
  state = drawer.begin(keys, np.arange(rows, dtype=np.int32), cond, uncond)
  return drawer.run(params, state)
