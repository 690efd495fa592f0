"""The page of a made-up run, read back."""

import base64
import io
import json
import re
import xml.etree.ElementTree

import numpy as np
import pytest
from page import Page
from PIL import Image

from jaxreward.errors import UserError
from jaxreward.report import grids, html


@pytest.fixture(scope="module")
def page(run):
  return Page(run[2])


@pytest.mark.job
@pytest.mark.turns(3)
def test_every_element_is_closed_in_order(page):
  assert page.errors == []
  assert page.open == []
  assert len(page.ids) == len(set(page.ids))


def test_links_lead_somewhere(page):
  links = [a["href"] for a in page.of("a")]
  assert links and all(link.startswith("#") for link in links)
  assert {link[1:] for link in links} <= set(page.ids)


def test_nothing_is_fetched_and_nothing_runs(run, page):
  text = run[2]
  for tag, attributes in page.elements:
    for name in ("src", "href", "srcset", "poster", "data", "action"):
      value = attributes.get(name) or "#"
      assert value.startswith(("#", "data:")), (tag, name, value[:60])
    assert not any(name.startswith("on") for name in attributes)
  assert "@import" not in text and not re.search(r"url\(", text)
  assert [s["type"] for s in page.of("script")] == ["application/json"]
  assert not page.of("link") and not page.of("iframe")


def test_a_prompt_cannot_become_markup(run, page):
  prompt = run[1][0]["prompt"]
  assert "<script>" in prompt
  assert "<script>alert" not in run[2]
  assert prompt in page.text
  assert any(prompt in (a.get("alt") or "") for a in page.of("img"))


def test_every_picture_is_there_and_in_its_place(run, page):
  folder, texts, _ = run
  before, after, *_ = grids.load_cards(folder / "grids" / "cards.npz")
  shown = [a for a in page.of("img") if a["src"].startswith("data:image/png")]
  assert len(shown) == 2 * len(texts)
  expected = {}
  for side, images in (("Before", before), ("After", after)):
    for image, text in zip(images, texts, strict=True):
      key = f"{side}: {text['prompt']}"
      expected.setdefault(key, []).append(image)
  for attributes in shown:
    content = base64.b64decode(attributes["src"].partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(content)))[1::3, 1::3]
    candidates = expected[attributes["alt"]]
    assert any(np.array_equal(pixels, image) for image in candidates)


def test_verdict_and_what_was_seen_stand_under_each_picture(run, page):
  text = page.text
  for card in run[1]:
    for side in ("before", "after"):
      word = "✓ right:" if card[f"ok_{side}"] else "✗ wrong:"
      assert f"{side} {word} {card[f'seen_{side}']}" in text


def test_charts_are_well_formed_pictures(page):
  charts = [a for a in page.of("img") if a["alt"].startswith("Chart: ")]
  titles = [a["alt"].removeprefix("Chart: ") for a in charts]
  for title in (
    "Pair accuracy",
    "Loss",
    "Calibration error",
    "Trained and held-out reward",
    "Accuracy by kind of prompt",
    "KL to the reference",
    "Diversity within groups",
    "Clip fraction, high and low",
    "Gradient norm",
    "Texture",
    "Edge density",
    "Colour entropy",
    "Brightness",
    "Groups without a signal",
    "Detector disagreement",
    "Seconds per step",
    "learning_rate",
  ):
    assert titles.count(title) == 1, title
  assert "always_null" not in titles
  for attributes in charts:
    content = base64.b64decode(attributes["src"].partition(",")[2])
    root = xml.etree.ElementTree.fromstring(content)
    assert root.tag.endswith("svg")


def test_figures_are_strict_json_and_complete(run, page):
  def refuse(text):
    raise AssertionError(text)

  figures = json.loads(page.raw["script"], parse_constant=refuse)
  stored = json.loads((run[0] / "evaluation.json").read_text(encoding="utf-8"))
  assert figures["evaluation"] == stored
  lines = (run[0] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
  assert figures["metrics"] == [json.loads(line) for line in lines]
  assert len(figures["timings"]) == 90


def test_key_numbers_are_those_of_the_evaluation(run, page):
  stored = json.loads((run[0] / "evaluation.json").read_text(encoding="utf-8"))
  plain = "guidance_scale=1.0"
  rates = [stored[side][plain]["strict"] for side in ("before", "after")]
  first, last = (f"{100 * rate:.1f} %" for rate in rates)
  assert f"{first} → {last}" in page.text
  best = max(n["strict"] for n in stored["before"].values())
  assert f"Base with its best guidance {100 * best:.1f} %" in page.text
  ratio = stored["after"][plain]["texture"] / stored["before"][plain]["texture"]
  assert f"{ratio:.2f} ×" in page.text


def test_script_json_cannot_end_its_element():
  value = {"prompt": "</script><b> & \u2028"}
  text = str(html.script_json(value))
  assert "<" not in text and ">" not in text and "&" not in text
  assert json.loads(text) == value


def test_an_empty_report_is_a_page(tmp_path):
  path = tmp_path / "deep" / "report.html"
  html.write_report(path, title="a < b & c")
  page = Page(path.read_text(encoding="utf-8"))
  assert page.errors == []
  assert "a < b & c" in page.text
  assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_warnings_notes_config_and_plain_summary_are_shown(tmp_path):
  path = tmp_path / "report.html"
  html.write_report(
    path,
    title="t",
    summary={"Accuracy": "0.5", "Gain": {"value": "+3", "detail": "<i>"}},
    config={"model": {"name": "<tiny>"}},
    environment={"devices": {"cpu": 2}, "flags": [], "limit": None},
    warnings=["parted <ways>"],
    notes=["a base checkpoint was used"],
  )
  page = Page(path.read_text(encoding="utf-8"))
  assert page.errors == []
  for part in (
    "Accuracy 0.5",
    "Gain +3 <i>",
    '"name": "<tiny>"',
    "devices cpu 2",
    "flags –",
    "limit –",
    "Warning. parted <ways>",
    "a base checkpoint was used",
  ):
    assert part in page.text, part


def test_a_failed_write_keeps_the_old_page(tmp_path, monkeypatch):
  path = tmp_path / "report.html"
  html.write_report(path, title="first")

  def full(*_):
    raise OSError("no space left on device")

  monkeypatch.setattr("os.replace", full)
  with pytest.raises(UserError, match="no space"):
    html.write_report(path, title="second")
  monkeypatch.undo()
  assert "<title>first</title>" in path.read_text(encoding="utf-8")
  assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
