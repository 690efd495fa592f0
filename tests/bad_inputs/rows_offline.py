"""Images with captions, and pairs of them, to train on."""

import json

from jaxreward.tasks.scenes import grammar
from tests.bad_inputs.table import Row
from tests.data import odd_images as odd

_TRAIN = grammar.prompts("train")[0].text
_HELDOUT = grammar.prompts("heldout")[0].text
SFT = "recipes/flow_matching.py:smoke"
ROWS_FILE = {"data.dataset": "{here}/rows.jsonl"}


def row(name, says, field="", value=None, first=None, config=SFT, files=None):
  """A field that is set after those of `first`."""
  overrides = dict(first or {}) | ({field: value} if field else {})
  return Row(
    name, tuple(says), config=config, overrides=overrides, files=files or {}
  )


def in_rows(name, says, *rows, files=None):
  """Rows of a dataset beside one that is right."""
  good = {"prompt": _TRAIN, "image": "good.png"}
  lines = [json.dumps(r) if isinstance(r, dict) else r for r in (good, *rows)]
  files = {"good.png": odd.saved("PNG")} | (files or {})
  text = {"rows.jsonl": "\n".join(lines)}
  return row(name, ("rows.jsonl", *says), first=ROWS_FILE, files=text | files)


DPO = "recipes/flow_dpo_offline.py:smoke"
PPD = "recipes/ppd_personal_dpo.py:smoke"
CROSS = {"prompt": "a cross", "chosen": "good.png", "rejected": "other.png"}


def in_pairs(name, says, *rows, files=None, **overrides):
  """Rows of preferences."""
  own = {
    "good.png": odd.saved("PNG"),
    "other.png": odd.saved("PNG", odd.PIXELS[::-1].copy()),
    "pairs.jsonl": "\n".join(map(json.dumps, rows)),
  }
  first = {"data.preferences": "{here}/pairs.jsonl"} | overrides
  return row(name, says, first=first, config=DPO, files=own | (files or {}))


