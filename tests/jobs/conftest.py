"""Jobs in this process, on one device, from weights that draw something."""

import jax
import pytest

from jaxreward import main as main_lib
from jaxreward import setup
from jaxreward.training import mesh as mesh_lib
from tests import tiny


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  """Eight virtual devices on two cores only make a job slower."""
  one = lambda config: mesh_lib.make_mesh(devices=jax.devices()[:1])
  monkeypatch.setattr(setup, "make_mesh", one)


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory) -> str:
  """Weights of the tiny model, away from their zeros."""
  config = tiny.load("align_scenes.py:smoke", tiny.MODEL, tiny.FAST)
  path = tmp_path_factory.mktemp("weights") / "base.safetensors"
  return tiny.save_weights(path, config)


@pytest.fixture
def small_model(monkeypatch) -> None:
  """Jobs take a policy that compiles in a moment, with drawn weights."""
  small = lambda config: tiny.small_policy()
  monkeypatch.setattr(setup, "make_policy", small)


class Command:
  """`python -m jaxreward.main` in this process.

  Attributes:
    code: exit code of the last one.
    error: what it wrote after "error: ", if it did.
  """

  def __init__(self, capfd):
    self._capfd = capfd

  def __call__(self, spec, workdir, *overrides) -> int:
    self._capfd.readouterr()
    self.code = main_lib.main(tiny.flags(spec, workdir, *overrides))
    err = self._capfd.readouterr().err
    found = [
      line.removeprefix("error: ")
      for line in err.splitlines()
      if line.startswith("error: ")
    ]
    self.error = found[0] if found else ""
    assert len(found) == (self.code == 2)  # one line, no more
    assert "Traceback" not in err
    return self.code


@pytest.fixture
def command(capfd) -> Command:
  return Command(capfd)
