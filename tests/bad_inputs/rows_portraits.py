"""Portraits: words, pictures of another size, a broken atlas, no renderer."""

import sys
import types

import numpy as np
from etils import epath

from jaxreward.tasks.portraits import atlas, draw, judge, rewards, words
from tests.bad_inputs.table import Row

CONFIG = "pretrain_portraits.py:smoke"


def _parse(text):
  return lambda here: words.parse(text)


def _atlas(here):
  atlas.read(epath.Path(here) / "portraits.npz")


def _changed(path):
  layers = np.array(atlas.read(atlas.PATH))
  name = atlas.digest(layers)
  layers[0, 0, 0] += 1
  np.savez(path, layers=layers, digest=name)


def _cut(path):
  path.write_bytes(atlas.PATH.read_bytes()[:2000])


def _array_alone(path):
  with path.open("wb") as file:
    np.save(file, np.ones(3))


def _no_renderer(here, monkeypatch):
  monkeypatch.setitem(sys.modules, "dicebear", None)


def _no_drawings(here, monkeypatch):
  for name in ("dicebear", "resvg_py"):
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
  monkeypatch.setitem(sys.modules, "dicebear_styles", None)


ROWS = [
  Row("an unknown word", ('"hat" is not in the vocabulary of the portraits',),
      call=_parse("a person in a red hat")),
  Row("a value of another attribute", ('"purple hair" is not known',),
      call=_parse("a person with purple hair")),
  Row("a word of instructions", ('"plain" is not in the vocabulary',),
      call=_parse("a person in a plain blue shirt")),
  Row("two expressions", ('mouth is both "smiling" and "frowning"',),
      call=_parse("a person smiling and frowning")),
  Row("hair of two colours", ("two values of one attribute",),
      call=_parse("a person with red brown hair")),
  Row("a coloured person", ('"red person" is not known',),
      call=_parse("a red person with short hair")),
  Row("nobody", ("0 people are not one or two",), call=_parse("")),
  Row("a crowd", ("3 people",), call=_parse("a person, a person, a person")),
  Row("both on the left", ('is "on the left" and one "on the right"',),
      call=_parse("a person on the left and a person on the left")),
  Row("one on the left", ("one person stands in the middle",),
      call=_parse("a person smiling on the left")),
  Row("a long prompt", ("at most 16 fit",),
      call=lambda here: words.tokenize("a red person " * 9)),
  Row("words of the scenes", ('config.model.language="scenes"', "portraits"),
      config=CONFIG, overrides={"model.language": "scenes"}),
  Row("an unknown language", ('model.language="french"',), config=CONFIG,
      overrides={"model.language": "french"}),
  Row("pictures of another size", ("pictures of 48 pixels", "36 x 36"),
      config=CONFIG, overrides={"model.image_size": 36}),
  Row("an autoencoder for other pictures", ("latents of 3 x 3", "of 6 x 6"),
      config="portraits.py:latent,smoke", overrides={"autoencoder.image_size": 24}),
  Row("a reward of edits", ('grammar to "portrait_edits"',), config="portraits.py:smoke",
      overrides={"rewards.x.fn": "left_alone", "rewards.x.weight": 1.0}),
  Row("control images of portraits alone", ('control="edges"', "are those of its rows"),
      config="portraits.py:smoke", overrides={"data.control": "edges"}),
  Row("an unknown control image", ('control="edge"', "edges"),
      config="portrait_edits.py:smoke", overrides={"data.control": "edge"}),
  Row("regions of photographs", ("control=regions", "grey"),
      config="recipes/ctrl_u.py:full,control=regions"),
  Row("a reward without errors", ("errors of one reward", "none gives them",
      "condition_cycle"), config="recipes/ctrl_u.py:smoke,control=regions",
      overrides={"rewards.cycle.fn": "drawn"}),
  Row("a reward model for scenes", ('backbone.language="scenes"', "portraits"),
      config="train_reward_portraits.py:smoke",
      overrides={"reward_model.backbone.language": "scenes"}),
  Row("a reward model of another size", ("image_size=36", "48 pixels"),
      config="train_reward_portraits.py:smoke",
      overrides={"reward_model.backbone.image_size": 36}),
  Row("no atlas", ("portraits.npz", "FileNotFoundError", "draw.write()"),
      call=_atlas),
  Row("half an atlas", ("portraits.npz", "cannot be read"),
      {"portraits.npz": _cut}, call=_atlas),
  Row("an empty atlas", ("portraits.npz", "EOFError", "draw.write()"),
      {"portraits.npz": lambda p: p.write_bytes(b"")}, call=_atlas),
  Row("an atlas without names", ("portraits.npz", "cannot be read"),
      {"portraits.npz": _array_alone}, call=_atlas),
  Row("a changed atlas", ("portraits.npz", "damaged"),
      {"portraits.npz": _changed}, call=_atlas),
  Row("another array", ("portraits.npz", "float64 (3,)"),
      {"portraits.npz": lambda p: np.savez(p, layers=np.ones(3), digest="x")},
      call=_atlas),
  Row("no renderer", ('pip install "jaxreward[portraits]"',),
      call=lambda here: draw.layers(), prepare=_no_renderer),
  Row("no drawings", ('pip install "jaxreward[portraits]"',),
      call=lambda here: draw.layers(), prepare=_no_drawings),
  Row("a noise below 0", ("rated.noise=-0.1", "0 or more"),
      call=lambda here: rewards.rated(
        np.zeros((1, 1, 48, 48, 3)), None, noise=-0.1)),
  Row("images of another size", ("48 x 48 pixels in colour", "12 x 12 x 3"),
      call=lambda here: judge.groups(np.zeros((1, 1, 12, 12, 3)), None)),
]  # fmt: skip
