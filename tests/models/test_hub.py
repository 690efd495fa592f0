"""Reading public weights: every layout of files, and what is refused."""

import json
import os
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jaxreward.errors import UserError
from jaxreward.models import hub
from jaxreward.models.vision import blip, iresnet

ARRAYS = {
  "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
  "b.bias": np.arange(3).astype(ml_dtypes.bfloat16),
  "c.ids": np.arange(4, dtype=np.int64),
}


def write(path: pathlib.Path, arrays) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  safetensors.numpy.save_file(arrays, path)
  return path


def sharded(folder: pathlib.Path) -> pathlib.Path:
  """Two shards and their index."""
  places = {}
  for i, name in enumerate(ARRAYS):
    file = f"model-{min(i, 1) + 1:05d}-of-00002.safetensors"
    places[name] = file
  for file in set(places.values()):
    write(folder / file, {n: ARRAYS[n] for n, f in places.items() if f == file})
  index = folder / "model.safetensors.index.json"
  index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
  return index


def assert_whole(found):
  assert set(found) == set(ARRAYS)
  for name, array in ARRAYS.items():
    assert found[name].shape == array.shape
    value = found[name].read()
    assert value.dtype == array.dtype
    np.testing.assert_array_equal(value, array)


def test_file_folder_and_shards_read_alike(tmp_path):
  file = write(tmp_path / "one" / "model.safetensors", ARRAYS)
  index = sharded(tmp_path / "two")
  for place in (file, file.parent, index, index.parent, f"{tmp_path}:two"):
    assert_whole(hub.open_weights(place))
  assert hub.open_weights(file)["b.bias"].dtype == "BF16"
  assert hub.open_weights(file)["b.bias"].is_float
  assert not hub.open_weights(file)["c.ids"].is_float


def test_layers_in_a_row_are_counted(tmp_path):
  one = np.zeros(1, np.float32)
  names = ("up.0.in", "up.1.in", "up.3.in", "down.1.in")
  file = write(tmp_path / "a.safetensors", dict.fromkeys(names, one))
  stored = hub.open_weights(file)
  counts = {"up.{}.in": 2, "down.{}.in": 0, "up.{}.out": 0}
  assert {n: hub.count_layers(stored, n) for n in counts} == counts


@pytest.mark.parametrize(
  ("read", "name", "words"),
  [
    (iresnet.net_of, "layer1.0.conv1.weight", "no IResNet"),
    (blip.config_of, "blip.visual_encoder.patch_embed.proj.weight",
     "no ImageReward"),
  ],
)  # fmt: skip
def test_what_tells_an_architecture_is_checked(read, name, words, tmp_path):
  file = write(tmp_path / "other.safetensors", ARRAYS)
  with pytest.raises(UserError, match=f"{words}: it lacks {name}$") as caught:
    read(str(file))
  assert str(file) in str(caught.value)
  write(file, {name: np.zeros(3, np.float32)})
  with pytest.raises(UserError, match=f"{words}: {name} has 1 axes, not 4"):
    read(str(file))


def test_config_beside_the_weights(tmp_path):
  file = write(tmp_path / "model.safetensors", ARRAYS)
  assert hub.read_config(file) == {}
  (tmp_path / "config.json").write_text('{"layers": 3}')
  assert hub.read_config(file) == hub.read_config(tmp_path) == {"layers": 3}
  (tmp_path / "config.json").write_text("[1]")
  with pytest.raises(UserError, match=r"config.json holds \[1\]; expected an"):
    hub.read_config(file)


@pytest.mark.parametrize("value", ["wide", 0, -1, 2.5, True, [3, 4], None])
def test_a_field_of_another_kind_is_named_with_its_value(value):
  read = lambda kind: hub.field({"n": value}, "n", kind, of="a.json: part")
  shown = json.dumps(value)
  for kind, expected in ((int, "a whole number above 0"), (dict, "an object")):
    with pytest.raises(UserError) as error:
      read(kind)
    assert str(error.value) == f"a.json: part: n={shown}; expected {expected}"
  if value == 2.5:
    assert read(float) == 2.5
  else:
    with pytest.raises(UserError, match="expected a number above 0"):
      read(float)


def test_a_field_that_is_absent_or_null_has_its_default():
  for record in ({}, {"n": None}):
    assert hub.field(record, "n", int, of="a.json", default=3) == 3
  assert hub.field({"n": 2}, "n", int, of="a.json", default=3) == 2


