"""The detector: right on clean pictures, not taken in by wrong ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pictures
import pytest
import scipy.ndimage

from jaxreward.tasks.scenes import detect, grammar, render

ALL = grammar.all_prompts()


def _attributes(prompt):
  return (*(v for item in prompt.items for v in item), prompt.relation)


@functools.cache
def _table():
  """Kind, number of items and attributes of all prompts."""
  rows = np.full((len(ALL), 9), -9)
  for i, p in enumerate(ALL):
    own = _attributes(p)
    rows[i, 0], rows[i, 1] = p.category, len(p.items)
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
    if pictures.is_true(pictures.take(drawn.scenes, i), other) is False:
      pairs.append((i, other))
  return pairs


@pytest.mark.job
@pytest.mark.turns(3)
def test_clean_pictures_are_judged_right():
  drawn = pictures.two_thousand()
  verdict = pictures.verdict(drawn.detection, drawn.prompts)
  assert len(drawn.prompts) >= 2000
  assert verdict.strict.mean() >= 0.995
  kinds = np.array([p.category for p in drawn.prompts])
  for kind in range(6):
    assert verdict.strict[kinds == kind].mean() >= 0.99
  assert verdict.dense[verdict.strict == 1].min() > 0.95


@pytest.mark.turns(2)
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


@pytest.mark.job
@pytest.mark.turns(3)
def test_mismatched_pairs_are_refused():
  drawn = pictures.two_thousand()
  pairs = _mismatched(drawn, 2001)
  index = np.array([i for i, _ in pairs])
  verdict = pictures.verdict(
    pictures.take(drawn.detection, index), [p for _, p in pairs]
  )
  assert verdict.strict.mean() <= 0.005
  assert verdict.dense[verdict.strict == 0].max() < 0.99


@pytest.mark.job
@pytest.mark.turns(3)
def test_other_true_prompts_are_accepted():
  """A picture also satisfies prompts that it was not drawn for."""
  drawn = pictures.two_thousand()
  pairs = []
  for i in range(0, len(drawn.prompts), 60):
    scene = pictures.take(drawn.scenes, i)
    pairs += [
      (i, p)
      for p in ALL
      if p != drawn.prompts[i] and pictures.is_true(scene, p)
    ]
  index = np.array([i for i, _ in pairs])
  verdict = pictures.verdict(
    pictures.take(drawn.detection, index), [p for _, p in pairs]
  )
  assert len(pairs) > 30
  assert verdict.strict.mean() >= 0.995


def test_partial_credit_is_ordered():
  """Nearer to the prompt is worth more."""
  asked = [grammar.parse("three red circles")]
  shown = ["three red circles", "two red circles", "a red circle",
           "three blue circles", "three blue squares"]  # fmt: skip
  _, images = pictures.draw([grammar.parse(t) for t in shown])
  dense = pictures.judge(images, asked * len(shown)).dense
  assert dense[0] == pytest.approx(1, abs=0.02)
  assert dense[0] > dense[1] > dense[2] > dense[4]
  assert dense[0] > dense[3] > dense[4]
  assert dense[4] == 0


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
  assert pictures.judge(images, prompts).strict.mean() >= 0.99
  changed = [k for k, i in enumerate(position) if drawn.prompts[i].relation < 3]
  verdict = pictures.judge(images, [drawn.prompts[i] for i in position])
  assert verdict.strict[changed].max() == 0


@pytest.mark.parametrize("shift", [-0.03, 0.03])
def test_a_little_brighter_or_darker_changes_nothing(shift):
  drawn = pictures.two_thousand()
  images = np.clip(drawn.images[:168] + shift, 0, 1)
  verdict = pictures.judge(images, drawn.prompts[:168])
  assert verdict.strict.mean() >= 0.99


def test_a_little_noise_changes_nothing():
  drawn = pictures.two_thousand()
  noise = np.random.default_rng(0).normal(size=(168, 36, 36, 3))
  images = np.clip(drawn.images[:168] + 0.008 * noise, 0, 1)
  verdict = pictures.judge(images, drawn.prompts[:168])
  assert verdict.strict.mean() >= 0.97


def _chequered(images, amplitude):
  """A chequer whose mean |Laplacian| is 2 x amplitude."""
  rows, columns = np.indices((36, 36))
  sign = np.where((rows + columns) % 2, 1.0, -1.0)[..., None]
  return images + amplitude * sign


def _sloped(images, deviation):
  """A ramp from left to right of the given standard deviation."""
  ramp = np.linspace(-1, 1, 36) * np.sqrt(3) * deviation
  return images + ramp[:, None]


@pytest.mark.turns(2)
@pytest.mark.parametrize(
  ("spoil", "limit", "scale"),
  [
    (_chequered, detect.MAX_TEXTURE, 0.5),
    (_sloped, detect.MAX_BACKGROUND_STD, 1.0),
  ],
)
def test_the_background_limits_are_where_they_are_stated(spoil, limit, scale):
  assert limit <= 0.03  # fainter than the eye finds at once
  drawn = pictures.two_thousand()
  plain = drawn.images[:168] * 0.9  # room above and below
  for share, expected in ((0.7, 1.0), (1.3, 0.0)):
    images = spoil(plain, share * limit * scale)
    verdict = pictures.judge(images, drawn.prompts[:168])
    assert abs(verdict.strict.mean() - expected) <= 0.03


def test_eight_bits_change_nothing():
  drawn = pictures.two_thousand()
  images = np.round(drawn.images[:168] * 255) / 255
  assert pictures.judge(images, drawn.prompts[:168]).strict.mean() >= 0.995


def _sweeps(mask):
  """Pixels the largest label of a component travels to fill it."""
  numbers = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
  sides = scipy.ndimage.generate_binary_structure(2, 1)
  for sweep in range(mask.size):
    spread = scipy.ndimage.maximum_filter(numbers, footprint=sides) * mask
    if (spread == numbers).all():
      return sweep
    numbers = spread
  return mask.size


@pytest.mark.parametrize("density", [0.1, 0.2, 0.35, 0.8])
def test_components_are_those_of_scipy(density):
  """The same parts, unless one winds for more pixels than labels travel."""
  generator = np.random.default_rng(0)
  noise = generator.random((24, 36, 36))
  smooth = scipy.ndimage.gaussian_filter(noise, (0, 1.0, 1.0))
  foreground = smooth < np.quantile(smooth, density)
  labels = np.asarray(jax.jit(detect.label_components)(foreground))
  whole = 0
  for got, mask in zip(labels, foreground, strict=True):
    expected = scipy.ndimage.label(mask)[0]
    pairs = np.unique(np.stack([got.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(got))  # never joined
    if _sweeps(mask) <= detect._SWEEPS:
      whole += 1
      assert pairs.shape[1] == len(np.unique(expected))  # nor cut
  assert whole >= 20


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
  got = np.asarray(detect.background_colour(jnp.asarray(images)))
  for image, colour in zip(images, got, strict=True):
    ring = np.ones((36, 36), bool)
    ring[1:-1, 1:-1] = False
    pixels = np.sort(image[ring], axis=0)
    np.testing.assert_array_equal(colour, pixels[len(pixels) // 2])


def test_judge_does_not_depend_on_the_order_of_components():
  drawn = pictures.two_thousand()
  found = pictures.take(drawn.detection, slice(0, 168))
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
  found = pictures.take(drawn.detection, slice(0, 6))
  batch = grammar.batch(drawn.prompts[:4], 6)
  verdict = jax.device_get(jax.jit(detect.judge)(found, batch))
  assert verdict.strict[:4].tolist() == [1, 1, 1, 1]
  assert np.isfinite(verdict.dense).all()


def test_descriptions_name_what_was_drawn():
  texts = ["a red circle left of a blue square", "two yellow crosses"]
  _, images = pictures.draw([grammar.parse(t) for t in texts])
  lines = detect.describe(pictures.look(images))
  assert lines == ["red circle, blue square", "yellow cross, yellow cross"]
  blank = np.full((1, 36, 36, 3), 0.9)
  assert detect.describe(pictures.look(blank)) == ["nothing"]
