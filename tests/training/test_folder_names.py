"""Checkpoints in folders of any name are read back, or refused at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import paths
from jaxreward.errors import UserError
from jaxreward.training.checkpoint import Checkpoints


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  "name",
  ["a b", "50%", "a#b", "{a,b}", "a:b", "a]b", "日本", "x" * 255, "a\nb"],
)
def test_a_checkpoint_is_read_back(tmp_path, name):
  state = {"a": jnp.arange(4.0)}
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )
  with Checkpoints(tmp_path / name / "align") as steps:
    steps.save(1, state, {}, wait=True)
  with Checkpoints(tmp_path / name / "align") as steps:
    step, found, _ = steps.restore_latest(like)
  assert step == 1
  np.testing.assert_array_equal(found["a"], state["a"])


@pytest.mark.parametrize("name", ["[a]", "a*", "a?", "a\\b", "a\udce9"])
def test_a_name_that_is_not_read_back_is_refused(tmp_path, name):
  with pytest.raises(UserError, match="cannot be read back"):
    Checkpoints(tmp_path / name / "align")
  assert list(tmp_path.iterdir()) == []


def test_names_above_a_relative_folder_count(tmp_path, monkeypatch):
  (tmp_path / "[a]").mkdir()
  monkeypatch.chdir(tmp_path / "[a]")
  with pytest.raises(UserError, match=r"--workdir=run: .* holds \["):
    paths.require_plain("run", "--workdir")
