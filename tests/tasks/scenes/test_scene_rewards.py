"""The detector as a reward, and a learned model as one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import rewards
from jaxreward.errors import UserError
from jaxreward.reward_models import RewardModel, scalar, scenes
from jaxreward.rewards import contract
from jaxreward.tasks import judge_questions
from jaxreward.tasks.scenes import detect, grammar, questions, render
from jaxreward.tasks.scenes import rewards as scene_rewards

TEXTS = ("a red circle", "two squares")


@pytest.fixture(scope="module")
def prompts():
  batch = grammar.batch([grammar.parse(t) for t in TEXTS])
  return jax.tree.map(jnp.asarray, batch)


@pytest.fixture(scope="module")
def images(prompts):
  """[2, 3]: the right picture, the other prompt's, a broken one."""
  right = np.array(
    render.render_prompts(jax.random.split(jax.random.key(3), 2), prompts)
  )
  broken = right.copy()
  broken[:, 4, 5, 0] = [np.nan, np.inf]
  return np.stack([right, right[::-1], broken], 1)


@pytest.fixture(scope="module")
def verdict(images, prompts):
  judge = jax.jit(lambda x, p: detect.judge(detect.detect(x), p))
  found = [judge(jnp.asarray(images[:, g]), prompts) for g in range(2)]
  column = lambda name: np.stack([getattr(v, name) for v in found], 1)
  return column("dense"), column("strict")


@pytest.mark.job
@pytest.mark.turns(3)
def test_detector_is_the_weighted_verdict(images, prompts, verdict):
  dense, strict = verdict
  built = rewards.build(
    {"detector": scene_rewards.detector, "s": scene_rewards.strict}
  )
  score = jax.jit(lambda images: rewards.score(built, images, prompts))
  scores, failed = score(images)
  expected = 0.5 * dense + 0.5 * strict
  np.testing.assert_allclose(scores["detector"][:, :2], expected, atol=1e-6)
  np.testing.assert_array_equal(scores["s"][:, :2], [[1, 0], [1, 0]])
  # A picture that cannot be read failed; it is not a bad picture.
  assert np.isnan(scores["detector"][:, 2]).all()
  assert int(failed["detector"]) == int(failed["s"]) == 2


@pytest.mark.turns(2)
def test_what_the_detector_has_found_is_not_looked_for_again(
  images, prompts, monkeypatch
):
  """A picture that is not finite fails all the same."""
  blind = lambda *_: pytest.fail("the detector looked again")
  monkeypatch.setattr(detect, "detect", blind)
  dense = np.float32([[0.5, 0.25, 1.0], [0.75, 0.0, 1.0]])
  found = {"dense": dense, "strict": dense > 0.4, "texture": dense}
  built = rewards.build(
    {"detector": scene_rewards.detector, "s": scene_rewards.strict}
  )
  scores, failed = rewards.score(built, images, prompts, found)
  want = 0.5 * dense + 0.5 * (dense > 0.4)
  np.testing.assert_allclose(scores["detector"][:, :2], want[:, :2], rtol=1e-6)
  np.testing.assert_array_equal(scores["s"][:, :2], (dense > 0.4)[:, :2])
  assert np.isnan(scores["s"][:, 2]).all()
  assert failed == {"detector": 2, "s": 2}


def test_strict_weight_is_checked(images, prompts):
  with pytest.raises(UserError, match="strict_weight=2"):
    scene_rewards.detector(images, prompts, strict_weight=2.0)


@pytest.fixture(scope="module")
def scorer():
  backbone = scenes(width=16, depth=1, heads=1, stem=8)
  return RewardModel(backbone, scalar(hidden=32))


@pytest.fixture(scope="module")
def params(scorer):
  params = jax.jit(scorer.init)(jax.random.key(0))
  head = params["head"]
  drawn = jax.random.normal(jax.random.key(1), head["head_out"]["kernel"].shape)
  head = head | {"head_out": head["head_out"] | {"kernel": drawn}}
  return params | {"head": head}


@pytest.mark.job
@pytest.mark.turns(3)
def test_learned_is_the_z_score_of_the_model(scorer, params, images, prompts):
  raw, _ = jax.jit(scorer.score_groups)(params, images[:, :2], prompts.tokens)
  score = lambda images: (
    rewards.learned(
      images, prompts, params=params, scorer=scorer, mean=0.3, std=2.0
    ).value
  )
  found = jax.jit(score)(images)
  np.testing.assert_allclose(found[:, :2], (raw - 0.3) / 2.0, rtol=1e-4)
  assert np.isnan(found[:, 2]).all()


def test_a_model_is_told_which_images_are_not_there(images, prompts):
  class Head:
    def score_groups(self, params, images, tokens, *, details):
      return jnp.where(details["mask"], images.mean((2, 3, 4)), 9.0), None

  found = rewards.learned(images, prompts, params={}, scorer=Head()).value
  want = images[:, :2].mean((2, 3, 4))
  np.testing.assert_allclose(found[:, :2], want, rtol=1e-6)
  assert np.isnan(found[:, 2]).all()


