"""Objects, counts and places, judged on boxes that a stand-in detector finds."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.rewards import objects
from jaxreward.tasks.scenes import facts, grammar
from tests.models import tower_peers
from tests.rewards import folders

L, R, T = (0.2, 0.5, 0.2, 0.2), (0.8, 0.5, 0.2, 0.2), (0.5, 0.1, 0.2, 0.2)
SIDE = folders.SIDE
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
  run = lambda images: objects.objects(
    images, prompts, detect=detect, microbatch=2, params={},
    queries=np.zeros((1, 2, 1, 3), np.int32), named=np.ones((1, 2, 1), bool),
    count=np.array([items], np.int32),
    relation=np.array([relation], np.int32), exact=np.array([exact]), **options,
  )["objects"]  # fmt: skip
  return np.asarray(jax.jit(run)(images))[0].tolist()


@pytest.mark.turns(2)
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
  judge = jax.jit(lambda scores: objects.judge(
    boxes, scores[..., None], jnp.ones((2, 1), bool), asked,
    jnp.array(0), jnp.array(False), 0.1, 0.5,
  ))  # fmt: skip
  assert judge(jnp.array([[0.9, 0.5], [0.0, 0.0]])).tolist() == [1, 0, 1]
  assert judge(jnp.array([[0.9, 0.5], [0.2, 0.6]])).tolist() == [1, 1, 1]
  share = scored([[(L, 0, 0.9)]], (1, 1), strict=False)
  assert share == [0.5]


@pytest.mark.turns(3)
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


@pytest.mark.parametrize("size", [(1, 1), (512, 512), (300, 900)])
def test_places_are_genevals(size):
  """In pixels of the picture: its shape decides what is beside or below."""
  rng = np.random.default_rng(0)
  scale = np.array([*size[::-1]] * 2)
  pairs = rng.uniform(0.1, 0.9, (50, 2, 4)) * scale
  pairs[-1, 1] = pairs[-1, 0]  # one place
  pairs[-2, 1, :2] = pairs[-2, 0, :2] + 1e-4
  pairs[-2, :, 2:] = 0.0  # not a thousandth of a pixel apart
  for a, b in pairs.astype(np.float32):
    found = np.asarray(objects.stands(jnp.asarray(a), jnp.asarray(b)))
    names = {
      n
      for n, holds in zip(objects.RELATIONS[1:], found[1:], strict=True)
      if holds
    }
    assert names == reference_relations(a, b)


def test_what_a_prompt_of_scenes_asks_for():
  fact = facts.fact_of("a red circle left of a square")
  assert fact == (
    [("red", "circle", 1), ("", "square", 1)],
    2,
    False,
  )
  assert facts.fact_of("three crosses") == ([("", "cross", 3)], 0, True)


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
  assert facts["three dogs"] == ([("", "dog", 3)], 0, True)
  assert facts["a red dog below a cat"] == (
    [("", "cat", 1), ("red", "dog", 1)],
    4,
    False,
  )
  asked = []
  ids = lambda texts: asked.extend(texts) or np.zeros((len(texts), 5), np.int32)
  found = objects.prepare_with(ids, facts)(["a red dog below a cat", "unknown"])
  others = [f"a photo of a {c} dog" for c in objects.COLOURS if c != "red"]
  assert asked == [
    "a photo of a cat", *[""] * 10, "a photo of a red dog", *others, *[""] * 23,
  ]  # fmt: skip
  assert found["queries"].shape == (2, 2, 11, 5)
  expected = np.arange(11) < np.array([[1, 10], [0, 0]])[..., None]
  np.testing.assert_array_equal(found["named"], expected)
  np.testing.assert_array_equal(found["count"], [[1, 1], [0, 0]])
  path.write_text('{"prompt": "x"}')
  with pytest.raises(UserError, match=", line 1: expected GenEval's record"):
    objects.facts_of_file(str(path))


def test_a_prompt_that_asks_for_nothing_scores_nan():
  assert np.isnan(scored([[(L, 0, 0.9)]], (0, 0))).all()


BOXES = jnp.array([L, R, NEAR, T])


def looked_up(known, text, things):
  """The score of a picture in which a detector of words finds `things`.

  Args:
    facts: {text: fact}; None for prompts of scenes.
    text: of the prompt.
    things: of each box of `BOXES` {phrase without "a photo of a": score}.
  """
  said = []
  ids = lambda words: said.extend(words) or np.arange(len(words))[:, None]
  asked = objects.prepare_with(ids, known)([text])
  scores = np.zeros((len(BOXES), len(said)), np.float32)
  for row, box in zip(scores, things, strict=False):
    row[:] = [box.get(w[len("a photo of a ") :], 0.0) for w in said]
  return float(score_of(scores, asked))


@jax.jit
def score_of(scores, asked):
  """Of a picture whose boxes have these scores for the words of the prompt."""
  detect = lambda params, tokens, images: (BOXES[None], scores[None])
  result = objects.objects(
    np.zeros((1, 1, 4, 4, 3), np.float32),
    grammar.batch(grammar.prompts("train")[:1]),
    detect=detect, microbatch=0, params={}, **asked,
  )  # fmt: skip
  return result["objects"][0, 0]


def thing(colour, name):
  """What a detector says of it: its name, and a little of every colour."""
  wrong = {f"{c} {name}": 0.2 for c in objects.COLOURS}
  return wrong | {name: 0.3, f"{colour} {name}": 0.5}


def test_a_colour_competes_with_the_others():
  look = lambda colour, seen: looked_up(
    {"x": ([(colour, "bench", 1)], 0, False)}, "x", [thing(seen, "bench")]
  )
  assert look("red", "red") == 1 and look("blue", "red") == 0
  assert look("blue", "blue") == 1 and look("", "red") == 1
  assert look("crimson", "crimson") == 1 and look("crimson", "red") == 0
  assert looked_up(facts.fact_of, "a red circle", [thing("red", "circle")]) == 1
  assert (
    looked_up(facts.fact_of, "a blue circle", [thing("red", "circle")]) == 0
  )


def test_colours_belong_to_their_things():
  def look(first, second, *seen):
    items = [(*first, 1), (*second, 1)]
    return looked_up({"x": (items, 0, False)}, "x", [thing(*s) for s in seen])

  bench, car = ("red", "bench"), ("green", "car")
  assert look(bench, car, bench, car) == 1
  assert look(bench, car, ("green", "bench"), ("red", "car")) == 0
  assert look(bench, car, bench, ("red", "car")) == 0
  blue, any_bench = ("blue", "bench"), ("", "bench")
  assert look(bench, blue, bench, blue) == 1
  assert look(bench, blue, bench, bench) == 0
  assert look(any_bench, bench, ("pink", "bench"), bench) == 1


def test_things_of_another_colour_are_not_counted():
  look = lambda count, *seen: looked_up(
    {"x": ([("red", "bench", count)], 0, True)}, "x",
    [thing(c, "bench") for c in seen],
  )  # fmt: skip
  assert look(1, "red", "blue") == 1 and look(2, "red", "blue") == 0
  assert look(2, "red", "red") == 1
  # The third box lies on the first, a blue bench, and is no red one on its own.
  assert look(1, "blue", "red", "red") == 1
  assert look(2, "blue", "red", "red") == 0


def test_a_place_is_that_of_the_thing_of_the_right_colour():
  """`L` and `T` are left of `R`; blue things on the wrong side do not count."""
  left = objects.RELATIONS.index("left of")
  items = [("red", "bench", 1), ("", "dog", 1)]
  dog = {"dog": 0.9}
  look = lambda *seen: looked_up({"x": (items, left, False)}, "x", list(seen))
  red, blue = thing("red", "bench"), thing("blue", "bench")
  blue = blue | {"blue bench": 0.8}
  assert look(dog, red, {}, blue) == 1  # dog left, red right
  assert look(red, dog, {}, blue) == 0
  assert look(blue, red, {}, dog) == 1  # the dog above, left of the red bench


def reference_overlap(a, b):
  low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
  high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
  inside = np.prod(np.maximum(high - low, 0))
  return inside / (np.prod(a[2:]) + np.prod(b[2:]) - inside)


def reference_judge(boxes, scores, count, relation, exact):
  """What is right without colours, box by box."""
  scores = np.where(count > 0, scores, 0)
  own, right, best = scores.argmax(-1), [], []
  for i in range(2):
    mine, kept = np.where(own == i, scores[:, i], 0), []
    for at in np.argsort(-mine, kind="stable"):
      near = [reference_overlap(boxes[at], boxes[k]) > 0.5 for k in kept]
      if mine[at] > 0.1 and not any(near):
        kept.append(at)
    n = len(kept)
    right.append(n == count[i] if exact else n >= count[i])
    best.append(boxes[np.argmax(mine)])
  there = (scores.max(0) > 0.1).all()
  stands = objects.RELATIONS[relation] in reference_relations(best[1], best[0])
  return [*right, relation == 0 or (there and stands)]


def test_without_colours_nothing_competes():
  rng = np.random.default_rng(0)
  judge = jax.jit(functools.partial(objects.judge, threshold=0.1, most=0.5))
  named = np.zeros((2, 11), bool)
  results = set()
  for _ in range(60):
    boxes = rng.uniform(0.1, 0.9, (8, 4)).astype(np.float32)
    scores = rng.uniform(0, 0.3, (8, 2, 11)).astype(np.float32)
    scores[..., 0] /= 2
    count, relation = rng.integers(0, 3, 2), rng.integers(0, 5)
    exact = rng.random() < 0.5
    named[:, 0] = count > 0
    expected = reference_judge(boxes, scores[..., 0], count, relation, exact)
    given = (boxes, scores, named, count, relation, exact)
    found = judge(*map(jnp.asarray, given)).tolist()
    assert found == expected
    results.add(tuple(found))
  assert len(results) > 4


def test_only_facts_with_colours_are_looked_up_in_others():
  ids = lambda words: np.zeros((len(words), 5), np.int32)
  facts = {"x": ([("", "dog", 1)], 0, False)}
  found = objects.prepare_with(ids, facts)(["x", ""])
  assert found["queries"].shape == (2, 2, 1, 5)
  facts["y"] = [("red", "dog", 1)], 0, False
  found = objects.prepare_with(ids, facts)(["x"])
  assert found["queries"].shape == (1, 2, 11, 5)
  assert found["named"].sum() == 1


@pytest.mark.parity
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("shape", [(20, 35), (35, 30)])
def test_boxes_are_in_pixels_of_the_picture(shape, padded, tmp_path):
  """OWL-ViT's authors pad with grey at the end; transformers stretches."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  layers = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=1,
    num_attention_heads=2,
  )  # fmt: skip
  words = dict(
    vocab_size=len(folders.words()), max_position_embeddings=6, eos_token_id=2
  )
  config = transformers.OwlViTConfig(
    text_config=layers | words, projection_dim=32,
    vision_config=layers | dict(image_size=SIDE, patch_size=7),
  )  # fmt: skip
  model = tower_peers.shake(transformers.OwlViTForObjectDetection(config))
  model.box_head.dense2.weight.data.mul_(0.1)  # or boxes fill the picture
  model.save_pretrained(tmp_path)
  folders.save_tokenizer(tmp_path)
  loaded = objects.load_objects(
    str(tmp_path), padded=padded, fact_of=facts.fact_of
  )
  tokens = loaded.prepare(["a red circle"])["queries"].reshape(1, -1, 6)
  image = folders.pictures(1, 1, shape)[0]
  found, _ = loaded.static["detect"](
    loaded.arrays["params"], jnp.asarray(tokens), jnp.asarray(image)
  )
  levels, scale = (image[0] * 255).round().astype(np.uint8), [*shape[::-1]] * 2
  if padded:
    rest = [(0, max(shape) - n) for n in shape]
    levels = np.pad(levels, (*rest, (0, 0)), constant_values=128)
    scale = [max(shape)] * 4
  processor = transformers.OwlViTImageProcessorPil(
    size={"height": SIDE, "width": SIDE}
  )
  pixels = processor(levels, return_tensors="pt")["pixel_values"]
  with torch.no_grad():
    out = model(
      input_ids=torch.tensor(tokens[0], dtype=torch.long), pixel_values=pixels
    )
  expected = out.pred_boxes.numpy() * np.array(scale)
  gap = np.abs(np.asarray(found) - expected) / max(shape)
  # Ties of halves, of which grey is one, move a pixel by one level of 256.
  assert gap.mean() < 1e-3 and gap.max() < 2e-2
  assert expected.max() > 10
