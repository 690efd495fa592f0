"""Portraits: words, pictures, and what is read back from them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxreward import tasks
from jaxreward.data import tastes
from jaxreward.data.preferences import SOURCES, rows_between
from jaxreward.models.policies import scene_dit
from jaxreward.tasks.portraits import (
  atlas,
  captions,
  draw,
  edits,
  judge,
  preferences,
  prompts,
  render,
  rewards,
  words,
)
from jaxreward.tasks.portraits import attributes as at

N = 200
RNG = np.random.default_rng(1)


def people(count):
  """Attributes [n, 2, A] of random people."""
  return np.stack([RNG.integers(0, c, (count, 2)) for c in at.COUNTS], -1)


@pytest.fixture(scope="module")
def look():
  """The verdicts of N pictures at a time, compiled once."""
  program = jax.jit(judge.look)

  def run(images, batch):
    rows = len(images)
    pad = lambda x: np.resize(x, (N, *np.shape(x)[1:]))
    batch = jax.tree.map(pad, dataclasses.replace(batch.plain, text=None))
    bare = dataclasses.replace(batch, source=None, target=None, changes=None)
    found = program(jnp.asarray(pad(images)), bare)
    return {k: np.asarray(v)[:rows] for k, v in found.items()}

  return run


@pytest.mark.job
@pytest.mark.turns(3)
def test_every_description_says_what_it_was_made_from():
  texts = set()
  for prompt in prompts.all_prompts():
    assert words.parse(prompt.text) == prompt.people
    texts.add(tuple(words.tokenize(prompt.text)))
  assert len(texts) == len(prompts.all_prompts())


@pytest.mark.job
@pytest.mark.turns(3)
def test_the_policy_has_room_for_every_word():
  sizes = (len(words.TEXT_WORDS), len(words.EDIT_WORDS), words.MAX_WORDS)
  assert scene_dit.LANGUAGES["portraits"] == sizes
  for prompt in edits.all_prompts()[::7]:
    assert (words.tokenize(prompt.text, edits=True) < sum(sizes[:2])).all()
  for prompt in prompts.all_prompts()[::7]:
    assert (words.tokenize(prompt.text) < sizes[0]).all()


def test_a_wording_that_is_held_out_is_in_no_training_prompt():
  reworded = prompts.FIRST + prompts.KINDS.index("reworded")
  assert {p.split for p in prompts.all_prompts() if p.category == reworded} == {
    "heldout"
  }

  def order(prompt):
    """Of a sentence, what each word speaks of, without its values."""
    nouns = (*words.SIDES, "person", "hair", "skin", "shirt", "background")
    kinds = {word: word for word in nouns}
    kinds |= {word: "hair" for word in ("bob", "bun", "mohawk")}
    for name in (at.EYES_AT, at.MOUTH_AT, at.BEARD_AT):
      kinds |= {word: at.NAMES[name] for word in at.VALUES[at.NAMES[name]]}
    said = prompt.text.split()
    return tuple(kinds[word] for word in said if word in kinds)

  rows = [p for p in prompts.all_prompts() if p.category == reworded]
  known = {order(p) for p in prompts.prompts("train")}
  assert rows and not known & {order(p) for p in rows}
  prompt = rows[0]
  assert prompts.reword(prompt).people == prompt.people


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.job
@pytest.mark.turns(3)
def test_pictures_are_layers_over_layers(count):
  """Pixel by pixel in float64, from the bytes of the atlas."""
  rows = people(3)
  images = render.compose(rows, np.full(3, count))
  layers = atlas.read(atlas.PATH).astype(np.float64) / 255
  same = jnp.asarray(render.compose(rows, np.full(3, count), jnp))
  np.testing.assert_allclose(same, images, atol=1e-6)
  for row, image in zip(rows, images, strict=True):
    back = render.BACKGROUNDS[row[0, at.BACKGROUND_AT]]
    for y, x in RNG.integers(0, at.SIDE, (40, 2)):
      who = 0 if count == 1 else int(x >= at.SIDE // 2)
      column = x if count == 1 else x % (at.SIDE // 2) + at.SIDE // 4
      pixel = back.astype(np.float64)
      for index in render.variants(row[who]):
        *colour, alpha = layers[index, y, column]
        pixel = alpha * np.array(colour) + (1 - alpha) * pixel
      np.testing.assert_allclose(image[y, x], pixel, atol=1e-6)


@pytest.mark.job
@pytest.mark.turns(3)
def test_clean_pictures_are_read_right_and_noise_changes_little(look):
  rows, count = people(N), RNG.integers(1, 3, N)
  rows[:, 1, at.BACKGROUND_AT] = rows[:, 0, at.BACKGROUND_AT]
  role = np.where(
    np.arange(2)[:, None] < count[:, None, None], prompts.ASKED, 0
  )
  asked = prompts.Asked(rows, np.broadcast_to(role, rows.shape), count)
  batch = dataclasses.replace(
    prompts.batch(prompts.prompts("train")[:1], N), extras=asked
  )
  clean = render.compose(rows, count)
  found = look(clean, batch)
  assert found["strict"].mean() >= 0.99 and found["read"].mean() >= 0.999
  assert found["dense"].min() > 0.8
  assert found["people"].min() > 0.8 and found["told_apart"].min() > 0.6
  two = count == 2
  turned = look(np.roll(clean, at.SIDE // 2, 2), batch)
  turned = {name: x[two] for name, x in turned.items()}
  np.testing.assert_allclose(turned["people"], found["people"][two], atol=1e-3)
  assert turned["dense"].mean() < 0.6  # they have changed places
  noisy = clean + 0.07 * RNG.standard_normal(clean.shape)
  assert look(noisy.astype(np.float32), batch)["read"].mean() > 0.99
  other = look(np.roll(clean, 1, 0), batch)
  assert other["strict"].max() == 0 and other["dense"].mean() < 0.5
  stained = clean.copy()  # wherever it is, a square of 4 pixels is a defect
  for image, (y, x) in zip(
    stained, RNG.integers(0, at.SIDE - 4, (N, 2)), strict=True
  ):
    spot = image[y : y + 4, x : x + 4]
    spot[:] = np.where(spot.mean((0, 1)) > 0.5, 0.0, 1.0)
  found = look(stained, batch)
  assert found["strict"].max() == 0 and found["drawn"].max() < 0.2


@pytest.mark.job
@pytest.mark.turns(3)
def test_answers_of_edits_are_exact(look):
  every = edits.all_prompts()
  chosen = [p for k in prompts.EDIT_CATEGORIES for p in every
            if p.category == k][:: len(every) // N + 1][:N]  # fmt: skip
  source, answers = edits.draw(chosen)
  batch = edits.attach(prompts.batch(chosen), chosen)
  found = look(answers, batch)
  assert found["strict"].mean() >= 0.99
  kind = np.array([p.category - prompts.FIRST_EDIT for p in chosen])
  assert set(kind) == set(range(len(edits.KINDS)))
  free = kind == edits.KINDS.index("identity")
  np.testing.assert_array_equal(np.isnan(found["preservation"]),
                                [(p.pictures.role != prompts.KEPT).all() for p in chosen])  # fmt: skip
  np.testing.assert_array_equal(np.isfinite(found["same_person"]), free)
  np.testing.assert_array_equal(np.isnan(batch.target).any((1, 2, 3)), free)
  for name, graded in (
    ("done", "execution"), ("untouched", "preservation"),
    ("recognised", "same_person"),
  ):  # fmt: skip
    np.testing.assert_array_equal(
      np.isnan(found[name]), np.isnan(found[graded])
    )
    assert np.nanmean(found[name]) >= 0.99
  # Nothing done: what stays is there, what was asked is not.
  local = kind < edits.KINDS.index("identity")
  idle = look(source, batch)
  assert idle["execution"][local].max() < 0.5 and not idle["done"][local].any()
  assert idle["preservation"][local].min() > 0.8
  assert idle["untouched"][local].mean() >= 0.99
  stranger = look(np.roll(answers, 1, 0), batch)
  assert np.nanmean(stranger["recognised"]) < 0.2
  still = batch.changes[local] == 0
  off = source[local][still] - answers[local][still]
  assert np.abs(off).max() <= 1e-3
  assert 0 < (~still).mean() < 0.4


def to_colour(count):
  """Prompts of edits that colour."""
  number = prompts.FIRST_EDIT + edits.KINDS.index("colour")
  of_kind = [p for p in edits.prompts("heldout") if p.category == number]
  return of_kind[:count]


def test_control_images_are_of_the_right_answer():
  """Edges by convolution; regions layer over layer in flat colours, in float64."""
  chosen = to_colour(6)
  answers = edits.draw(chosen)[1].astype(np.float64)
  drawn, _ = edits.draw(chosen, "edges")
  grey = answers @ np.array([0.299, 0.587, 0.114])
  slope = lambda x: np.hypot(ndimage.sobel(x, 0), ndimage.sobel(x, 1)) / 4
  slopes = np.stack([slope(x) for x in grey])
  np.testing.assert_allclose(
    drawn[:, 1:-1, 1:-1, 0], slopes[:, 1:-1, 1:-1], atol=1e-4
  )
  assert not drawn[:, 0].any()

  drawn, _ = edits.draw(chosen, "regions")
  rows = np.stack([edits.answer(p.pictures) for p in chosen])
  want = np.zeros((6, at.SIDE, at.SIDE, 3))
  indices = render.variants(rows[:, 0])
  for layer, index in zip(at.LAYERS, indices, strict=True):
    alpha = atlas.premultiplied()[index, ..., 3:]
    want = alpha * np.array(render.REGIONS[layer.name]) + (1 - alpha) * want
  np.testing.assert_allclose(drawn, want, atol=1e-5)
  shapes = render.shapes_of(rows)
  two = render.regions(shapes, np.full(6, 2))
  mirrored = render.regions([s[:, ::-1] for s in shapes], np.full(6, 2))
  np.testing.assert_array_equal(np.roll(two, at.SIDE // 2, 2), mirrored)


@pytest.mark.job
@pytest.mark.turns(3)
def test_regions_are_found_again_where_they_are():
  """In the drawing almost exactly, in another's less, and slopes lead back."""
  chosen = to_colour(4)
  batch = edits.attach(prompts.batch(chosen), chosen, control="regions")
  other = np.roll(batch.target, 1, 0)
  images = np.stack([batch.target, 0.7 * batch.target + 0.3 * other], 1)
  images = np.concatenate([images, other[:, None]], 1)
  images[0, 2, 0, 0, 0] = np.nan

  def total(images):
    scores = rewards.regions(images, batch)["regions"]
    return jnp.where(jnp.isfinite(scores.value), scores.value, 0).sum(), scores

  program = jax.jit(jax.value_and_grad(total, has_aux=True))
  (_, scores), slope = program(images)
  assert (scores.value[:, 0] > 0.97).all()
  assert (scores.value[:, 1] > scores.value[:, 2])[1:].all()
  assert np.isnan(scores.value[0, 2]) and np.isnan(scores.errors[0, 2]).all()
  assert scores.errors.shape == (4, 3, at.SIDE**2 * 3)
  off = np.abs(scores.errors).mean(-1)
  scale = batch.source.mean((1, 2, 3)) + 0.01
  np.testing.assert_allclose(
    scores.value[1:], 1 - off[1:] / scale[1:, None], rtol=1e-4
  )
  assert np.isfinite(slope).all()
  (_, after), _ = program(np.nan_to_num(images + 0.05 * np.sign(slope)))
  assert (after.value[:, 1] > scores.value[:, 1]).all()