@pytest.mark.job
@pytest.mark.turns(3)
def test_learned_has_a_finite_gradient_in_the_pictures(
  scorer, params, images, prompts
):
  def total(x):
    found = rewards.learned(x, prompts, params=params, scorer=scorer)
    return jnp.nansum(found.value)

  grad = np.asarray(jax.grad(total)(jnp.asarray(images[:, :2])))
  assert np.isfinite(grad).all()
  assert np.abs(grad).max() > 0
  h = 1e-3
  step = np.sign(grad).astype(np.float32) * h
  up, down = (float(total(images[:, :2] + k * step)) for k in (1, -1))
  np.testing.assert_allclose(
    (up - down) / (2 * h), np.abs(grad).sum(), rtol=0.1
  )


@pytest.mark.job
@pytest.mark.turns(3)
def test_boxes_of_wanted_objects_are_marked(images, prompts, verdict):
  """1 in the boxes of what the prompt asks for, -1 in those of the rest."""
  found = jax.jit(scene_rewards.boxes)(images, prompts)["boxes"]
  value, places = np.asarray(found.value), np.asarray(found.places)
  dense, strict = verdict
  np.testing.assert_allclose(value[:, :2], (dense + strict) / 2, atol=1e-6)
  assert np.isnan(value[:, 2]).all()
  for p in range(2):
    right, wrong = (x[~np.isnan(x)] for x in places[p, :2])
    assert right.size and (right == 1).all()
    assert wrong.size and (wrong == -1).all()
  # Every foreground pixel of the right picture lies in a box.
  dark = (np.abs(images[0, 0] - images[0, 0, 0, 0]) > 0.3).any(-1)
  assert (places[0, 0][dark] == 1).all()


def answered(things, text):
  """What an exact reader of a scene earns; it is asked without the prompt."""
  row = scene_rewards.fields_of(text)
  values = []
  for question in row:
    for shape, name in enumerate(grammar.SHAPES):
      of = [t for t in things if t.shape == shape]
      if f"How many {grammar.plural(shape)} " in question.text:
        word = str(len(of))
      for colour, hue in enumerate(grammar.COLOURS):
        if question.text == f"Is there a {hue} {name}?":
          word = judge_questions.yes(any(t.colour == colour for t in of))
    values.append(dict(question.answers)[word])
  weights = np.array([q.weight for q in row])
  return float(np.dot(weights, values) / weights.sum())


def test_an_exact_reader_finds_what_was_asked_for_and_a_swap_costs_its_share():
  rng = np.random.default_rng(0)
  prompts = grammar.prompts("train")
  for i in rng.choice(len(prompts), 40):
    prompt = prompts[i]
    things = questions.made_for(prompt, rng)
    assert answered(things, prompt.text) == pytest.approx(1)
    coloured = [(s, c) for _, c, s in prompt.items if c >= 0]
    if coloured:
      other = {s: (c + 1) % len(grammar.COLOURS) for s, c in coloured}
      swapped = tuple(
        t._replace(colour=other.get(t.shape, t.colour)) for t in things
      )
      assert answered(swapped, prompt.text) == pytest.approx(2 / 3)


def test_two_items_of_one_shape_are_both_asked_for():
  text = "a red circle and a green circle"
  red, green = (grammar.COLOURS.index(c) for c in ("red", "green"))
  prompt = grammar.parse(text)
  right = questions.made_for(prompt, np.random.default_rng(0))
  assert sorted(t.colour for t in right) == sorted([red, green])
  assert answered(right, text) == pytest.approx(1)
  one = tuple(t for t in right if t.colour == green)
  assert answered(one, text) == pytest.approx((0 + 1 + 0.5) / 3)
  assert scene_rewards.fields_of("") == ()


def test_what_a_reader_is_asked_does_not_depend_on_the_prompt():
  """So that nothing leaks: prompts that are shuffled score less."""
  rng = np.random.default_rng(1)
  prompts = [p for p in grammar.prompts("train") if p.items[0][1] >= 0]
  some = [prompts[i] for i in rng.choice(len(prompts), 40, replace=False)]
  asked_of = {
    tuple(q.text for q in scene_rewards.fields_of(p.text)) for p in some
  }
  assert len(asked_of) == 1
  scenes = [questions.made_for(p, rng) for p in some]
  others = [
    answered(things, some[(i + 1) % 40].text) for i, things in enumerate(scenes)
  ]
  assert np.mean(others) < 0.75


def test_the_reader_is_a_reward_of_the_judge_that_ships():
  loaded = scene_rewards.recovered.loads(weights="package:judge", length=64)
  first, second = (loaded.prepare([text]) for text in TEXTS)
  for name in ("text", "mask", "ends", "ends_mask"):
    np.testing.assert_array_equal(first[name], second[name])
  assert (first["values"] != second["values"]).any()
  unknown = loaded.static["judge"].reader.tokens.unk_token_id
  assert unknown not in first["ends"][first["ends_mask"]]
  assert set(contract.supplied(scene_rewards.recovered)) >= {"judge", "ends"}