def refusal(place) -> str:
  with pytest.raises(UserError) as error:
    hub.open_weights(place)
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize("name", ["x.ckpt", "x.pkl"])
def test_pickles_are_refused_by_name_and_never_opened(tmp_path, name):
  (tmp_path / name).write_bytes(b"not even a pickle")
  for place in (tmp_path, tmp_path / name):
    assert f"{name} is a pickle" in refusal(place)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "x.pth"])
def test_files_of_pytorch_are_chosen_and_read_with_care(tmp_path, name):
  (tmp_path / name).write_bytes(b"not even a pickle")
  for place in (tmp_path, tmp_path / name):
    assert f"cannot read {tmp_path / name}" in refusal(place)
  (tmp_path / "other.bin").write_bytes(b"")
  assert "several files of PyTorch" in refusal(tmp_path)


def test_missing_shards_are_named(tmp_path):
  index = sharded(tmp_path)
  (tmp_path / "model-00002-of-00002.safetensors").unlink()
  message = refusal(index)
  assert "lacks 1 of 2 shards: model-00002-of-00002.safetensors" in message


def test_an_index_that_promises_too_much(tmp_path):
  index = sharded(tmp_path)
  text = json.loads(index.read_text())
  text["weight_map"]["ghost"] = "model-00001-of-00002.safetensors"
  index.write_text(json.dumps(text))
  assert "does not hold ghost" in refusal(tmp_path)
  index.write_text("{}")
  assert f"{index}: weight_map=null" in refusal(tmp_path)
  index.write_text('{"weight_map": {"a.weight": 3}}')
  message = refusal(tmp_path)
  assert f"{index}: weight_map.a.weight=3; expected a file name" in message
  index.write_text("[1]")
  assert f"{index} holds [1]; expected an object" in refusal(tmp_path)
  index.write_text("{")
  assert "cannot read" in refusal(tmp_path)


@pytest.mark.parametrize("kept", [4, 60, -1])
def test_truncated_files(tmp_path, kept):
  file = write(tmp_path / "model.safetensors", ARRAYS)
  file.write_bytes(file.read_bytes()[:kept])
  assert "is the download complete?" in refusal(file)


def test_folders_with_none_or_several(tmp_path):
  assert "holds no *.safetensors" in refusal(tmp_path)
  write(tmp_path / "vae" / "model.safetensors", ARRAYS)
  assert "sub-folders vae do" in refusal(tmp_path)
  write(tmp_path / "other.safetensors", ARRAYS)
  write(tmp_path / "adapter.safetensors", ARRAYS)
  message = refusal(tmp_path)
  assert "several checkpoints, name one of them" in message
  assert "adapter.safetensors" in message and "other.safetensors" in message
  assert f"{tmp_path} has no text" in refusal(f"{tmp_path}:text")
  (tmp_path / "notes.txt").write_text("x")
  assert "is not a .safetensors file" in refusal(tmp_path / "notes.txt")


def halved(arrays):
  """The arrays as float16 where they are floats: another variant."""
  is_whole = lambda x: np.issubdtype(x.dtype, np.integer)
  return {
    n: x if is_whole(x) else x.astype(np.float16) for n, x in arrays.items()
  }


def test_of_several_variants_the_plain_one_is_read(tmp_path):
  fp16 = write(tmp_path / "model.fp16.safetensors", halved(ARRAYS))
  assert hub.open_weights(tmp_path)["a.weight"].dtype == "F16"  # alone
  write(tmp_path / "model.safetensors", ARRAYS)
  assert_whole(hub.open_weights(tmp_path))
  assert hub.open_weights(fp16)["a.weight"].dtype == "F16"


def test_of_several_plain_ones_that_of_transformers_is_read(tmp_path):
  """As repositories that open_clip and transformers share hold them."""
  other = write(tmp_path / "open_clip_model.safetensors", halved(ARRAYS))
  write(tmp_path / "model.safetensors", ARRAYS)
  write(tmp_path / "model.fp16.safetensors", halved(ARRAYS))
  assert_whole(hub.open_weights(tmp_path))
  assert hub.open_weights(other)["a.weight"].dtype == "F16"
  (tmp_path / "model.safetensors").unlink()
  sharded(tmp_path)
  assert_whole(hub.open_weights(tmp_path))