ROWS = [
  row("steps of preferences", ("config.data.preferences", 'no feed offers "log_prob"'),
      "objective.name", "flow_grpo", config=DPO),
  row("more pairs than a row has", ("config.align.pairs=2", "config.data.preferences"),
      "align.pairs", 2, config=DPO),
  in_pairs("preferences of nothing", ("pairs.jsonl", "there is none")),
  in_pairs("preferences that are ties", ("pairs.jsonl", 'all 1 are a "tie"'),
           {"prompt": "a cross", "image_a": "good.png", "image_b": "other.png",
            "label": "tie"}),
  in_pairs("the better is the worse", ("line 1", "the same picture"),
           CROSS | {"rejected": "good.png"}),
  in_pairs("columns of nothing", ("line 1", '"image_a" is missing', "docs/preferences.md"),
           {"prompt": "a cross", "good": "good.png"}),
  in_pairs("the worse is gone", ("line 1", "gone.png: No such file"),
           CROSS | {"rejected": "gone.png"}),
  in_pairs("a prompt of other words", ("line 1", '"cros"', 'mean "cross"'),
           CROSS | {"prompt": "a cros"}),
  in_pairs("an order of no numbers", ("line 1", '"ranking" holds "x"'),
           {"prompt": "a cross", "generations": ["good.png", "other.png"],
            "ranking": [1, "x"]}),
  in_pairs("prompts that are held out", ("config.data.preferences", "all 1 rows are of prompts that are held out"),
           CROSS | {"prompt": _HELDOUT}),
  in_pairs("lists of less than nothing", ("config.data.list_size=-1", "3 or more; 0 takes pairs"),
           CROSS, **{"data.list_size": -1}),
  in_pairs("lists that are pairs", ("config.data.list_size=2", "3 or more; 0 takes pairs"),
           CROSS, **{"data.list_size": 2}),
  row("two files at once", ("config.data.preferences", "set one of them"),
      "data.preferences", "scenes"),
  row("drawing ahead of nothing", ("config.data.dataset", "align.overlap"),
      "align.overlap", True),
  row("a player of files", ("config.players.critic", "config.data.dataset"),
      "players.critic.fn", "critic"),
  row("one score composed", ("config.composition.name", "weighted_sum"),
      "composition.name", "gdpo"),
  row("likelihoods of a dataset", ("config.objective.name", "config.data.dataset",
      'no feed offers "log_prob"'),
      "objective.name", "flow_grpo"),
  row("advantages of a dataset", ("config.data.dataset", '"advantage"'),
      "objective.name", "diffusion_nft"),
  row("pairs of a dataset", ("config.data.dataset", '"v_chosen"'),
      "objective.name", "flow_dpo"),
  row("no weighting", ("config.objective.weighting", 'mean "cosmap"'),
      "objective.weighting", "cosmp"),
  row("no density", ("config.align.density", 'mean "logit_normal"'),
      "align.density.name", "logitnormal"),
  row("a density without width", ("config.align.density.std=0", "greater than 0"),
      "align.density.std", 0.0),
  row("a density that turns back", ("config.align.density.scale=2",),
      "align.density.scale", 2.0, first={"align.density.name": "mode"},
      config="align_scenes.py:smoke"),
  row("times that nothing draws", ("config.align.density.name", '"uniform"'),
      "align.density.name", "mode", config="align_scenes.py:flow_grpo,smoke"),
  row("more captions than there are", ("config.data.caption_drop=1.5",),
      "data.caption_drop", 1.5),
  row("users whom no policy reads", ("config.data.users.count=2", "config.model.user"),
      "data.users.count", 2, config=DPO),
  row("users of no pairs", ("config.data.users.count=2", "config.data.preferences"),
      "data.users.count", 2, config="align_scenes.py:smoke"),
  row("nobody planted", ("config.data.users.count=0", "2 or more"),
      "data.users.count", 0, config=PPD),
  row("cells without a pixel", ("config.data.users.encoder", "side=99", "36"),
      "data.users.encoder.side", 99, config=PPD),
  row("parameters there are not", ("config.align.trained", "blok", "no parameter"),
      "align.trained", "blok", config=DPO),
  row("no regex", ("config.align.trained", "("), "align.trained", "(", config=DPO),
  row("captions of nothing", ("config.data.caption_drop=0.1", "config.data.dataset"),
      "data.caption_drop", 0.1, config="align_scenes.py:smoke"),
  row("images of a dataset on a ground", ('config.data.reading.fit="pad"', '"crop"'),
      "data.reading.fit", "pad", first=ROWS_FILE,
      files={"good.png": odd.saved("PNG"),
             "rows.jsonl": json.dumps({"prompt": _TRAIN, "image": "good.png"})}),
  row("no such dataset", ("config.data.dataset=", "no such file"),
      "data.dataset", "{here}/none.jsonl"),
  row("an image for a dataset", ("a.png", "is a picture, not text"),
      "data.dataset", "{here}/a.png", files={"a.png": odd.saved("PNG")}),
  row("a folder of nothing", ("empty", "and no image"),
      "data.dataset", "{here}/empty", files={"empty": lambda p: p.mkdir()}),
  in_rows("a row without words", ("line 2", 'no "prompt"'), {"image": "good.png"}),
  in_rows("a word the scenes lack", ("line 2", '"circel"', 'mean "circle"'),
          {"prompt": "a red circel", "image": "good.png"}),
  in_rows("a row without an image", ("line 2", 'no "image"'),
          {"prompt": _TRAIN}),
  in_rows("an image that is gone", ("line 2", '"image"', "gone.png: No such file"),
          {"prompt": _TRAIN, "image": "gone.png"}),
  in_rows("an image that is none", ("line 2", "bad.png"),
          {"prompt": _TRAIN, "image": "bad.png"},
          files={"bad.png": "no image"}),
  in_rows("an image cut short", ("line 2", "cut.png"),
          {"prompt": _TRAIN, "image": "cut.png"},
          files={"cut.png": odd.saved("PNG")[:90]}),
  in_rows("a weight below nothing", ("line 2", '"weight" is -1', ">= 0"),
          {"prompt": _TRAIN, "image": "good.png", "weight": -1}),
  in_rows("two captions", ("line 2", '"prompt" and "text"', "keep one"),
          {"prompt": _TRAIN, "text": "a cross", "image": "good.png"}),
]  # fmt: skip