@pytest.mark.job
@pytest.mark.turns(3)
def test_an_edit_changes_one_attribute_and_people_move_as_they_are():
  local = (*edits.LOCAL, edits.UNHEARD)
  for prompt in edits.all_prompts():
    kind = edits.KINDS[prompt.category - prompts.FIRST_EDIT]
    edit, rows = prompt.pictures, edits.answer(prompt.pictures)
    differ = rows != edit.before
    differ[1, at.BACKGROUND_AT] = False  # the picture's stands in the first row
    if kind in local:
      assert differ.sum() == 1 and (edit.role[differ] == prompts.ASKED).all()
    elif kind != "identity":
      assert not differ.any()
    else:
      place = int((edit.role[1] == prompts.PERSON).any())
      free = edit.rows[place] == render.FREE
      np.testing.assert_array_equal(rows[place, free], edit.before[0, free])
      free = edit.rows[1 - place] == render.FREE
      np.testing.assert_array_equal(rows[1 - place, free], edit.before[1, free])


def test_people_are_held_out_and_instructions_of_one_kind():
  split = lambda name: edits.prompts(name)

  def identities(prompt):
    """Of everybody in source and answer."""
    edit = prompt.pictures
    answer = edits.answer(edit)[: edit.count]
    people = np.concatenate([edit.before[: edit.people], answer])
    return {*map(tuple, people[:, list(at.IDENTITY)])}

  heldout = set().union(*map(identities, split("heldout")))
  for name in ("train", "validation"):
    assert not heldout & set().union(*map(identities, split(name)))
  assert len(heldout) == 54
  said = {p.text for p in split("train")}
  for number, kind in prompts.EDIT_CATEGORIES.items():
    heard = [p.text in said for p in split("heldout") if p.category == number]
    if kind == edits.UNHEARD:
      assert heard and not any(heard)
    elif kind in edits.LOCAL:
      assert all(heard)


