"""What export writes of each public policy is opened by diffusers' classes."""

import inspect
import json

import jax
import numpy as np
import pytest
from etils import epath

from jaxreward import setup
from jaxreward.jobs import export
from jaxreward.models import convert, lora
from jaxreward.setup import adapters
from tests import tiny, turns

pytestmark = [pytest.mark.job, pytest.mark.parity]

SPEC = "align_public.py:{},tiny"
PIPELINES = {
  "sd35_medium": "StableDiffusion3Pipeline",
  "flux_dev": "FluxPipeline",
  "kontext": "FluxKontextPipeline",
  "qwen_image_edit": "QwenImageEditPipeline",
  "wan_i2v": "WanImageToVideoPipeline",
  "wan22_t2v": "WanPipeline",
  "z_image": "ZImagePipeline",
  "klein_4b": "Flux2KleinPipeline",
}
# Networks and loaders of one above, under another name.
LIKE_THEM = {
  "sd35_large": "StableDiffusion3Pipeline",
  "flux_schnell": "FluxPipeline",
  "qwen_image": "QwenImagePipeline",
  "wan_t2v": "WanPipeline",
  "wan22_i2v": "WanImageToVideoPipeline",
  "wan22_ti2v_5b": "WanPipeline",
  "z_image_turbo": "ZImagePipeline",
  "klein_9b": "Flux2KleinPipeline",
}


def drawn(config):
  """(policy, its base, adapters) of random numbers; nothing is compiled."""
  policy = setup.make_policy(config)
  trainable = setup.make_trainable(config, policy)
  shapes = jax.eval_shape(trainable.policy.init, jax.random.key(0))
  rng = np.random.default_rng(0)
  draw = lambda s: 0.1 * rng.standard_normal(s.shape, "f4")
  return policy, *lora.split(jax.tree.map(draw, shapes))


def networks(policy, tree):
  """{folder of a pipeline: parameters}, of one network or of several."""
  if policy.parts is None:
    return {"transformer": tree}
  return {folder: tree[name] for name, folder in policy.parts.items()}


def pipeline_of(name, models):
  import diffusers

  kind = getattr(diffusers, name)
  given = models | {"boundary_ratio": None, "expand_timesteps": False}
  wanted = inspect.signature(kind).parameters
  return kind(**{n: given.get(n) for n in wanted})


def written(config, policy, folder, params):
  export.write_whole(config, policy, epath.Path(folder), params, 3)
  return folder


def opened(policy, folder):
  """{folder: network of diffusers}, by the class that its config names."""
  import diffusers

  found = {}
  for name in networks(policy, dict.fromkeys(policy.parts or ())):
    at = folder / name if policy.parts else folder
    record = json.loads((at / "config.json").read_text())
    found[name] = getattr(diffusers, record["_class_name"]).from_pretrained(at)
  return found


def assert_holds(model, params, policy, atol=0.0):
  state = model.state_dict()
  public = convert.to_public(params, policy.layout)
  assert set(state) == set(public)
  for name, want in public.items():
    got = state[name].numpy()
    np.testing.assert_allclose(got, want, atol=atol, rtol=atol, err_msg=name)


@pytest.mark.parametrize(
  "model",
  [*PIPELINES, *turns.one_due(list(LIKE_THEM))],
)
def test_pipelines_hold_what_was_trained(tmp_path, model):
  """All parameters in one folder; and adapters, which their pipeline fuses."""
  config = tiny.load(SPEC.format(model))
  policy, base, adapter = drawn(config)
  whole = config.copy_and_resolve_references()
  with whole.unlocked():
    whole.lora.rank = 0
  models = opened(policy, written(whole, policy, tmp_path / "base", base))
  for name, params in networks(policy, base).items():
    assert_holds(models[name], params, policy)

  folder = written(config, policy, tmp_path / "lora", adapter)
  pipe = pipeline_of((PIPELINES | LIKE_THEM)[model], models)
  pipe.load_lora_weights(folder / "transformer" if policy.parts else folder)
  if policy.parts:
    pipe.load_lora_weights(
      folder / "transformer_2", load_into_transformer_2=True
    )
  pipe.fuse_lora(components=list(models))
  pipe.unload_lora_weights()
  read = adapters.read(str(folder), policy)
  want = jax.tree.map(np.asarray, jax.jit(_fused(config))(base, adapter))
  for name, params in networks(policy, want).items():
    assert_holds(models[name], params, policy, atol=1e-5)
  for a, b in zip(
    jax.tree.leaves(lora.add(base, read)), jax.tree.leaves(want), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert any(
    np.abs(a - b).max() > 0.05
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(base), strict=True)
  )


def _fused(config):
  return lambda base, adapter: lora.fuse(
    lora.merge(base, adapter), alpha=config.lora.alpha
  )


def test_an_exported_adapter_starts_another_run(tmp_path):
  """Below the weights of any job, or as the adapters that it trains."""
  config = tiny.load(SPEC.format("sd35_medium"))
  policy, base, adapter = drawn(config)
  convert.save_params(tmp_path / "base", base, policy.layout)
  folder = written(config, policy, tmp_path / "lora", adapter)
  want = jax.jit(_fused(config))(base, adapter)
  near = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
  started = config.copy_and_resolve_references()
  with started.unlocked():
    started.init.checkpoint = str(tmp_path / "base")
    started.init.adapter = str(folder)
    started.lora.init = str(folder)
    started.lora.update(rank=config.lora.rank + 1, alpha=3.0)
  adapters.check(started, policy)
  jax.tree.map(near, setup.load_params(started, policy), want)
  trainable = setup.make_trainable(started, policy)
  start = adapters.start(started, policy, trainable.init)
  again = jax.jit(_fused(started))(base, start)
  jax.tree.map(near, again, want)
  # What such a run exports says which other adapter it needs.
  second = written(started, policy, tmp_path / "second", start)
  record = json.loads((second / "export.json").read_text())
  assert record["on_top_of"] == str(folder)
