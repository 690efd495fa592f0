"""Frames of animated files."""

import numpy as np
import pytest
from PIL import Image

from jaxreward.data import images
from jaxreward.data.image_store import ImageStore
from jaxreward.data.row_images import RowImage
from jaxreward.errors import UserError

GREYS = [10, 40, 70, 100, 130, 160, 190, 220]


def save(path, greys, **options):
  frames = [Image.new("RGB", (12, 8), (g, g, g)) for g in greys]
  frames[0].save(path, save_all=True, append_images=frames[1:], **options)
  return path


@pytest.mark.parametrize(
  ("suffix", "options"),
  [(".gif", {}), (".webp", {"lossless": True}), (".png", {}), (".tiff", {})],
)
def test_middle_frames_of_equal_parts(tmp_path, suffix, options):
  path = save(tmp_path / f"a{suffix}", GREYS, **options)
  clip = images.clip_pixels(path, 4, 8)
  assert clip.shape == (4, 8, 8, 3)
  assert clip[:, 0, 0, 0].tolist() == [40, 100, 160, 220]
  more = images.clip_pixels(path, 16, 8)[:, 0, 0, 0].tolist()
  assert more == np.repeat(GREYS, 2).tolist()
  np.testing.assert_array_equal(images.pixels(path, 8)[0, 0], 3 * [10])


def test_a_still_image_stands_still(tmp_path):
  path = tmp_path / "a.jpg"
  Image.new("RGB", (12, 8), (90, 20, 200)).save(path)
  clip = images.clip_pixels(path, 3, 8)
  assert all(np.array_equal(frame, images.pixels(path, 8)) for frame in clip)


def test_what_is_cut_short_is_told(tmp_path):
  path = save(tmp_path / "a.gif", GREYS)
  path.write_bytes(path.read_bytes()[:-150])
  with pytest.raises(UserError, match=r"a\.gif: the image is damaged or cut"):
    images.clip_pixels(path, 4, 8)


def test_a_store_of_clips_and_its_stills(tmp_path):
  files = [
    RowImage("image", str(save(tmp_path / f"{i}.gif", [g + i for g in GREYS])))
    for i in range(2)
  ]
  store = ImageStore(files, ["a", "b"], 8, frames=4)
  clips, there = store.take(np.array([[1, -1], [0, 1]]))
  assert clips.shape == (2, 2, 4, 8, 8, 3)
  assert there.tolist() == [[True, False], [True, True]]
  assert clips[0, 0, :, 0, 0, 0].tolist() == [41, 101, 161, 221]
  assert not clips[0, 1].any()
  stills, _ = store.stills(np.array([0, 1]))
  assert stills[:, 0, 0, 0].tolist() == [160, 161]
  assert store._key() != ImageStore(files, ["a", "b"], 8)._key()


def save_video(path, greys, codec, turn=0):
  av = pytest.importorskip("av")
  with av.open(str(path), "w") as file:
    stream = file.add_stream(codec, rate=8)
    stream.width, stream.height, stream.pix_fmt = 24, 16, "yuv420p"
    if turn:
      stream.set_display_rotation(turn)
    for grey in greys:
      pixels = np.full((16, 24, 3), grey, np.uint8)
      pixels[:8, :12] = 255  # the upper left quarter
      for packet in stream.encode(av.VideoFrame.from_ndarray(pixels)):
        file.mux(packet)
    for packet in stream.encode(None):
      file.mux(packet)
  return path


@pytest.mark.extras
@pytest.mark.parametrize(
  ("name", "codec"),
  [("a.mp4", "mpeg4"), ("b.webm", "libvpx"), ("c.avi", "mpeg4")],
)
def test_middle_frames_of_videos(tmp_path, name, codec):
  path = save_video(tmp_path / name, GREYS, codec)
  clip = images.clip_pixels(path, 4, 16).astype(int)
  np.testing.assert_allclose(clip[:, -1, -1, 0], [40, 100, 160, 220], atol=9)
  np.testing.assert_allclose(clip[:, 0, 0], 255, atol=9)
  first = images.pixels(path, 16).astype(int)
  np.testing.assert_allclose(first[-1, -1], 10, atol=9)
  path.write_bytes(path.read_bytes()[:-600])
  with pytest.raises(UserError, match=rf"{name}: the image is damaged or cut"):
    images.clip_pixels(path, 4, 16)


@pytest.mark.extras
def test_a_video_is_turned_as_its_file_says(tmp_path):
  path = save_video(tmp_path / "a.mp4", GREYS, "mpeg4", turn=90)
  first = images.pixels(path, 16).astype(int)
  np.testing.assert_allclose(first[-1, 0], 255, atol=9)  # counterclockwise
  np.testing.assert_allclose(first[0, 0], 10, atol=9)