@pytest.mark.parametrize("variant", ["index.fp16", "fp16.index"])
def test_variants_in_shards(tmp_path, variant):
  """Both spellings of a variant's index, as the public libraries write them."""
  index = sharded(tmp_path)
  shard = "model.fp16-00001-of-00001.safetensors"
  write(tmp_path / shard, halved(ARRAYS))
  other = tmp_path / f"model.safetensors.{variant}.json"
  other.write_text(json.dumps({"weight_map": dict.fromkeys(ARRAYS, shard)}))
  assert_whole(hub.open_weights(tmp_path))
  assert hub.open_weights(other)["a.weight"].dtype == "F16"
  index.unlink()
  for path in tmp_path.glob("model-*"):
    path.unlink()
  assert hub.open_weights(tmp_path)["a.weight"].dtype == "F16"


def test_quantised_tensors_are_refused_when_read(tmp_path):
  arrays = {"q": np.zeros(3, ml_dtypes.float8_e4m3fn)}
  found = hub.open_weights(write(tmp_path / "model.safetensors", arrays))
  with pytest.raises(UserError, match=r"q is stored as F8_E4M3.*BF16"):
    found["q"].read()


def test_without_the_extra_the_line_says_what_to_download(monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  message = refusal("org/name:transformer")
  assert 'pip install "jaxreward[hub]"' in message
  assert "https://huggingface.co/org/name/tree/main/transformer" in message
  assert "no hub id" in refusal("no/such/folder")


class NoNetwork:
  """Stands for the hub's client."""

  def __init__(self, place=None):
    self.place, self.asked = place, None

  def snapshot_download(self, repository, **which):
    self.asked = which
    if self.place is None:
      raise OSError("no route to host")
    return str(self.place)


def test_without_network_the_line_says_what_to_download(monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", NoNetwork())
  message = refusal("org/name")
  assert "no route to host" in message and "*.safetensors" in message


# Weights and configs, and what tokenizers of every kind are read from.
BESIDE = (".json", "merges.txt", "vocab.txt", ".model")
READ = (".safetensors", *BESIDE)
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
  ("inside", "patterns"),
  [
    ("a", [f"a/*{end}" for end in READ]),
    ("a/model.safetensors",
     ["a/model.safetensors", *(f"a/*{end}" for end in BESIDE)]),
    (f"a/{INDEX}", [f"a/*{end}" for end in READ]),
    ("model.safetensors",
     ["model.safetensors", *(f"*{end}" for end in BESIDE)]),
    (INDEX, [f"*{end}" for end in READ]),
    ("", [f"*{end}" for end in READ]),
  ],
)  # fmt: skip
def test_a_hub_id_fetches_only_what_is_asked(
  monkeypatch, tmp_path, inside, patterns
):
  """A file's configs and tokenizer too, and nothing of folders below."""
  folder = tmp_path / ("a" if inside.startswith("a") else "")
  if inside.endswith(INDEX):
    folder.mkdir(exist_ok=True)
    sharded(folder)
  else:
    write(folder / "model.safetensors", ARRAYS)
  client = NoNetwork(tmp_path)
  monkeypatch.setitem(sys.modules, "huggingface_hub", client)
  spec = f"org/name:{inside}" if inside else "org/name"
  assert_whole(hub.open_weights(spec))
  below = "a/*/*" if folder.name == "a" else "*/*"
  asked = {"allow_patterns": patterns, "ignore_patterns": below}
  assert client.asked == asked


@pytest.mark.extras
def test_offline_the_client_of_the_hub_ends_in_one_line(tmp_path):
  """The client reads its environment when it is imported."""
  pytest.importorskip("huggingface_hub")
  script = (
    "from jaxreward.errors import UserError\n"
    "from jaxreward.models import hub\n"
    "try:\n"
    "  hub.open_weights('org/name:transformer/model.safetensors')\n"
    "except UserError as error:\n"
    "  print(error)\n"
  )
  env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
  done = subprocess.run(
    [sys.executable, "-c", script], env=env, check=True, capture_output=True,
    text=True,
  )  # fmt: skip
  (line,) = done.stdout.splitlines()
  assert line.startswith("org/name could not be fetched (")
  assert "LocalEntryNotFound" in line
  assert "https://huggingface.co/org/name/tree/main/transformer into" in line