def test_a_strip_shows_one_held_out_person_in_several_ways():
  strips = edits.strips(3)
  texts = lambda rows: [[prompt.text for prompt in row] for row in rows]
  assert texts(strips) == texts(edits.strips(4))[:3]
  seen = set()
  for row in strips:
    source, answers = edits.draw(row)
    assert (source == source[0]).all()
    assert len({x.tobytes() for x in answers}) == len(row)
    seen.add(source[0].tobytes())
    for prompt in row:
      edit = prompt.pictures
      assert edits.is_heldout(edit.before).all()
      assert {edit.people, edit.count} == {1, 2}
      words.tokenize(prompt.text, edits=True)
  assert len(seen) == 3


@pytest.mark.job
@pytest.mark.turns(3)
def test_words_alone_pay_for_the_loss_of_a_person(look):
  pairs = [p for p in edits.prompts("heldout") if p.pictures.count == 2]
  chosen = pairs[:: len(pairs) // N + 1]
  batch = edits.attach(prompts.batch(chosen), chosen)
  asked = np.stack([p.pictures.role for p in chosen]) == prompts.ASKED
  answers = np.stack([edits.answer(p.pictures) for p in chosen])
  # Everybody gets what the words ask of anybody.
  of_anybody = np.where(asked, answers, 0).sum(1, keepdims=True)
  everybody = np.where(asked.any(1, keepdims=True), of_anybody, answers)
  count = np.full(len(chosen), 2)
  right, greedy = (
    look(render.compose(rows, count), batch) for rows in (answers, everybody)
  )
  assert (greedy["worded"] > 0.95).all() and greedy["worded"].mean() > 0.99
  is_free = np.isfinite(right["same_person"])
  assert is_free.any() and not is_free.all()
  assert right["worded"][is_free].mean() < 0.7
  for name, bound in (("recognised", 0.1), ("untouched", 0.5)):
    assert np.nanmean(right[name]) >= 0.99
    assert np.nanmean(greedy[name]) < bound


def test_captions_are_wrong_as_often_as_asked():
  chosen = prompts.prompts("train")
  options = dict(seed=0, batch_size=400, kind_weights=(1,) * 5, steps=2)
  batches = captions.caption_batches(chosen, corruption=0.3, **options)
  micro = batches[1]
  texts = {bytes(words.tokenize(p.text)): p for p in chosen}
  right = []
  for row, tokens in zip(
    micro["scene"].extras.rows, micro["caption"], strict=True
  ):
    rows, _, _ = prompts.asked(texts[bytes(tokens)])
    right.append((rows == row).all())
    assert (rows != row).sum() <= 1
  assert abs(np.mean(right) - 0.7) < 0.08
  again = batches[1]
  np.testing.assert_array_equal(again["caption"], micro["caption"])


@pytest.mark.job
@pytest.mark.turns(3)
def test_answers_of_edits_are_wrong_as_often_as_asked():
  chosen = edits.prompts("train")
  right = prompts.batch(chosen)
  roles = (prompts.KEPT, prompts.PERSON)
  wrong = captions.wrong(right, 0.3, np.random.default_rng(0), roles)
  differ = wrong.extras.rows != right.extras.rows
  assert np.isin(right.extras.role[differ], roles).all()
  has_one = np.isin(right.extras.role, roles).any((1, 2))
  assert differ.sum((1, 2)).max() == 1 and not differ[~has_one].any()
  assert abs(differ.any((1, 2))[has_one].mean() - 0.3) < 0.02
  options = dict(seed=0, batch_size=12, steps=1)
  options["kind_weights"] = (1,) * 4 + (0,) * 5
  clean, spoiled = (
    captions.edit_batches(chosen, corruption=c, **options)[0]
    for c in (0.0, 1.0)
  )
  np.testing.assert_array_equal(clean["source"], spoiled["source"])
  off = np.abs(clean["picture"] - spoiled["picture"]).max((1, 2, 3))
  assert (off > 0.1).mean() > 0.5 and ((off > 0.1) | (off == 0)).all()


@pytest.mark.turns(2)
def test_no_wrong_answer_shows_somebody_who_is_held_out():
  chosen = edits.prompts("train")
  batch = prompts.batch(chosen)
  whole = dataclasses.replace(
    batch.extras, rows=np.stack([edits.answer(p.pictures) for p in chosen])
  )
  batch = dataclasses.replace(batch, extras=whole)
  rows = captions.wrong_answers(batch, 1.0, np.random.default_rng(0))
  is_seen = np.arange(at.PEOPLE) < batch.extras.count[:, None]
  assert not edits.is_heldout(rows)[is_seen].any()
  assert (rows != whole.rows).any((1, 2)).mean() > 0.6


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_worse_picture_is_wrong_in_one_attribute(look):
  chosen = [
    p for p in prompts.prompts("train") if p.category == prompts.FIRST + 1
  ]
  batch = prompts.batch(chosen[:: len(chosen) // 60][:60])
  images = tasks.TASKS["portraits"].draw(
    jax.random.key(3), batch, with_worse=True
  )
  good, worse = (look(images[:, i] / np.float32(255), batch) for i in (0, 1))
  assert good["strict"].mean() >= 0.99 and worse["strict"].max() == 0
  np.testing.assert_allclose(worse["read"].mean(), 0.8, atol=0.01)


@pytest.mark.extras
def test_the_shipped_layers_are_those_of_the_drawing():
  pytest.importorskip("dicebear")
  pytest.importorskip("resvg_py")
  np.testing.assert_array_equal(draw.layers(), atlas.read(atlas.PATH))


@pytest.mark.job
@pytest.mark.turns(3)
def test_annotators_prefer_what_the_words_say():
  of = lambda split: [p for p in prompts.prompts(split) if len(p.people) == 2]
  chosen = of("train")[:2] + of("heldout")[:2]
  samples = np.zeros((4, 1, at.SIDE, at.SIDE, 3), np.uint8)
  rows = preferences.collect(jax.random.key(0), chosen, samples, spoiled=4)
  names = np.array(SOURCES)[np.asarray(rows.source)]
  score, strict = np.asarray(rows.score), np.asarray(rows.strict)
  assert (strict[:, names == "render"] == 1).all()
  assert (strict[:, names == "corrupted"] == 0).all()
  best = score[:, names == "render"].min(1, keepdims=True)
  assert (best > score[:, names != "render"]).all()
  spoiled = np.asarray(rows.aspects)[:, names == "spoiled", 1]
  assert (spoiled < 0.9).all() and rows.aspect_names[-1] == "warmth"
  lent = np.asarray(rows.members)[:, names == "borrowed"]
  np.testing.assert_array_equal(rows.images[lent[0, 0]], samples[1, 0])
  per_row = len(rows.images) // 4
  for start in (0, 2):  # each side of the split has all of its images
    part = rows_between(rows, start, start + 2, per_row=per_row)
    members = np.asarray(part.members)
    assert members.min() >= 0 and members.max() < len(part.images)


@pytest.mark.job
@pytest.mark.turns(3)
def test_ratings_are_means_over_users_of_drawing_and_taste():
  batch = prompts.batch(prompts.prompts("train")[:1])
  images = np.full((1, 3, at.SIDE, at.SIDE, 3), 0.5, np.float32)
  images[0, 0, ..., 0], images[0, 1, ..., 2] = 0.6, 0.6  # warm, cold, neither
  drawn = np.array([[1.0, 1.0, 0.5]])
  rate = lambda users, images=images, **options: np.asarray(
    rewards.rated(
      images, batch, users=users, taste=0.4, verdict={"drawn": drawn}, **options
    )["rated"]
  )
  warm = 1 / (1 + np.exp(-tastes.WARMTH * np.array([[0.1, -0.1, 0.0]])))
  for fans, others in ((1, 0), (2, 1), (2, 2)):
    users = [0.6 * drawn + 0.4 * warm] * fans
    users += [0.6 * drawn + 0.4 * (1 - warm)] * others
    want = np.mean(users, 0)
    np.testing.assert_allclose(rate(fans + others), want, rtol=1e-5)
  # Noise is of the picture: the same again, another of any other picture.
  many = RNG.uniform(0, 1, (1, 600, at.SIDE, at.SIDE, 3)).astype(np.float32)
  drawn = np.ones((1, 600))
  off = rate(4, many, noise=0.3) - rate(4, many)
  np.testing.assert_array_equal(off, rate(4, many, noise=0.3) - rate(4, many))
  assert abs(off.std() - 0.15) < 0.02 and abs(off.mean()) < 0.02
  other = rate(4, np.flip(many, 2), noise=0.3) - rate(4, np.flip(many, 2))
  assert abs(np.corrcoef(off.ravel(), other.ravel())[0, 1]) < 0.15
