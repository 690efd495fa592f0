"""Moving scenes: words, videos of another length, pictures in their place."""

import numpy as np

from jaxreward.tasks.motion import judge, prompts
from tests.bad_inputs.table import Row

CONFIG = "motion.py:smoke"


def _parse(text):
  return lambda here: prompts.parse(text)


def _measure(here):
  judge.groups(np.ones((1, 1, 5, 36, 36, 3), np.float32), None)


ROWS = [
  Row("an unknown word", ("the word hopping", "not known"),
      call=_parse("a red circle hopping")),
  Row("no motion", ("a motion of each object", "falling"),
      call=_parse("a red circle")),
  Row("motions of two axes", ("across or both up and down",),
      call=_parse("a red circle falling and a blue square moving left")),
  Row("too many words", ("at most 11",),
      call=_parse("a red circle moving left " * 3)),
  Row("videos of another length", ("6 frames", "video.frames=6"), call=_measure),
  Row("pictures", ("makes pictures", "model.frames=6"), config=CONFIG,
      overrides={"model.frames": 0}),
  Row("a policy of fewer frames", ("model.frames=4", "6 frames"), config=CONFIG,
      overrides={"model.frames": 4}),
  Row("fewer frames kept", ("video.frames=5", "6 frames"), config=CONFIG,
      overrides={"video.frames": 5}),
]  # fmt: skip
