"""Reading text in pictures, and the score of what was read."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from jaxreward.rewards import REGISTRY, build, ocr, score, scoring
from tests.rewards import folders


def slow_distance(a, b):
  """Levenshtein by recursion on the ends."""
  if not a or not b:
    return len(a) + len(b)
  return min(
    slow_distance(a[1:], b) + 1,
    slow_distance(a, b[1:]) + 1,
    slow_distance(a[1:], b[1:]) + (a[0] != b[0]),
  )


def test_the_edit_distance():
  rng = np.random.default_rng(0)
  for _ in range(60):
    a, b = ("".join(rng.choice(list("abc"), rng.integers(0, 6))) for _ in "ab")
    assert ocr.edit_distance(a, b) == slow_distance(a, b)


@pytest.mark.parametrize(
  ("found", "target", "expected"),
  [
    ("Hello World", "hello world", 1.0),
    ("HELL0", "Hello", 0.8),
    ("", "Hello", 0.0),
    ("nothing alike at all here", "xyz", 0.0),
    ("say hello twice", "hello", 1.0),
  ],
)
def test_the_score(found, target, expected):
  assert ocr.text_score(found, target) == pytest.approx(expected)


def test_a_target_within_more_text_is_no_match_when_it_is_not_exempt():
  found = ocr.text_score("hello!!", "hello", exempt_substring=False)
  assert found == pytest.approx(1 - 2 / 5)
  assert np.isnan(ocr.text_score("hello", " "))


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ('a sign that says "Open" and "Shut"', "Open"),
    ("a sign with “Closed” on it", "Closed"),
    ("a sign", ""),
    ('a 5" sign', ""),
  ],
)
def test_the_quoted_text(text, expected):
  assert ocr.quoted(text) == expected


def picture(text):
  image = Image.new("RGB", (320, 120), "white")
  font = ImageFont.load_default(48)
  ImageDraw.Draw(image).text((20, 30), text, fill="black", font=font)
  return np.asarray(image, np.float32) / 255


@pytest.mark.turns(2)
@pytest.mark.extras
def test_texts_are_read_from_pictures(monkeypatch):
  pytest.importorskip("rapidocr")
  texts = ['a sign that says "Hello World"', 'one with "Bread"', "none"]
  monkeypatch.setattr(
    scoring, "texts_of", lambda prompts: texts[: len(prompts.ids)]
  )
  batch, _ = folders.prompts(3)
  signs = [picture("Hello World"), picture("Bread"), np.zeros((120, 320, 3))]
  images = np.stack([np.stack(signs)] * 3).astype(np.float32)
  images[1, 2] = np.nan
  loaded = ocr.load_ocr()
  fn = REGISTRY["ocr"]
  bound = lambda i, p, **k: fn(i, p, **loaded.static, **k)
  bound.is_host = True
  rewards = build({"mine": bound}, prepares={"mine": loaded.prepare})
  found, failed = score(rewards, images, batch)
  found = found["mine"]
  assert found[0, 0] > 0.9 and found[1, 1] > 0.9
  assert found[0, 1] < 0.5 and found[1, 0] < 0.5 and found[0, 2] == 0
  assert np.isnan(found[1, 2]) and np.isnan(found[2]).all()
  assert int(failed["mine"]) == 4
