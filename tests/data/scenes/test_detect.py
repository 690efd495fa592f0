"""The detector: right on clean pictures, not taken in by wrong ones."""

import functools

import jax
import numpy as np
import pictures
import pytest
import scipy.ndimage

from jaxreward.data.scenes import detect, grammar, render

ALL = grammar.all_prompts()


def _attributes(prompt):
  return (*(v for item in prompt.items for v in item), prompt.relation)


@functools.cache
def _table():
  """Kind, number of items and attributes of all prompts."""
  rows = np.full((len(ALL), 9), -9)
  for i, p in enumerate(ALL):
    own = _attributes(p)
    rows[i, 0], rows[i, 1] = p.kind, len(p.items)
    rows[i, 2 : 2 + len(own)] = own
  return rows


def _one_away(prompt):
  """Prompts of the kind that differ in one count, colour, shape, relation."""
  rows = _table()
  own = rows[ALL.index(prompt)]
  same = (rows[:, :2] == own[:2]).all(1)
  return [ALL[i] for i in np.flatnonzero(same & ((rows != own).sum(1) == 1))]


def _swapped(prompt):
  """The same words the other way round: colours swapped, sides swapped."""
  if len(prompt.items) < 2:
    return []
  (n, c, s), (m, d, t) = prompt.items
  crossed = ((n, d, s), (m, c, t)), ((m, d, t), (n, c, s))
  return [
    p for p in ALL if p.items in crossed and p.relation == prompt.relation
  ]


def _mismatched(drawn, count, seed=0):
  """(picture, prompt) pairs that are false by the scene's own arrays."""
  generator = np.random.default_rng(seed)
  pairs = []
  while len(pairs) < count:
    i = int(generator.integers(len(drawn.prompts)))
    ways = (
      _one_away(drawn.prompts[i]),
      _swapped(drawn.prompts[i]),
      ALL,
    )
    some = ways[len(pairs) % 3] or ways[0]
    other = some[generator.integers(len(some))]
    if pictures.is_true(pictures.row(drawn.scenes, i), other) is False:
      pairs.append((i, other))
  return pairs


def _strict_of(images, prompts):
  verdict = pictures.verdict(pictures.look(images), prompts)
  return verdict


def _take(tree, index):
  return jax.tree.map(lambda x: x[index], tree)


def test_clean_pictures_are_judged_right():
  drawn = pictures.two_thousand()
  verdict = pictures.verdict(drawn.detection, drawn.prompts)
  assert len(drawn.prompts) >= 2000
  assert verdict.strict.mean() >= 0.995
  kinds = np.array([p.kind for p in drawn.prompts])
  for kind in range(6):
    assert verdict.strict[kinds == kind].mean() >= 0.99
  assert verdict.dense[verdict.strict == 1].min() > 0.95


def test_every_object_is_found_where_it_is():
  drawn = pictures.two_thousand()
  scenes, found = drawn.scenes, drawn.detection
  assert (found.present.sum(1) == scenes.present.sum(1)).mean() >= 0.995
  centroid = (
    scenes.centre
    + np.stack([np.zeros_like(scenes.radius), scenes.radius], -1)
    * render.CENTROID_Y[scenes.shape][..., None]
  )
  colour = np.abs(scenes.colour[..., None, :] - render.PALETTE).sum(-1)
  colour = colour.argmin(-1)
  wrong = 0
  for i in range(len(drawn.prompts)):
    for k in np.flatnonzero(scenes.present[i]):
      away = np.abs(found.centroid[i] - centroid[i, k]).max(-1)
      away = np.where(found.present[i], away, 99)
      j = away.argmin()
      wrong += not (
        away[j] < 0.3
        and found.shape[i, j] == scenes.shape[i, k]
        and found.colour[i, j] == colour[i, k]
        and abs(
          found.area[i, j]
          / (render.UNIT_AREA[scenes.shape[i, k]] * scenes.radius[i, k] ** 2)
          - 1
        )
        < 0.1
      )
  assert wrong / scenes.present.sum() <= 0.005


def test_mismatched_pairs_are_refused():
  drawn = pictures.two_thousand()
  pairs = _mismatched(drawn, 2001)
  index = np.array([i for i, _ in pairs])
  verdict = pictures.verdict(
    _take(drawn.detection, index), [p for _, p in pairs]
  )
  assert verdict.strict.mean() <= 0.005
  assert verdict.dense[verdict.strict == 0].max() < 0.99


