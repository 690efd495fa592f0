"""Objects, counts and places, judged on boxes that a stand-in detector finds."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.data.scenes import grammar
from jaxreward.errors import UserError
from jaxreward.rewards import objects

L, R, T = (0.2, 0.5, 0.2, 0.2), (0.8, 0.5, 0.2, 0.2), (0.5, 0.1, 0.2, 0.2)
NEAR = (0.21, 0.5, 0.2, 0.2)  # the same thing as L once more


def scored(found, items, relation=0, exact=False, **options):
  """The score of pictures whose boxes are [(box, item, score), ...]."""
  boxes = np.full((len(found), 6, 4), 0.01, np.float32)
  scores = np.zeros((len(found), 6, 2), np.float32)
  for i, things in enumerate(found):
    for j, (box, item, value) in enumerate(things):
      boxes[i, j], scores[i, j, item] = box, value
  at = lambda images: jnp.round(images[:, 0, 0, 0] * 100).astype(int)
  detect = lambda params, tokens, images: (
    jnp.asarray(boxes)[at(images)], jnp.asarray(scores)[at(images)]
  )  # fmt: skip
  images = np.zeros((1, len(found), 4, 4, 3), np.float32)
  images[0, :, 0, 0, 0] = np.arange(len(found)) / 100
  prompts = grammar.batch(grammar.prompts("train")[:1])
  result = objects.objects(
    images, prompts, detect=detect, microbatch=2, params={},
    queries=np.zeros((1, 2, 3), np.int32), count=np.array([items], np.int32),
    relation=np.array([relation], np.int32), exact=np.array([exact]), **options,
  )  # fmt: skip
  return np.asarray(result["objects"])[0].tolist()


def test_counts():
  one, two = [(L, 0, 0.9)], [(L, 0, 0.9), (R, 0, 0.8)]
  twice = [(L, 0, 0.9), (NEAR, 0, 0.8)]
  faint = [(L, 0, 0.9), (R, 0, 0.05)]
  pictures = [one, two, twice, faint, []]
  assert scored(pictures, (1, 0)) == [1, 1, 1, 1, 0]
  assert scored(pictures, (1, 0), exact=True) == [1, 0, 1, 1, 0]
  assert scored(pictures, (2, 0), exact=True) == [0, 1, 0, 0, 0]
  assert scored(pictures, (2, 0), most_overlap=0.95) == [0, 1, 1, 0, 0]
  assert scored(pictures, (2, 0), threshold=0.01) == [0, 1, 0, 1, 0]


def test_a_box_is_one_thing():
  """What fits the other text better is not counted for this one."""
  boxes, asked = jnp.array([L, R]), jnp.array([1, 1])
  judge = lambda scores: objects.judge(
    boxes, jnp.array(scores), asked, jnp.array(0), jnp.array(False), 0.1, 0.5
  )
  assert judge([[0.9, 0.5], [0.0, 0.0]]).tolist() == [1, 0, 1]
  assert judge([[0.9, 0.5], [0.2, 0.6]]).tolist() == [1, 1, 1]
  share = scored([[(L, 0, 0.9)]], (1, 1), strict=False)
  assert share == [0.5]


@pytest.mark.parametrize(
  ("relation", "expected"),
  [("left of", [0, 1, 0]), ("right of", [1, 0, 0]), ("above", [0, 0, 1])],
)
def test_places(relation, expected):
  """The second item stands so to the first."""
  pictures = [
    [(L, 0, 0.9), (R, 1, 0.9)],
    [(R, 0, 0.9), (L, 1, 0.9)],
    [((0.5, 0.8, 0.2, 0.2), 0, 0.9), (T, 1, 0.9)],
  ]
  number = objects.RELATIONS.index(relation)
  assert scored(pictures, (1, 1), number) == expected
  assert scored([[(L, 0, 0.9)]], (1, 1), number) == [0]


def reference_relations(a, b):
  """GenEval's rule on corners, as its evaluation has it."""
  corners = lambda x: np.array([[x[0] - x[2] / 2, x[1] - x[3] / 2],
                                [x[0] + x[2] / 2, x[1] + x[3] / 2]])  # fmt: skip
  boxes = np.stack([corners(a), corners(b)])
  centres, sizes = boxes.mean(1), np.abs(np.diff(boxes, axis=1))[:, 0]
  offset = centres[0] - centres[1]
  clear = np.maximum(np.abs(offset) - 0.1 * sizes.sum(0), 0) * np.sign(offset)
  if np.all(np.abs(clear) < 1e-3):
    return set()
  dx, dy = clear / np.linalg.norm(offset)
  rules = {
    "left of": dx < -0.5,
    "right of": dx > 0.5,
    "above": dy < -0.5,
    "below": dy > 0.5,
  }
  return {name for name, holds in rules.items() if holds}


def test_places_are_genevals():
  rng = np.random.default_rng(0)
  for _ in range(50):
    a, b = rng.uniform(0.1, 0.9, (2, 4)).astype(np.float32)
    found = np.asarray(objects.stands(jnp.asarray(a), jnp.asarray(b)))
    names = {
      n
      for n, holds in zip(objects.RELATIONS[1:], found[1:], strict=True)
      if holds
    }
    assert names == reference_relations(a, b)


def test_what_a_prompt_of_scenes_asks_for():
  fact = objects.fact_of_scene("a red circle left of a square")
  assert fact == ([("red circle", 1), ("square", 1)], 2, False)
  assert objects.fact_of_scene("three crosses") == ([("cross", 3)], 0, True)


def test_what_a_record_of_geneval_asks_for(tmp_path):
  lines = [
    {"tag": "counting", "include": [{"class": "dog", "count": 3}],
     "exclude": [{"class": "dog", "count": 4}], "prompt": "three dogs"},
    {"tag": "position", "include": [{"class": "cat", "count": 1},
     {"class": "dog", "count": 1, "position": ["below", 0], "color": "red"}],
     "prompt": "a red dog below a cat"},
  ]  # fmt: skip
  path = tmp_path / "facts.jsonl"
  path.write_text("\n".join(map(json.dumps, lines)))
  facts = objects.facts_of_file(str(path))
  assert facts["three dogs"] == ([("dog", 3)], 0, True)
  assert facts["a red dog below a cat"] == (
    [("cat", 1), ("red dog", 1)],
    4,
    False,
  )
  asked = []
  ids = lambda texts: asked.extend(texts) or np.zeros((len(texts), 5), np.int32)
  found = objects.prepare_with(ids, facts)(["a red dog below a cat", "unknown"])
  assert asked == ["a photo of a cat", "a photo of a red dog", "", ""]
  assert found["queries"].shape == (2, 2, 5)
  np.testing.assert_array_equal(found["count"], [[1, 1], [0, 0]])
  path.write_text('{"prompt": "x"}')
  with pytest.raises(UserError, match=":1: expected GenEval's record"):
    objects.facts_of_file(str(path))


def test_a_prompt_that_asks_for_nothing_scores_nan():
  assert np.isnan(scored([[(L, 0, 0.9)]], (0, 0))).all()
