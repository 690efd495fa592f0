"""Image files, and what is said about those that are no good."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxreward.data import images
from jaxreward.errors import UserError

RNG = np.random.default_rng(0)


def _pixels(height=9, width=7):
  return RNG.integers(0, 256, (height, width, 3), np.uint8)


def _save(path, image, **options):
  image.save(path, **options)
  return path


def test_png_is_read_exactly(tmp_path):
  pixels = _pixels()
  read = images.read_image(_save(tmp_path / "a.png", Image.fromarray(pixels)))
  assert read.dtype == np.float32
  np.testing.assert_array_equal(read, pixels.astype(np.float32) / 255)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA"])
def test_modes_that_are_plain_pictures(tmp_path, mode):
  grey = Image.fromarray(np.repeat(_pixels()[..., :1] // 128 * 255, 3, 2))
  path = _save(tmp_path / "a.png", grey.convert(mode))
  np.testing.assert_allclose(
    images.read_image(path), np.asarray(grey, np.float32) / 255, atol=1e-6
  )


def test_camera_orientation_is_applied(tmp_path):
  image = Image.fromarray(_pixels(4, 6))
  exif = image.getexif()
  exif[0x0112] = 6  # turned by a quarter
  path = _save(tmp_path / "a.png", image, exif=exif)
  expected = np.rot90(np.asarray(image, np.float32) / 255, -1)
  np.testing.assert_array_equal(images.read_image(path), expected)


def test_resizing_keeps_the_aspect(tmp_path):
  wide = np.zeros((10, 30, 3), np.uint8)
  wide[:, 10:20] = 255  # what a centred square crop keeps
  path = _save(tmp_path / "a.png", Image.fromarray(wide))
  np.testing.assert_array_equal(images.read_image(path, 10), 1)
  assert images.read_image(path, 5).shape == (5, 5, 3)
  assert images.read_image(path, (4, 12)).shape == (4, 12, 3)


def _png_bytes():
  file = io.BytesIO()
  Image.fromarray(_pixels(40, 40)).save(file, "PNG")
  return file.getvalue()


@pytest.mark.parametrize(
  ("content", "wanted"),
  [
    (b"", "not an image"),
    (b"hello", "not an image"),
    (_png_bytes()[:400], "damaged or cut short"),
    (_png_bytes()[:-30] + bytes(30), "damaged or cut short"),
  ],
)
def test_bad_files_are_named(tmp_path, content, wanted):
  path = tmp_path / "bad.png"
  path.write_bytes(content)
  with pytest.raises(UserError, match=wanted) as error:
    images.read_image(path)
  assert str(error.value).startswith(f"{path}: ")


def test_missing_file_and_folder(tmp_path):
  with pytest.raises(UserError, match=r"gone\.png: No such file"):
    images.read_image(tmp_path / "gone.png")
  with pytest.raises(UserError, match=str(tmp_path)):
    images.read_image(tmp_path)


@pytest.mark.parametrize("mode", ["I", "LAB", "F"])
def test_other_modes_are_refused(tmp_path, mode):
  path = tmp_path / "a.tif"
  _save(path, Image.new(mode, (4, 4)))
  with pytest.raises(UserError, match=f"mode {mode}"):
    images.read_image(path)


def test_transparency_is_refused(tmp_path):
  pixels = np.full((4, 4, 4), 255, np.uint8)
  pixels[1, 1, 3] = 0
  path = _save(tmp_path / "a.png", Image.fromarray(pixels))
  with pytest.raises(UserError, match="partly transparent"):
    images.read_image(path)
