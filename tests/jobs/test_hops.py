"""How far it is from the command line to the gradient, by the stack itself."""

import pathlib
import traceback

import pytest

import jaxreward
from jaxreward import main
from jaxreward.setup import updates
from tests import tiny

PACKAGE = str(pathlib.Path(jaxreward.__file__).parent)
HOPS, FILES = 10, 5


class Arrived(Exception):
  pass


@pytest.mark.job
@pytest.mark.turns(3)
def test_few_hops_lead_from_the_config_to_the_gradient(monkeypatch, tmp_path):
  """Calls between functions of this library; what JAX puts between is not."""

  def arrive(*args):
    raise Arrived

  monkeypatch.setattr(updates.Loss, "__call__", arrive)
  config = tiny.CONFIGS / "align_scenes.py"
  small = {"eval.quick_samples": 6, "eval.samples": 6, "jobs": "align"}
  with pytest.raises(Arrived) as caught:
    main.main(
      [
        f"--config={config}:flow_grpo,smoke", f"--workdir={tmp_path}",
        *(f"--config.{k}={v}" for k, v in small.items()),
      ]
    )  # fmt: skip
  frames = traceback.extract_tb(caught.value.__traceback__)
  ours = [
    f for f in frames if f.filename.startswith(PACKAGE) and f.name != "<lambda>"
  ]
  names = [f"{pathlib.Path(f.filename).name}:{f.name}" for f in ours]
  chain = names[: names.index("step.py:value_and_grad") + 1]
  ours = ours[: len(chain)]
  assert chain[0] == "main.py:main"
  assert len(chain) - 1 <= HOPS, chain
  assert len({f.filename for f in ours}) <= FILES, chain
