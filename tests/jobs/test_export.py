"""What the job export writes is what was trained, for others and for us."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from jaxreward import setup
from jaxreward.errors import UserError
from jaxreward.jobs import align, export
from jaxreward.models import convert, lora
from jaxreward.training.checkpoint import Checkpoints
from tests import tiny

pytestmark = pytest.mark.job

ROOT = pathlib.Path(__file__).parents[2]
SD3 = "align_public.py:sd35_medium,objective=flow_grpo,tiny"
SMALL = {
  "eval.samples": 6, "eval.quick_samples": 6, "eval.every": 0,
  "rollout.prompts": 2, "rollout.microbatch": 4, "checkpoint.every": 1,
}  # fmt: skip
SCENES = (
  tiny.MODEL
  | tiny.FAST
  | tiny.REWARD
  | {
    "align.iterations": 2,
    "checkpoint.every": 1,
    "eval.every": 1,
    "checkpoint.best": "eval/reward/redness",
  }
)


def exporting(config, **options):
  """The config of the run, for the job export."""
  found = config.copy_and_resolve_references()
  with found.unlocked():
    found.job = "export"
    found.export.update(options)
  return found.lock()


def state_of(config, workdir, step):
  """What the checkpoint of a step holds."""
  made = export._programs(
    config, setup.make_mesh(config), setup.make_policy(config)
  )
  folder = workdir / "checkpoints" / "align"
  with Checkpoints(folder) as checkpoints:
    return checkpoints.restore(step, made.state), made.trainable


def velocity(policy, params, args):
  x, t, prompts = jax.tree.map(jnp.asarray, args)

  @jax.jit
  def run(params):
    return policy.velocity(params, x, t, policy.encode(params, prompts))

  return run(params)


def theirs(model, args):
  """As diffusers calls Stable Diffusion 3."""
  import torch

  x, t, prompts = args
  put = lambda a: torch.tensor(np.asarray(a))
  out = model(
    hidden_states=put(x).permute(0, 3, 1, 2),
    encoder_hidden_states=put(prompts["words"]),
    pooled_projections=put(prompts["pooled"]),
    timestep=put(t) * 1000,
  ).sample
  return out.permute(0, 2, 3, 1).detach().numpy()


def inputs(policy, rows=2):
  rng = np.random.default_rng(0)
  draw = lambda *s: rng.standard_normal(s).astype(np.float32)
  prompts = jax.tree.map(lambda s: draw(rows, *s.shape[1:]), policy.prompts)
  t = np.array([0.5, 0.9], np.float32)
  return draw(rows, *policy.latent_shape), t, prompts


@pytest.mark.turns(4)
@pytest.mark.parity
def test_diffusers_and_peft_draw_what_was_trained(tmp_path):
  diffusers = pytest.importorskip("diffusers")
  peft = pytest.importorskip("peft")
  workdir = epath.Path(tmp_path)
  config = tiny.load(SD3, SMALL, {"optimizer.learning_rate": 0.05})
  align.run(config, workdir)
  policy = setup.make_policy(config)
  args = inputs(policy)
  state, trainable = state_of(config, workdir, 2)
  base = setup.load_params(config, policy)
  kind = diffusers.SD3Transformer2DModel
  for average, trained in ((True, state.ema), (False, state.params)):
    want = velocity(trainable.policy, lora.merge(base, trained), args)
    still = velocity(policy, base, args)
    assert np.abs(want - still).max() > 1e-2  # the adapters do something
    folder = pathlib.Path(workdir) / "export" / "final"

    export.run(exporting(config, average=average, fuse=True), workdir)
    fused = kind.from_pretrained(folder).eval()
    np.testing.assert_allclose(theirs(fused, args), want, atol=1e-4)
    started = config.copy_and_resolve_references()
    started.init.checkpoint = str(folder)
    params = setup.load_params(started, policy)
    np.testing.assert_allclose(velocity(policy, params, args), want, atol=1e-4)

    export.run(exporting(config, average=average), workdir)
    model = kind(**dict(fused.config))
    plain = convert.to_public(base, policy.layout)
    import torch

    model.load_state_dict(
      {n: torch.tensor(np.array(x)) for n, x in plain.items()}
    )
    adapted = peft.PeftModel.from_pretrained(model.eval(), folder)
    got = theirs(adapted.base_model.model, args)
    np.testing.assert_allclose(got, want, atol=1e-4)
    record = json.loads((folder / "export.json").read_text())
    assert record == {"step": 2, "average": average}


@pytest.mark.slow
def test_a_scene_policy_comes_back_as_a_checkpoint(tmp_path, weights_file):
  """From the command line, by the workdir alone; best is the best step."""
  workdir = epath.Path(tmp_path / "run")
  config = tiny.load(
    "align_scenes.py:smoke", SCENES,
    {"init.checkpoint": weights_file, "optimizer.learning_rate": 0.05},
  )  # fmt: skip
  tiny.run(config, workdir)
  rows = tiny.rows(workdir, "align")
  before = (workdir / "config.json").read_text()
  for step in ("best", "1"):
    done = subprocess.run(
      [
        sys.executable, "-m", "jaxreward.main", "--config=configs/export.py",
        f"--workdir={workdir}", f"--config.export.step={step}",
        "--config.export.dtype=bfloat16",
      ],
      env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
      text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
  assert (workdir / "config.json").read_text() == before  # the run is as it was
  metric = "eval/reward/redness"
  best = max((r for r in rows if r["step"]), key=lambda r: r[metric])["step"]
  found = json.loads((workdir / "export" / "best" / "export.json").read_text())
  assert found["step"] == best
  file = workdir / "export" / "1" / "policy.safetensors"
  state, _ = state_of(config, workdir, 1)
  started = config.copy_and_resolve_references()
  started.init.checkpoint = str(file)
  read = setup.load_params(started, setup.make_policy(config))
  near = lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8)
  jax.tree.map(near, read, state.ema)
  shipped = safetensors.numpy.load_file(
    setup.ASSETS / "scenes_base.safetensors"
  )
  assert safetensors.numpy.load_file(file).keys() <= shipped.keys()


@pytest.mark.parametrize(
  ("spec", "options", "message"),
  [
    (SD3, {"export.step": "last"}, 'config.export.step="last": expected final'),
    (
      "align_scenes.py:smoke",
      {"export.fuse": "true"},
      "config.export.fuse=True: config.lora.rank=0",
    ),
    (
      "align_scenes.py:smoke",
      {"lora.rank": 2},
      'config.export.fuse=False: adapters of "scene_dit" have no public layout',
    ),
    (
      SD3,
      {"job": "pipeline", "jobs": "export,align"},
      "config.jobs=export,align: no align before export",
    ),
  ],
)
def test_what_cannot_be_exported_is_refused(spec, options, message):
  with pytest.raises(UserError) as caught:
    export.check(tiny.load(spec, options))
  assert message in str(caught.value)


def test_folders_without_a_run_or_a_step_are_refused(command, tmp_path):
  assert command("export.py", tmp_path / "none") == 2
  assert "holds no run" in command.error
  config = tiny.load("align_scenes.py:smoke")
  workdir = epath.Path(tmp_path / "run")
  with pytest.raises(UserError, match="holds no checkpoint of the job align"):
    export.run(exporting(config), workdir)
  (workdir / "checkpoints" / "align").mkdir(parents=True)
  with pytest.raises(UserError, match="holds no checkpoint of the job align"):
    export.run(exporting(config), workdir)
  with Checkpoints(workdir / "checkpoints" / "align") as checkpoints:
    checkpoints.save(3, {"x": np.zeros(2)}, {})
  for step, message in (
    ("best", "no checkpoint has a score"),
    ("4", "there is no checkpoint of step 4; there are 3"),
    ("final", "3 cannot be restored"),
  ):
    with pytest.raises(UserError, match=message):
      export.run(exporting(config, step=step), workdir)
