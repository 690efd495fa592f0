"""Rewards are loaded on one device."""

import jax
import pytest

from jaxreward.jobs import setup
from jaxreward.training import mesh as mesh_lib


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  """Eight virtual devices on two cores only make a test slower."""
  one = lambda config: mesh_lib.make_mesh(devices=jax.devices()[:1])
  monkeypatch.setattr(setup, "make_mesh", one)
