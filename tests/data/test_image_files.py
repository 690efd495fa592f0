"""Odd but sound image files are read; the others are called what they are."""

import importlib.util
import io
import re
import threading
import warnings

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from jaxreward.data import image_files, images
from jaxreward.errors import UserError
from tests.data import odd_images as odd


@pytest.fixture(autouse=True)
def nothing_global():
  """No remark reaches anybody, and Pillow's globals stay as they are."""
  facts = lambda: (
    Image.MAX_IMAGE_PIXELS,
    ImageFile.LOAD_TRUNCATED_IMAGES,
    PngImagePlugin.MAX_TEXT_CHUNK,
    PngImagePlugin.MAX_TEXT_MEMORY,
  )
  before = facts()
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    yield
  assert facts() == before


def decoded(data, name="a.png"):
  image, size = image_files.decode(data, name)
  assert image.mode == "RGB" and image.size == size
  return np.asarray(image)


@pytest.mark.parametrize("name", odd.SOUND_PNG)
def test_odd_files_have_the_pixels_of_the_clean_one(name):
  data = odd.SOUND_PNG[name]()
  np.testing.assert_array_equal(decoded(data, f"a.{name}"), odd.PIXELS)


@pytest.mark.parametrize("name", odd.SOUND_JPEG)
def test_odd_jpegs_have_the_pixels_of_the_clean_one(name):
  with Image.open(io.BytesIO(odd.saved("JPEG", quality=90))) as clean:
    wanted = np.asarray(clean)
  np.testing.assert_array_equal(decoded(odd.SOUND_JPEG[name]()), wanted)


@pytest.mark.parametrize("name", odd.NO_GOOD)
def test_the_others_are_one_line(name, tmp_path):
  make, said = odd.NO_GOOD[name]
  path = tmp_path / "a.png"
  path.write_bytes(make())
  with pytest.raises(UserError, match=re.escape(said)) as error:
    images.read_image(path)
  assert str(error.value).startswith(f"{path}: ")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_cameras_are_turned_as_pillow_does(kind, turn):
  options = {"lossless": True} if kind == "WEBP" else {}
  data = odd.saved(kind, exif=odd.exif_of(turn), **options)
  wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
  np.testing.assert_array_equal(decoded(data), np.asarray(wanted))


@pytest.mark.parametrize("form", ['<a tiff:Orientation="6"/>', "="])
def test_xmp_turns_where_no_exif_does(form):
  if form == "=":
    form = "<tiff:Orientation>6</tiff:Orientation>"
  note = b"XML:com.adobe.xmp\0\0\0\0\0" + form.encode()
  wanted = np.rot90(odd.PIXELS, -1)
  data = odd.png_with(odd.chunk(b"iTXt", note))
  np.testing.assert_array_equal(decoded(data), wanted)
  upright = odd.chunk(b"eXIf", odd.exif_of(1).removeprefix(b"Exif\0\0"))
  data = odd.png_with(upright, odd.chunk(b"iTXt", note))
  np.testing.assert_array_equal(decoded(data), odd.PIXELS)


def test_grey_of_16_bits_counts_by_its_upper_8():
  file = io.BytesIO()
  Image.fromarray(odd.deep_grey()).save(file, "PNG")
  wanted = np.repeat(odd.PIXELS[..., :1], 3, 2)
  np.testing.assert_array_equal(decoded(file.getvalue()), wanted)


def test_cmyk_is_read_as_the_published_programs_do():
  data = odd.saved("JPEG", mode="CMYK")
  wanted = Image.open(io.BytesIO(data)).convert("RGB")
  np.testing.assert_array_equal(decoded(data), np.asarray(wanted))


def test_a_palette_with_an_opaque_table_is_a_plain_picture():
  plain = Image.fromarray(odd.PIXELS).convert("P")
  data = odd.saved("PNG", mode="P", transparency=bytes([255] * 256))
  np.testing.assert_array_equal(decoded(data), np.asarray(plain.convert("RGB")))


def test_the_first_picture_of_a_gif():
  first = Image.open(io.BytesIO(odd.animated("GIF"))).convert("RGB")
  np.testing.assert_array_equal(decoded(odd.animated("GIF")), np.asarray(first))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_pictures_of_a_pixel_are_pictures(size, tmp_path):
  Image.new("RGB", size, "red").save(tmp_path / "a.png")
  image = images.read_image(tmp_path / "a.png", (4, 6))
  np.testing.assert_array_equal(image, np.broadcast_to([1.0, 0, 0], (4, 6, 3)))


def test_more_pixels_than_pillows_limit(monkeypatch, tmp_path):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # 1920 is over twice it
  np.testing.assert_array_equal(decoded(odd.saved("PNG")), odd.PIXELS)
  (tmp_path / "a.png").write_bytes(odd.saved("PNG"))
  assert images.read_image(tmp_path / "a.png", 8).shape == (8, 8, 3)


def test_the_limit_on_pixels_is_one_of_the_package(monkeypatch):
  monkeypatch.setattr(image_files, "MOST_PIXELS", 48 * 40)
  decoded(odd.saved("PNG"))
  monkeypatch.setattr(image_files, "MOST_PIXELS", 48 * 40 - 1)
  with pytest.raises(UserError, match=r"48 x 40 pixels, and at most 1919 are"):
    decoded(odd.saved("JPEG"))


def test_names_do_not_matter(tmp_path):
  for name in ("a.JPG", "b.txt", "c", "d.heic"):
    (tmp_path / name).write_bytes(odd.saved("PNG"))
    read = images.read_image(tmp_path / name)
    np.testing.assert_array_equal(read, odd.PIXELS / np.float32(255))


@pytest.mark.parametrize(
  ("name", "said"),
  [("gone.png", "No such file"), (".", "no file"), ("a\0b", "null"),
   ("a" * 300, "File name too long")],
)  # fmt: skip
def test_what_is_no_file(name, said, tmp_path):
  with pytest.raises(UserError, match=said):
    images.read_image(tmp_path / name)


def test_many_threads_read_at_once(tmp_path):
  """Sound and damaged files side by side, each told as if alone."""
  kinds = [*odd.SOUND_PNG.values()][:6] * 3
  for i, make in enumerate(kinds):
    (tmp_path / f"{i}.png").write_bytes(make())
  names = [str(tmp_path / f"{i}.png") for i in range(len(kinds))]
  found = images.read_images(names, (40, 48))
  assert (found == odd.PIXELS).all()
  for i in (4, 9):
    (tmp_path / f"{i}.png").write_bytes(odd.saved("PNG")[:999])
  with pytest.raises(UserError, match=r"5: .*4\.png: the image is damaged"):
    images.read_images(names, 8, [str(i + 1) for i in range(len(kinds))])
  assert threading.active_count() < 20


@pytest.mark.skipif(
  importlib.util.find_spec("pillow_heif") is None, reason="needs pillow-heif"
)
def test_heic_is_read_where_its_library_is():
  library = importlib.import_module("pillow_heif")
  y, x = np.mgrid[:64, :96]
  smooth = np.stack([3 * y, 2 * x, y + x], -1).astype(np.uint8)
  file = io.BytesIO()
  photo = library.from_pillow(Image.fromarray(smooth))
  photo.save(file, quality=95, exif=odd.exif_of(6))
  turned = np.rot90(smooth, -1).astype(int)
  assert np.abs(decoded(file.getvalue(), "a.heic") - turned).max() < 8
