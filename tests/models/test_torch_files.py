"""Files of `torch.save` are read as PyTorch reads them, and run no code."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models import hub, torch_files


class Evil:
  def __reduce__(self):
    return os.system, ("true",)


def archive(path, content):
  with zipfile.ZipFile(path, "w") as file:
    file.writestr("a/data.pkl", pickle.dumps(content))
  return path


def refusal(path):
  with pytest.raises(UserError) as error:
    torch_files.open_weights(path)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_nothing_but_tensors_is_read(tmp_path):
  path = tmp_path / "a.pt"
  assert "posix.system, which is no tensor" in refusal(
    archive(path, {"a": Evil()})
  )
  assert "no state dict" in refusal(archive(path, {"epoch": 3}))
  assert "no state dict" in refusal(archive(path, [1]))
  path.write_bytes(pickle.dumps({"a": Evil()}))
  assert "posix.system" in refusal(path)
  path.write_bytes(pickle.dumps(7))
  assert "no file of torch.save" in refusal(path)
  assert "no such file" in refusal(tmp_path / "absent.pt")


@pytest.mark.parity
@pytest.mark.parametrize("is_archive", [True, False])
def test_tensors_are_those_of_pytorch(is_archive, tmp_path):
  torch = pytest.importorskip("torch")
  whole = torch.arange(24.0).reshape(4, 6)
  state = torch.nn.Linear(3, 2).state_dict()  # ordered, with metadata
  state |= {
    "part": whole[1:, ::2].T, "shared": whole, "steps": torch.arange(3),
    "half": whole.bfloat16(), "none": whole[:0], "one": torch.tensor(3.0),
    "flags": torch.tensor([True, False]), "spread": whole[:, :1].expand(4, 5),
    "parameter": torch.nn.Parameter(whole[0]),
  }  # fmt: skip
  path = tmp_path / "a.pt"
  rest = {"optimizer": {"state": {0: torch.ones(5)}}, "epoch": 2}
  for content in (state, {"state_dict": state, **rest}):
    torch.save(content, path, _use_new_zipfile_serialization=is_archive)
    tensors = hub.open_weights(path)
    assert tensors.keys() == state.keys()
    for name, tensor in state.items():
      value = tensors[name].read()
      assert value.shape == tensors[name].shape == tuple(tensor.shape)
      want = tensor.detach().float() if name == "half" else tensor.detach()
      np.testing.assert_array_equal(value, want.numpy())
    assert tensors["half"].dtype == "BF16" and tensors["steps"].dtype == "I64"

  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  with pytest.raises(UserError, match="cannot read"):
    [x.read() for x in torch_files.open_weights(path).values()]
  torch.save({"bad": torch.tensor([1.0, float("nan")])}, path)
  with pytest.raises(UserError, match="bad"):
    hub.open_weights(path)["bad"].read()
