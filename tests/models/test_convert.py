"""The conversion table: both directions, every form, every complaint."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxreward.errors import UserError
from jaxreward.models import convert, hub
from jaxreward.training import mesh as meshes

RULES = (
  *convert.conv("patch", "embed.proj"),
  *convert.linear(
    "blocks/qkv", tuple(f"layer.{{}}.{n}" for n in "qkv"), [0, 2]
  ),
  *convert.norm("blocks/norm", "layer.{}.norm", [0, 2], bias=False),
  *convert.linear("last", "layer.3.out", bias=False),
  convert.Rule("place", "pos", convert.Form(lambda x: x[0], lambda x: x[None])),
  convert.Rule("", "*.position_ids"),
)
PUBLIC_SHAPES = {
  "embed.proj.weight": (4, 3, 2, 5),
  "embed.proj.bias": (4,),
  **{f"layer.{i}.{n}.weight": (6, 4) for i in (0, 2) for n in "qkv"},
  **{f"layer.{i}.{n}.bias": (6,) for i in (0, 2) for n in "qkv"},
  **{f"layer.{i}.norm.weight": (6,) for i in (0, 2)},
  "layer.3.out.weight": (5, 4),
  "pos": (1, 7, 4),
}


def public(seed=0):
  rng = np.random.default_rng(seed)
  return {
    n: rng.standard_normal(s).astype(np.float32)
    for n, s in PUBLIC_SHAPES.items()
  }


def like(dtype=jnp.float32):
  shape = lambda *s: jax.ShapeDtypeStruct(s, dtype)
  return {
    "patch": {"kernel": shape(2, 5, 3, 4), "bias": shape(4)},
    "blocks": {
      "qkv": {"kernel": shape(2, 4, 18), "bias": shape(2, 18)},
      "norm": {"scale": shape(2, 6)},
    },
    "last": {"kernel": shape(4, 5)},
    "place": shape(7, 4),
  }


def write(tmp_path, arrays):
  path = tmp_path / "model.safetensors"
  safetensors.numpy.save_file(arrays, path)
  return path


def test_every_form_puts_its_numbers_where_they_belong(tmp_path):
  arrays = public()
  params = convert.load_params(write(tmp_path, arrays), RULES, like())
  kernel = params["patch"]["kernel"]
  assert kernel[1, 4, 2, 3] == arrays["embed.proj.weight"][3, 2, 1, 4]
  qkv = params["blocks"]["qkv"]["kernel"]
  assert qkv[1, 2, 6 + 5] == arrays["layer.2.k.weight"][5, 2]
  assert qkv[0, 3, 12 + 1] == arrays["layer.0.v.weight"][1, 3]
  assert (
    params["blocks"]["norm"]["scale"][1, 4]
    == (arrays["layer.2.norm.weight"][4])
  )
  assert params["last"]["kernel"][3, 1] == arrays["layer.3.out.weight"][1, 3]
  assert params["place"][6, 2] == arrays["pos"][0, 6, 2]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shard_bytes", [10**9, 200])
def test_round_trip_is_exact(tmp_path, dtype, shard_bytes):
  arrays = {n: x.astype(jnp.dtype(dtype)) for n, x in public().items()}
  arrays["text.position_ids"] = np.arange(3)
  params = convert.load_params(write(tmp_path, arrays), RULES, like())
  del arrays["text.position_ids"]
  folder = tmp_path / "out"
  convert.save_params(
    folder, params, RULES, dtype=dtype, shard_bytes=shard_bytes,
    config={"depth": 2},
  )  # fmt: skip
  assert (len(list(folder.glob("*.safetensors"))) > 1) == (shard_bytes < 10**9)
  assert hub.read_config(folder) == {"depth": 2}
  found = {n: s.read() for n, s in hub.open_weights(folder).items()}
  assert set(found) == set(arrays)
  for name, array in arrays.items():
    assert found[name].dtype == array.dtype
    assert found[name].tobytes() == array.tobytes(), name
  if shard_bytes < 10**9:
    index = json.loads(next(folder.glob("*.index.json")).read_text())
    size = sum(x.nbytes for x in arrays.values())
    assert index["metadata"]["total_size"] == size


def test_types_and_places_follow_the_tree_given(tmp_path):
  mesh = meshes.make_mesh(4, 2, 1)
  spec = jax.sharding.PartitionSpec(None, None, "fsdp")
  place = jax.sharding.NamedSharding(mesh, spec)
  wanted = like(jnp.bfloat16)
  wanted["blocks"]["qkv"]["kernel"] = jax.ShapeDtypeStruct(
    (2, 4, 18), jnp.bfloat16, sharding=place
  )
  params = convert.load_params(write(tmp_path, public()), RULES, wanted)
  kernel = params["blocks"]["qkv"]["kernel"]
  assert kernel.sharding == place
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}


def message(tmp_path, arrays) -> str:
  with pytest.raises(UserError) as error:
    convert.load_params(write(tmp_path, arrays), RULES, like())
  assert "\n" not in str(error.value)
  return str(error.value)


def test_complaints_name_tensors_and_shapes(tmp_path):
  arrays = public()
  arrays["layer.2.k.weight"] = np.zeros((5, 4), np.float32)
  assert "layer.2.k.weight is F32[5, 4], expected float[6, 4]" in message(
    tmp_path, arrays
  )
  arrays = public()
  arrays["layer.0.out.weight"] = arrays.pop("layer.3.out.weight")
  text = message(tmp_path, arrays)
  assert 'lacks layer.3.out.weight (did you mean "layer.0.out.weight"?)' in text
  assert "holds besides layer.0.out.weight" in text
  arrays = public()
  arrays["pos"] = np.zeros((1, 7, 4), np.int32)
  assert "pos is I32[1, 7, 4], expected float[1, 7, 4]" in message(
    tmp_path, arrays
  )
  assert "and 14 more" in message(tmp_path, {"pos": public()["pos"]})


def test_a_table_that_misses_a_parameter_is_an_error(tmp_path):
  path = write(tmp_path, public())
  with pytest.raises(ValueError, match="place"):
    convert.load_params(path, RULES[:-2], like())
  with pytest.raises(ValueError, match="twice"):
    convert.load_params(path, (*RULES, RULES[0]), like())