def test_other_true_prompts_are_accepted():
  """A picture also satisfies prompts that it was not drawn for."""
  drawn = pictures.two_thousand()
  pairs = []
  for i in range(0, len(drawn.prompts), 60):
    scene = pictures.row(drawn.scenes, i)
    pairs += [
      (i, p)
      for p in ALL
      if p != drawn.prompts[i] and pictures.is_true(scene, p)
    ]
  index = np.array([i for i, _ in pairs])
  verdict = pictures.verdict(
    _take(drawn.detection, index), [p for _, p in pairs]
  )
  assert len(pairs) > 30
  assert verdict.strict.mean() >= 0.995


def test_partial_credit_is_ordered():
  """Nearer to the prompt is worth more."""
  drawn = pictures.two_thousand()
  texts = ["three red circles"]
  asked = [grammar.parse(t) for t in texts]
  shown = ["three red circles", "two red circles", "a red circle",
           "three blue circles", "three blue squares"]  # fmt: skip
  _, images = pictures.draw([grammar.parse(t) for t in shown])
  dense = _strict_of(images, asked * len(shown)).dense
  assert dense[0] == pytest.approx(1, abs=0.02)
  assert dense[0] > dense[1] > dense[2] > dense[4]
  assert dense[0] > dense[3] > dense[4]
  assert dense[4] == 0
  assert drawn.images.shape[1:] == images.shape[1:]


# What must not fool it ------------------------------------------------------

LIGHT = 0.9
SUB = 8  # samples a pixel along each axis
_AXIS = (np.arange(36)[:, None] + (np.arange(SUB) + 0.5) / SUB - 0.5).ravel()


def _paint(image, inside, colour):
  """Lays a shape on an image; inside(x, y) on dense points."""
  x, y = np.meshgrid(_AXIS, _AXIS)
  cover = inside(x, y).astype(float).reshape(36, SUB, 36, SUB).mean((1, 3))
  return image * (1 - cover[..., None]) + cover[..., None] * np.asarray(colour)


def _ground(level=LIGHT):
  return np.full((36, 36, 3), level)


def _disc(x0, y0, r):
  return lambda x, y: np.hypot(x - x0, y - y0) < r


def _box(x0, y0, r):
  return lambda x, y: np.maximum(abs(x - x0), abs(y - y0)) < 0.885 * r


def _tent(x0, y0, r):
  def inside(x, y):
    rise = y - y0 + 0.975 * r
    return (abs(x - x0) < 1.1258 * rise / 1.95) & (abs(y - y0) < 0.975 * r)

  return inside


def _plus(x0, y0, r):
  def inside(x, y):
    ax, ay = abs(x - x0), abs(y - y0)
    return ((ax < r) & (ay < 0.38 * r)) | ((ay < r) & (ax < 0.38 * r))

  return inside


MAKERS = (_disc, _box, _tent, _plus)


def _single(maker, colour=0, level=LIGHT, r=4.0, at=(17.3, 18.1)):
  return _paint(_ground(level), maker(*at, r), render.PALETTE[colour])


def _blank(generator):
  return _ground()


def _flat(generator):
  return np.broadcast_to(generator.random(3), (36, 36, 3))


def _palette_flat(generator):
  return np.broadcast_to(render.PALETTE[generator.integers(5)], (36, 36, 3))


def _uniform_noise(generator):
  return generator.random((36, 36, 3))


def _gaussian_noise(generator):
  scale = generator.uniform(0.1, 0.5)
  return np.clip(0.5 + scale * generator.normal(size=(36, 36, 3)), 0, 1)


def _grey_noise(generator):
  noise = generator.normal(size=(36, 36, 1)) * 0.2
  return np.clip(LIGHT + np.repeat(noise, 3, 2), 0, 1)


