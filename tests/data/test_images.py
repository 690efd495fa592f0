"""Image files in and out, and what is said about those that are no good."""

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


def test_png_goes_round_exactly(tmp_path):
  image = _pixels().astype(np.float32) / 255
  images.write_png(tmp_path / "deep" / "a.png", image)
  read = images.read_image(tmp_path / "deep" / "a.png")
  assert read.dtype == np.float32
  np.testing.assert_array_equal(read, image)


def test_written_values_are_clipped_and_rounded(tmp_path):
  values = np.array([-0.5, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 7.0])
  expected = np.array([0, 0, 0, 1, 255, 255]) / 255
  image = np.broadcast_to(values[:, None, None], (6, 2, 3))
  images.write_png(tmp_path / "a.png", image)
  read = images.read_image(tmp_path / "a.png")
  np.testing.assert_allclose(read[:, 0, 0], expected, atol=1e-7)


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


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "F"])
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


def test_nan_is_not_written(tmp_path):
  image = np.zeros((4, 4, 3), np.float32)
  image[0, 0, 0] = np.nan
  with pytest.raises(UserError, match="1 values that are not finite"):
    images.write_png(tmp_path / "a.png", image)
  assert not (tmp_path / "a.png").exists()


def test_folder_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write"):
    images.write_png(tmp_path / "file" / "a.png", np.zeros((2, 2, 3)))
