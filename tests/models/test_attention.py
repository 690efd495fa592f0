"""Attention through kernels: the plain numbers, on one device and on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding, PartitionSpec

from jaxreward import main
from jaxreward.errors import UserError
from jaxreward.models import attention, sequence
from jaxreward.models.policies import mmdit, sd3
from jaxreward.training import mesh as mesh_lib
from tests import tiny

D = 16


def arrays(rows, tokens, keys, heads):
  rng = np.random.default_rng(0)
  draw = lambda n: jnp.asarray(rng.normal(size=(rows, n, heads, D)), "float32")
  return draw(tokens), draw(keys), draw(keys)


def reference(q, k, v, mask):
  """Softmax attention in float64."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  logits = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(D)
  logits = np.where(np.asarray(mask)[:, None, None], logits, -np.inf)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum("bhnm,bmhd->bnhd", weights, v)


def plain(q, k, v, mask):
  return jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None])


def slopes(run, q, k, v, mask):
  weigh = jnp.cos(jnp.arange(q.size)).reshape(q.shape)
  loss = lambda q, k, v: jnp.sum(run(q, k, v, mask) * weigh)
  return jax.grad(loss, (0, 1, 2))(q, k, v)


def near(got, want, atol=2e-5):
  np.testing.assert_allclose(got, want, atol=atol, rtol=0)


@pytest.mark.parametrize(
  ("tokens", "keys", "hidden"),
  [(128, 128, 0), (130, 70, 0), (40, 300, 9)],
  ids=["whole blocks", "filled up", "with a mask"],
)
@pytest.mark.turns(3)
def test_flash_gives_the_plain_numbers_and_gradients(tokens, keys, hidden):
  q, k, v = arrays(2, tokens, keys, 2)
  mask = jnp.arange(keys) < jnp.array([[keys - hidden], [keys]])
  given = mask if hidden else None
  with pltpu.force_tpu_interpret_mode():
    got = attention.flash(q, k, v, given)
    grads = slopes(lambda *x: attention.flash(*x[:3], given), q, k, v, mask)
  near(got, reference(q, k, v, mask))
  for x, y in zip(grads, slopes(plain, q, k, v, mask), strict=True):
    near(x, y, 1e-4)


@pytest.mark.turns(3)
@pytest.mark.parametrize("rows", [4, 3], ids=["cut", "the same on all"])
@pytest.mark.parametrize("heads", [4, 3], ids=["by heads", "by queries"])
def test_a_share_on_every_device_gives_the_same(rows, heads):
  mesh = mesh_lib.make_mesh(2, 2, 2, devices=jax.devices()[:8])
  q, k, v = arrays(rows, 13, 11, heads)
  mask = jnp.arange(11) < jnp.arange(5, 5 + rows)[:, None]
  assert heads == 3 or heads % 2 == 0
  run = lambda *x: sequence.by_device(plain, *x)
  near(run(q, k, v, mask), reference(q, k, v, mask))
  with jax.set_mesh(mesh):
    got = jax.jit(run)(q, k, v, mask)
    grads = jax.jit(lambda *x: slopes(run, *x))(q, k, v, mask)
    text = str(jax.make_jaxpr(run)(q, k, v, mask))
  near(got, reference(q, k, v, mask))
  for x, y in zip(grads, slopes(plain, q, k, v, mask), strict=True):
    near(x, y)
  own = rows // 4 if rows == 4 else rows
  share = (own, 13, 2, D) if heads == 4 else (own, 7, 3, D)
  assert "shard_map" in text
  assert f"f32[{','.join(map(str, share))}]" in text


def test_no_mask_passes_through(monkeypatch):
  mesh = mesh_lib.make_mesh(2, 2, 2, devices=jax.devices()[:8])
  q, k, v = arrays(4, 8, 8, 2)
  run = lambda q, k, v: sequence.by_device(
    lambda q, k, v, mask: jax.nn.dot_product_attention(q, k, v, mask=mask),
    q, k, v, None,
  )  # fmt: skip
  with jax.set_mesh(mesh):
    near(jax.jit(run)(q, k, v), run(q, k, v))


