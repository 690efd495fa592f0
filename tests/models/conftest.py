"""What the comparisons with diffusers share."""

import pytest


@pytest.fixture(scope="module")
def peers():
  """The module of that name, where PyTorch and diffusers are installed."""
  pytest.importorskip("torch")
  pytest.importorskip("diffusers")
  import peers

  return peers