def _chequers(generator):
  x, y = np.meshgrid(np.arange(36), np.arange(36))
  size = generator.integers(1, 7)
  return np.where(((x // size + y // size) % 2)[..., None], 0.95, 0.35)


def _black(generator):
  return np.zeros((36, 36, 3))


NOTHING = (
  _blank, _flat, _palette_flat, _uniform_noise, _gaussian_noise, _grey_noise,
  _chequers, _black,
)  # fmt: skip


@pytest.mark.parametrize("make", NOTHING)
def test_pictures_of_nothing_score_zero_on_every_prompt(make):
  generator = np.random.default_rng(0)
  images = np.stack([make(generator) for _ in range(28)])
  found = pictures.look(images)
  # Every picture against six prompts of each kind.
  asked = pictures.balanced(36, seed=1)
  index = np.repeat(np.arange(28), 36)
  verdict = pictures.verdict(_take(found, index), asked * 28)
  assert verdict.strict.max() == 0
  assert verdict.dense.max() == 0


def _ten_overlapping(generator, text):
  """Ten shapes at random, those the prompt asks for among them."""
  prompt = grammar.parse(text)
  image = _ground()
  wanted = [(c, s) for n, c, s in prompt.items for _ in range(n)]
  for k in range(10):
    colour, shape = generator.integers(5), generator.integers(4)
    if k >= 10 - len(wanted):
      colour, shape = wanted[k - 10]
      colour = generator.integers(5) if colour < 0 else colour
    maker = MAKERS[shape](*generator.uniform(8, 28, 2), 4.0)
    image = _paint(image, maker, render.PALETTE[colour])
  return image


def test_ten_overlapping_shapes_score_zero():
  generator = np.random.default_rng(1)
  asked = pictures.balanced(168, seed=2)
  images = [_ten_overlapping(generator, p.text) for p in asked]
  verdict = _strict_of(np.stack(images), asked)
  assert verdict.strict.max() == 0
  assert verdict.dense.mean() < 0.25


def _spoiled(spoil, seed=3, count=168):
  """Strict verdicts on pictures that were right before they were spoiled."""
  prompts = pictures.balanced(count, seed=seed)
  scenes, images = pictures.draw(prompts)
  generator = np.random.default_rng(seed)
  images = np.stack(
    [spoil(images[i], pictures.row(scenes, i), generator) for i in range(count)]
  )
  return _strict_of(np.clip(images, 0, 1), prompts)


def _torn(image, scene, generator):
  """Each object cut through its middle, halves three pixels apart."""
  torn = np.broadcast_to(scene.background, image.shape).copy()
  for i in np.flatnonzero(scene.present):
    x, y = np.round(scene.centre[i]).astype(int)
    top, left = max(y - 6, 0), max(x - 6, 0)
    half = image[top:y, left : x + 7].copy()
    torn[y : y + 7, left : x + 7] = image[y : y + 7, left : x + 7]
    shifted = np.roll(torn[top:y], 0, 1)
    row = shifted[:, max(left - 3, 0) : max(left - 3, 0) + half.shape[1]]
    row[...] = half[:, : row.shape[1]]
    torn[top:y] = shifted
  return torn


def _hollow(image, scene, generator):
  x, y = np.meshgrid(np.arange(36), np.arange(36))
  for i in np.flatnonzero(scene.present):
    hole = np.hypot(x - scene.centre[i, 0], y - scene.centre[i, 1]) < 2.0
    image = np.where(hole[..., None], scene.background, image)
  return image


def _chequered_ground(image, scene, generator):
  x, y = np.meshgrid(np.arange(36), np.arange(36))
  ground = np.abs(image - scene.background).sum(-1) < 0.02
  shade = np.where((x + y) % 2, 0.07, -0.07)
  return np.where(ground[..., None], image + shade[..., None], image)


def _sloping_ground(image, scene, generator):
  ground = np.abs(image - scene.background).sum(-1) < 0.02
  slope = np.linspace(0.16, -0.16, 36)[:, None, None]
  return np.where(ground[..., None], image + slope, image)


def _dark_ground(image, scene, generator):
  ground = np.abs(image - scene.background).sum(-1) < 0.02
  return np.where(ground[..., None], 0.3, image)


def _noisy(image, scene, generator):
  return image + 0.08 * generator.normal(size=image.shape)


def _extra_object(image, scene, generator):
  cells = np.round((scene.centre - 5.5) / 12).astype(int)
  used = {tuple(c) for c, p in zip(cells, scene.present, strict=True) if p}
  free = [(x, y) for x in range(3) for y in range(3) if (x, y) not in used]
  x, y = np.array(free[generator.integers(len(free))]) * 12 + 5.5
  maker = MAKERS[generator.integers(4)]
  return _paint(image, maker(x, y, 4.0), render.PALETTE[generator.integers(5)])


def _missing_object(image, scene, generator):
  x, y = np.meshgrid(np.arange(36), np.arange(36))
  i = generator.choice(np.flatnonzero(scene.present))
  centre = scene.centre[i]
  gone = np.maximum(abs(x - centre[0]), abs(y - centre[1])) < 6.0
  return np.where(gone[..., None], scene.background, image)


def _specks(image, scene, generator):
  """Eight dark pixels in the gaps between the cells."""
  image = image.copy()
  for k in range(8):
    image[(0, 35)[k % 2], 2 + 4 * k] = 0.1
  return image


def _faint(image, scene, generator):
  return scene.background + 0.3 * (image - scene.background)


def _negative(image, scene, generator):
  return 1 - image


def _stripes(image, scene, generator):
  """Every object in two colours."""
  offset = np.abs(image - scene.background).sum(-1, keepdims=True) > 0.3
  rows = (np.arange(36) // 2 % 2)[:, None, None]
  return np.where(offset & (rows == 1), image[..., ::-1] * 0.5, image)


@pytest.mark.parametrize(
  "spoil",
  [
    _torn, _hollow, _chequered_ground, _sloping_ground, _dark_ground, _noisy,
    _extra_object, _missing_object, _specks, _faint, _negative, _stripes,
  ],
)  # fmt: skip
def test_spoiled_pictures_are_refused(spoil):
  verdict = _spoiled(spoil)
  assert verdict.strict.max() == 0
  assert verdict.dense.max() < 1


@pytest.mark.parametrize("spoil", [_torn, _hollow, _faint, _negative])
def test_spoiled_objects_are_worth_little(spoil):
  assert _spoiled(spoil).dense.mean() < 0.3


def _names(images):
  """Shape and colour of the one object of each image."""
  found = pictures.look(np.stack(images))
  assert (found.present.sum(1) == 1).all()
  return found.shape[:, 0], found.colour[:, 0]


def test_single_shapes_are_named():
  images = [_single(m, c) for m in MAKERS for c in range(5)]
  shape, colour = _names(images)
  np.testing.assert_array_equal(shape, np.repeat(np.arange(4), 5))
  np.testing.assert_array_equal(colour, np.tile(np.arange(5), 4))


@pytest.mark.parametrize("power", [3.5, 4.0, 5.0])
def test_between_circle_and_square_there_is_no_name(power):
  """Superellipses |x|^p + |y|^p = r^p; 2 is a circle, infinity a square."""

  def blob(x0, y0, r):
    return lambda x, y: abs(x - x0) ** power + abs(y - y0) ** power < r**power

  at = np.random.default_rng(0).uniform(10, 26, (20, 2))
  images = [_single(blob, c % 5, r=3.8, at=p) for c, p in enumerate(at)]
  shape, _ = _names(images)
  assert (shape == -1).mean() >= 0.9


def test_blobs_have_no_name():
  """Shapes smeared out until they look alike."""
  images = []
  for maker in MAKERS:
    image = _single(maker)
    images.append(scipy.ndimage.gaussian_filter(image, (2.5, 2.5, 0)))
  found = pictures.look(np.stack(images))
  named = found.present & (found.shape >= 0) & (found.colour >= 0)
  assert not named.any()


def test_between_two_colours_there_is_no_name():
  images = []
  for i in range(5):
    for j in range(i):
      mixed = (render.PALETTE[i] + render.PALETTE[j]) / 2
      for maker in MAKERS:
        images.append(_paint(_ground(), maker(17.3, 18.1, 4.0), mixed))
  _, colour = _names(images)
  assert (colour == -1).all()


def test_grey_black_and_pale_things_have_no_colour():
  images = [
    _paint(_ground(), _disc(17.3, 18.1, 4.0), colour)
    for colour in ((0, 0, 0), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (1, 0.5, 0.6))
  ]
  _, colour = _names(images)
  assert (colour == -1).all()


def test_turned_squares_and_triangles_are_not_squares_and_triangles():
  def diamond(x0, y0, r):
    return lambda x, y: abs(x - x0) + abs(y - y0) < 1.25 * r

  def upside_down(x0, y0, r):
    tent = _tent(x0, -y0, r)
    return lambda x, y: tent(x, -y)

  shape, _ = _names([_single(diamond), _single(upside_down)])
  assert shape[0] != 1 and shape[1] != 2


@pytest.mark.parametrize("radius", [0.8, 1.2])
def test_tiny_shapes_do_not_count(radius):
  prompts = [grammar.parse(f"a red {s}") for s in grammar.SHAPES]
  images = np.stack([_single(m, r=radius) for m in MAKERS])
  verdict = _strict_of(images, prompts)
  assert verdict.strict.max() == 0
  assert verdict.dense.max() <= 0.5


# Invariances ----------------------------------------------------------------


def test_mirrored_pictures_swap_left_and_right():
  drawn = pictures.two_thousand()
  position = [i for i, p in enumerate(drawn.prompts) if p.relation][:168]
  mirrored = {0: 0, 1: 2, 2: 1, 3: 3, 4: 4}
  prompts = []
  for i in position:
    p = drawn.prompts[i]
    relation = mirrored[p.relation]
    prompts.append(
      next(q for q in ALL if q.items == p.items and q.relation == relation)
    )
  images = drawn.images[position][:, :, ::-1]
  assert _strict_of(images, prompts).strict.mean() >= 0.99
  changed = [k for k, i in enumerate(position) if drawn.prompts[i].relation < 3]
  verdict = _strict_of(images, [drawn.prompts[i] for i in position])
  assert verdict.strict[changed].max() == 0


@pytest.mark.parametrize("shift", [-0.03, 0.03])
def test_a_little_brighter_or_darker_changes_nothing(shift):
  drawn = pictures.two_thousand()
  images = np.clip(drawn.images[:168] + shift, 0, 1)
  verdict = _strict_of(images, drawn.prompts[:168])
  assert verdict.strict.mean() >= 0.99


def test_a_little_noise_changes_nothing():
  drawn = pictures.two_thousand()
  noise = np.random.default_rng(0).normal(size=(168, 36, 36, 3))
  images = np.clip(drawn.images[:168] + 0.015 * noise, 0, 1)
  verdict = _strict_of(images, drawn.prompts[:168])
  assert verdict.strict.mean() >= 0.97


def test_eight_bits_change_nothing():
  drawn = pictures.two_thousand()
  images = np.round(drawn.images[:168] * 255) / 255
  assert _strict_of(images, drawn.prompts[:168]).strict.mean() >= 0.995


def _same_parts(labels, expected):
  """Are two labellings the same up to names?"""
  pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
  count = len(np.unique(expected))
  return pairs.shape[1] == count == len(np.unique(labels))


@pytest.mark.parametrize("density", [0.1, 0.35, 0.5, 0.8])
def test_components_are_those_of_scipy(density):
  generator = np.random.default_rng(0)
  noise = generator.random((24, 36, 36))
  smooth = scipy.ndimage.gaussian_filter(noise, (0, 1.0, 1.0))
  foreground = smooth < np.quantile(smooth, density)
  labels = np.asarray(jax.jit(detect.label_components)(foreground))
  for got, mask in zip(labels, foreground, strict=True):
    assert _same_parts(got, scipy.ndimage.label(mask)[0])


def test_boxes_are_those_of_scipy():
  drawn = pictures.two_thousand()
  ground = np.asarray(jax.jit(detect.background_colour)(drawn.images[:168]))
  for i in range(168):
    offset = drawn.images[i] - ground[i]
    mask = np.sqrt((offset**2).sum(-1)) > detect.FOREGROUND
    labels = scipy.ndimage.label(mask)[0]
    boxes = {
      (s[1].start, s[0].start, s[1].stop - 1, s[0].stop - 1)
      for k, s in enumerate(scipy.ndimage.find_objects(labels), 1)
      if (labels == k).sum() >= detect.MIN_AREA
    }
    there = drawn.detection.present[i]
    found = {tuple(b) for b in drawn.detection.box[i][there].astype(int)}
    assert found == boxes


def test_median_colour_of_the_border():
  images = np.random.default_rng(0).random((3, 36, 36, 3)).astype(np.float32)
  got = np.asarray(detect.background_colour(images))
  for image, colour in zip(images, got, strict=True):
    ring = np.ones((36, 36), bool)
    ring[1:-1, 1:-1] = False
    pixels = np.sort(image[ring], axis=0)
    np.testing.assert_array_equal(colour, pixels[len(pixels) // 2])


def test_judge_does_not_depend_on_the_order_of_components():
  drawn = pictures.two_thousand()
  found = _take(drawn.detection, slice(0, 168))
  order = np.random.default_rng(0).permutation(found.present.shape[1])
  per_slot = ("present", "shape", "colour", "box", "centroid", "area", "iou")
  turned = found.replace(**{n: getattr(found, n)[:, order] for n in per_slot})
  prompts = drawn.prompts[:168]
  left = pictures.verdict(found, prompts)
  right = pictures.verdict(turned, prompts)
  np.testing.assert_array_equal(left.strict, right.strict)
  np.testing.assert_allclose(left.dense, right.dense, atol=1e-6)


def test_padding_rows_do_not_disturb_the_others():
  drawn = pictures.two_thousand()
  found = _take(drawn.detection, slice(0, 6))
  batch = grammar.batch(drawn.prompts[:4], 6)
  verdict = jax.device_get(jax.jit(detect.judge)(found, batch))
  assert verdict.strict[:4].tolist() == [1, 1, 1, 1]
  assert np.isfinite(verdict.dense).all()


def test_descriptions_name_what_was_drawn():
  texts = ["a red circle left of a blue square", "two yellow crosses"]
  _, images = pictures.draw([grammar.parse(t) for t in texts])
  lines = detect.describe(pictures.look(images))
  assert lines == ["red circle, blue square", "yellow cross, yellow cross"]
  assert detect.describe(pictures.look(_ground()[None])) == ["nothing"]