def test_auto_is_plain_on_a_cpu_to_the_bit():
  q, k, v = arrays(2, 6, 6, 2)
  auto = attention.attention(q, k, v, form="auto")
  np.testing.assert_array_equal(auto, attention.attention(q, k, v))


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_fused_block_gives_the_plain_values_and_gradients():
  r = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(r.normal(size=shape), "float32")
  image, text, signal = draw(1, 4, 32), draw(1, 3, 32), draw(1, 32)
  angle = draw(7, D // 2)
  rotary = jnp.cos(angle), jnp.sin(angle)

  def run(form, params):
    block = mmdit.JointBlock(32, 2, jnp.float32, attention=form, dual=True)
    # Only pixels have a self-attention of their own, which is not rotated.
    arguments = ((image, text), signal, rotary, None)
    if params is None:
      return jax.eval_shape(block.init, jax.random.key(0), *arguments)

    def loss(params):
      carry, _ = block.apply(params, *arguments)
      return sum(jnp.sum(jnp.sin(x)) for x in carry), carry

    return jax.jit(jax.grad(loss, has_aux=True))(params)

  shapes = run("plain", None)
  assert jax.tree.all(
    jax.tree.map(lambda a, b: a == b, shapes, run("fused", None))
  )
  params = jax.tree.map(lambda s: 0.2 * draw(*s.shape), shapes)
  results = run("plain", params), run("fused", params)
  for y, z in zip(*map(jax.tree.leaves, results), strict=True):
    near(y, z, 1e-5 * (1 + np.abs(z).max()))
  assert not attention.is_fused("auto", 2, 16, 8, None)
  assert not attention.is_fused("fused", 2, 16, 8, jnp.ones((1, 8), bool))


@pytest.mark.parametrize(
  ("platform", "dtype", "form"),
  [
    ("tpu", "float32", "flash"),
    ("tpu", "bfloat16", "flash"),
    ("gpu", "bfloat16", "cudnn"),
    ("cuda", "float16", "cudnn"),
    ("gpu", "float32", "plain"),
    ("cpu", "bfloat16", "plain"),
  ],
)
def test_auto_takes_what_the_platform_has(platform, dtype, form):
  assert attention.choose("auto", jnp.dtype(dtype), platform) == form
  assert attention.choose("plain", jnp.dtype(dtype), platform) == "plain"
  attention.require_platform(form, platform)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"attention": "flahs"}, r'model.attention="flahs".*did you mean "flash"'),
    ({"attention": "cudnn", "dtype": "float32"}, "takes 16 bits"),
  ],
)
def test_a_form_that_cannot_be_is_refused_at_start(fields, message):
  with pytest.raises(UserError, match=message):
    sd3.make_policy(size="tiny", latent_side=8, **fields)


@pytest.mark.parametrize(
  ("form", "platform", "needed"),
  [("flash", "cpu", "TPU"), ("flash", "gpu", "TPU"), ("cudnn", "tpu", "GPU")],
)
def test_another_platforms_form_is_refused(form, platform, needed):
  with pytest.raises(UserError, match=f'"{form}" needs a {needed}, and this'):
    attention.require_platform(form, platform)


def test_a_job_refuses_it_before_it_starts(tmp_path, capfd):
  flags = tiny.flags(
    "align_public.py:tiny", tmp_path, {"model.attention": "flash"}
  )
  assert main.main(flags) == 2
  assert 'needs a TPU, and this is a CPU: use "auto"' in capfd.readouterr().err


@pytest.mark.tpu_compile
@pytest.mark.parametrize("heads", [24, 38], ids=["by heads", "by queries"])
@pytest.mark.turns(3)
def test_a_tpu_takes_it_forward_and_backward(heads):
  """Over data and tensor of v5e, at the sizes of SD3.5 at 512 pixels."""
  pytest.importorskip("libtpu")
  from jaxreward.compilation import topology

  found = topology.find("v5e-4")
  topology.require(found)
  mesh = mesh_lib.make_mesh(1, 2, 2, devices=topology.devices(found))
  rows = NamedSharding(mesh, PartitionSpec(mesh_lib.BATCH_AXES))
  x = jax.ShapeDtypeStruct((4, 1357, heads, 64), jnp.bfloat16, sharding=rows)
  run = lambda q, k, v: attention.attention(q, k, v, form="auto").sum()
  with jax.set_mesh(mesh):
    text = jax.jit(jax.grad(run, (0, 1, 2))).lower(x, x, x).compile().as_text()
  assert text.count("tpu_custom_call") >= 3  # forward, and two backward
