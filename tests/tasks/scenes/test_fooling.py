"""Pictures that must not fool the detector.

Each is judged against what it might pass for: pictures of nothing against
prompts of every kind, spoiled pictures against the prompts they once showed.
"""

import numpy as np
import pictures
import pytest
import scipy.ndimage

from jaxreward.tasks.scenes import grammar, render

LIGHT = 0.9
SUB = 4  # samples a pixel along each axis
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
  grey = np.where((x // size + y // size) % 2, 0.95, 0.35)
  return np.repeat(grey[..., None], 3, axis=-1)


def _black(generator):
  return np.zeros((36, 36, 3))


NOTHING = (
  _blank, _flat, _palette_flat, _uniform_noise, _gaussian_noise, _grey_noise,
  _chequers, _black,
)  # fmt: skip


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.parametrize("make", NOTHING)
def test_pictures_of_nothing_score_zero_on_every_prompt(make):
  generator = np.random.default_rng(0)
  images = np.stack([make(generator) for _ in range(28)])
  found = pictures.look(images)
  # Every picture against six prompts of each kind.
  asked = pictures.balanced(36, seed=1)
  index = np.repeat(np.arange(28), 36)
  verdict = pictures.verdict(pictures.take(found, index), asked * 28)
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
  asked = pictures.balanced(84, seed=2)
  images = [_ten_overlapping(generator, p.text) for p in asked]
  verdict = pictures.judge(np.stack(images), asked)
  assert verdict.strict.max() == 0
  assert verdict.dense.mean() < 0.25


def _spoiled(spoil, seed=3, count=84):
  """Strict verdicts on pictures that were right before they were spoiled."""
  prompts = pictures.balanced(count, seed=seed)
  scenes, images = pictures.draw(prompts)
  generator = np.random.default_rng(seed)
  images = np.stack(
    [
      spoil(images[i], pictures.take(scenes, i), generator)
      for i in range(count)
    ]
  )
  return pictures.judge(np.clip(images, 0, 1), prompts)


def _torn(image, scene, generator):
  """Upper halves of all objects three pixels beside the lower ones."""
  x, y = np.meshgrid(np.arange(36), np.arange(36))
  torn = np.broadcast_to(scene.background, image.shape)
  for centre in scene.centre[scene.present]:
    own = np.maximum(abs(x - centre[0]), abs(y - centre[1])) < 6
    side = 3 if centre[0] < 18 else -3
    upper = np.roll(own & (y < centre[1]), side, 1)
    torn = np.where(upper[..., None], np.roll(image, side, 1), torn)
    torn = np.where((own & (y >= centre[1]))[..., None], image, torn)
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
@pytest.mark.turns(3)
def test_spoiled_pictures_are_refused(spoil):
  verdict = _spoiled(spoil)
  assert verdict.strict.max() == 0
  assert verdict.dense.max() < 1


@pytest.mark.turns(3)
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


@pytest.mark.turns(3)
@pytest.mark.parametrize("power", [3.25, 3.5, 3.75])
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
  """Except between red and blue, where purple lies."""
  images = []
  for i in range(5):
    for j in range(i):
      if (i, j) == (2, 0):
        continue
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
  verdict = pictures.judge(images, prompts)
  assert verdict.strict.max() == 0
  assert verdict.dense.max() <= 0.5
