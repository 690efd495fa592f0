"""The environment: complete, and without names."""

import getpass
import json
import os
import platform
import socket

import jax

from jaxreward.report import environment


def test_flags_with_a_path_are_left_out(monkeypatch):
  jax.devices()  # XLA reads the variable once, and must not read this one
  monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_dump_to=/home/someone/x")
  assert environment.xla_flags() == ["--xla_a=1"]


def test_describes_this_process():
  got = environment.describe()
  assert json.loads(json.dumps(got)) == got
  assert sum(got["devices"].values()) == jax.device_count()
  assert got["versions"]["jax"] == jax.__version__
  assert 1 <= got["cpu_count"] <= (os.cpu_count() or 1)
  assert 0.01 < got["peak_rss_gib"] <= 1.1 * got["memory_gib"]


def test_names_nobody(monkeypatch):
  """Whoever runs it: some have no name, or a home that is the root folder."""
  monkeypatch.setenv("HOME", "/home/some_body")
  monkeypatch.setenv("LOGNAME", "some_body")
  monkeypatch.setattr(socket, "gethostname", lambda: "some_machine")
  monkeypatch.setattr(platform, "node", lambda: "some_machine")
  assert getpass.getuser() == "some_body"
  text = json.dumps(environment.describe())
  assert "some_" not in text


def test_peak_memory_grows_with_use():
  before = environment.peak_rss_bytes()
  block = bytearray(64 * 2**20)
  block[::4096] = b"x" * len(block[::4096])
  after = environment.peak_rss_bytes()
  assert before <= after
  assert after >= len(block)
