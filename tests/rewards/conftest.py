"""Rewards are loaded on one device."""

import jax
import pytest

from jaxreward import setup
from jaxreward.training import mesh as mesh_lib
from tests.rewards import judges


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  """Eight virtual devices on two cores only make a test slower."""
  one = lambda config: mesh_lib.make_mesh(devices=jax.devices()[:1])
  monkeypatch.setattr(setup, "make_mesh", one)


@pytest.fixture
def serve(monkeypatch):
  """Starts a server of `judges`: serve(answer) -> Server."""
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  started = []

  def start(answer):
    started.append(judges.Server(answer))
    return started[-1]

  yield start
  for server in started:
    server.close()
