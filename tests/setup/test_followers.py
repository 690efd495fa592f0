"""References of a config."""

import pytest
from ml_collections import ConfigDict

from jaxreward.setup import followers


@pytest.mark.parametrize("given, seed", [({}, 7), ({"seed": 3}, 3)])
def test_earlier_copies_are_drawn_by_the_seed_of_the_run(given, seed):
  section = ConfigDict({"rule": "earlier", **given})
  config = ConfigDict({"seed": 7, "references": {"past": section}})
  assert followers.bind(config, follows=False)["past"].seed == seed
