"""Grids and cards, decoded again."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from jaxreward.report import grids


def decode(content):
  return np.asarray(Image.open(io.BytesIO(content)))


def test_grid_holds_every_picture_enlarged_without_blur():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (5, 6, 4, 3), dtype=np.uint8)
  pixels = decode(grids.image_grid_png(images, scale=3, columns=2))
  tall, wide = 6 + grids.GAP, 4 + grids.GAP
  shape = (3 * (3 * tall - grids.GAP), 3 * (2 * wide - grids.GAP), 3)
  assert pixels.shape == shape
  for i, image in enumerate(images):
    top, left = 3 * tall * (i // 2), 3 * wide * (i % 2)
    got = pixels[top : top + 18, left : left + 12]
    np.testing.assert_array_equal(got, np.kron(image, np.ones((3, 3, 1))))
  assert (pixels[3 * 2 * tall :, 3 * wide :] == grids.PAPER).all()


def test_floats_are_clipped_and_nan_is_black():
  values = np.array([-0.5, 0.0, 0.5, 1.0, 2.0, np.nan], np.float32)
  images = np.broadcast_to(values[:, None, None, None], (6, 2, 2, 3))
  got = grids.to_uint8(images)[:, 0, 0, 0]
  np.testing.assert_array_equal(got, [0, 0, 128, 255, 255, 0])
  grey = grids.to_uint8(np.full((1, 2, 2, 1), 0.2))
  assert grey.shape == (1, 2, 2, 3)


def test_bad_input_says_so():
  with pytest.raises(ValueError, match="at least one"):
    grids.image_grid_png(np.zeros((0, 2, 2, 3)))
  with pytest.raises(ValueError, match=r"\[N, H, W"):
    grids.to_uint8(np.zeros((2, 2, 3)))
  one = np.zeros((1, 2, 2, 3))
  with pytest.raises(ValueError, match="as many pictures as texts"):
    grids.make_cards(one, one, [])


def test_cards_survive_the_disk(tmp_path):
  rng = np.random.default_rng(1)
  before, after = rng.integers(0, 256, (2, 3, 5, 5, 3), dtype=np.uint8)
  texts = [{"prompt": f'é "{i}"', "ok_after": i == 1} for i in range(3)]
  path = tmp_path / "grids" / "cards.npz"
  grids.save_cards(path, before, after, texts)
  got = grids.load_cards(path)
  np.testing.assert_array_equal(got[0], before)
  np.testing.assert_array_equal(got[1], after)
  assert got[2] == texts
  cards = grids.make_cards(*got, scale=2)
  assert cards[2]["prompt"] == 'é "2"' and cards[2]["seen_before"] is None
  content = base64.b64decode(cards[1]["after"].partition(",")[2])
  np.testing.assert_array_equal(decode(content)[::2, ::2], after[1])
  assert not got[3] and "source" not in cards[1]


def test_cards_of_large_pictures_are_not_enlarged():
  tall = np.zeros((1, grids.SMALL + 1, 4, 3), np.uint8)
  (card,) = grids.make_cards(tall, tall, [{}], scale=3)
  content = base64.b64decode(card["after"].partition(",")[2])
  np.testing.assert_array_equal(decode(content), tall[0])


def test_cards_of_videos_play_their_frames(tmp_path):
  strips = np.random.default_rng(3).integers(0, 256, (2, 4, 15, 3), np.uint8)
  grids.save_cards(tmp_path / "c.npz", strips, strips[::-1], [{}] * 2, frames=3)
  cards = grids.make_cards(*grids.load_cards(tmp_path / "c.npz"), scale=2)
  content = base64.b64decode(cards[0]["after_moving"].partition(",")[2])
  with Image.open(io.BytesIO(content)) as moving:
    assert moving.n_frames == 3
    for i in range(3):
      moving.seek(i)
      frame = np.asarray(moving.convert("RGB"))[::2, ::2]
      np.testing.assert_array_equal(frame, strips[1, :, 5 * i : 5 * i + 5])


def test_cards_show_what_pictures_started_from(tmp_path):
  rng = np.random.default_rng(2)
  before, after = rng.integers(0, 256, (2, 3, 5, 5, 3), dtype=np.uint8)
  sources = rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
  path = tmp_path / "cards.npz"
  targets = after / np.float32(255)
  targets[0, 1, 2, 0] += 20 / 255 if after[0, 1, 2, 0] < 200 else -20 / 255
  targets[1] = np.nan  # no exact answer
  beside = {"source": sources, "target": targets}
  grids.save_cards(path, before, after, [{}] * 3, beside)
  cards = grids.make_cards(*grids.load_cards(path), scale=2)
  shown = lambda i, name: decode(
    base64.b64decode(cards[i][name].partition(",")[2])
  )[::2, ::2]
  np.testing.assert_array_equal(shown(2, "source"), sources[2])
  np.testing.assert_array_equal(shown(2, "target"), after[2])
  assert not {"target", "difference"} & cards[1].keys()
  assert (shown(2, "difference") == 255).all()
  gap = np.full_like(after[0], 255)
  gap[1, 2, 0] -= 60
  np.testing.assert_array_equal(shown(0, "difference"), gap)
