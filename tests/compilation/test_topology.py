"""Slices by name: sizes, products, and one line for what is not there."""

import pytest

from jaxreward.compilation import topology
from jaxreward.errors import UserError


@pytest.mark.parametrize(
  ("name", "found", "size"),
  [
    ("v5e:16x16", "v5e:16x16", 256),
    ("v5e-16", "v5e:4x4", 16),
    ("v5e-256", "v5e:16x16", 256),
    ("v6e-64", "v6e:8x8", 64),
    # Sold by TensorCores, of which a chip has two.
    ("v5p-64", "v5p:2x4x4", 32),
    ("v5p:2x2x1", "v5p:2x2x1", 4),
    ("cpu:8", "cpu:8", 8),
  ],
)
def test_names(name, found, size):
  slice_ = topology.find(name)
  assert (slice_.name, slice_.size) == (found, size)
  assert (slice_.chip is None) == name.startswith("cpu")


@pytest.mark.parametrize(
  ("name", "nearest"),
  [
    ("v5e:16x61", "v5e:16x16"),
    ("v5e-255", "v5e-256"),
    ("v6p-64", "v6e-64"),
    ("cpu", "cpu:8"),
    ("cpu:0", "cpu:8"),
  ],
)
def test_a_wrong_name_gives_one_line_with_the_nearest(name, nearest):
  with pytest.raises(UserError) as error:
    topology.find(name)
  text = str(error.value)
  assert f'config.topology="{name}"' in text
  assert f'did you mean "{nearest}"' in text
  assert "\n" not in text


def test_clocks_follow_from_the_matrix_units():
  units = {"v5e": (4, 128), "v5p": (8, 128), "v6e": (4, 256)}
  for name, chip in topology.CHIPS.items():
    count, side = units[name]
    assert chip.clock == pytest.approx(
      chip.flops / (2 * count * side**2), rel=0.01
    )


def test_too_few_cpus_are_told():
  with pytest.raises(UserError, match="start a new process"):
    topology.devices(topology.find("cpu:4096"))
