"""Pictures and files of data that do not go together, or are not there."""

import os

import numpy as np

from tests.bad_inputs.rows_images import (
  _HELDOUT,
  HELD,
  THIRD,
  in_pairs,
  in_prompts,
  in_references,
  lines,
  pair,
  prompt,
  reference,
)
from tests.bad_inputs.table import Row
from tests.data import odd_images as odd

_TALL = odd.saved("PNG", 255 - odd.PIXELS.swapaxes(0, 1))
_BLACK = odd.saved("PNG", np.zeros((40, 48, 3), np.uint8))
_GREY = odd.saved("PNG", np.full((40, 48, 3), 127, np.uint8))
_LIKE = "another shape"
JUDGE = {
  "rewards.kept.fn": "judge_checklist",
  "rewards.kept.url": "http://127.0.0.1:1",
  "rewards.kept.model": "m",
}


def _folder(path):
  path.mkdir()


ROWS = [
  in_prompts(
    "mask without white", ("line 1", '"mask"', "no white pixel"),
    prompt(mask="black.png"), files={"black.png": _BLACK},
  ),
  in_prompts(
    "mask of dark grey", ('"mask"', "no white pixel"),
    prompt(mask="grey.png"), files={"grey.png": _GREY},
  ),
  in_prompts(
    "target of another shape", ("line 2", '"target" has 40 x 48', _LIKE),
    prompt(), prompt(prompt="b", target="tall.png"), files={"tall.png": _TALL},
  ),
  in_prompts(
    "mask of another shape", ('"mask" has 40 x 48', _LIKE),
    prompt(mask="tall.png"), files={"tall.png": _TALL},
  ),
  in_prompts(
    "target turned by its camera", ('"target" has 40 x 48', _LIKE),
    prompt(target="turned.jpg"),
    files={"turned.jpg": odd.saved("JPEG", exif=odd.exif_of(6))},
  ),
  in_prompts(
    "no such picture", ('"image"', "gone.png: No such file"),
    prompt(image="gone.png"),
  ),
  in_prompts(
    "no such mask", ('"mask"', "gone.png: No such file"),
    prompt(mask="gone.png"),
  ),
  in_prompts(
    "a folder for a picture", ('"image"', "folder: it is no file"),
    prompt(image="folder"), files={"folder": _folder},
  ),
  in_prompts(
    "a pipe for a picture", ('"image"', "pipe: it is no file"),
    prompt(image="pipe"), files={"pipe": os.mkfifo},
  ),
  in_prompts("a device", ("/dev/zero: it is no file",),
             prompt(image="/dev/zero")),
  in_prompts("a name without end", ("File name too long",),
             prompt(image="a" * 400)),
  in_prompts("a name with a null", ('"image"', "NUL"),
             prompt(image="a\0.png")),
  in_pairs(
    "one file on both sides", ("pairs.jsonl, line 1", "are the same picture", "tie"),
    pair(b="good.png"), HELD, files=THIRD,
  ),
  in_pairs(
    "equal pixels on both sides", ("pairs.jsonl, line 1", "are the same picture"),
    pair(b="again.webp"), HELD,
    files={"again.webp": odd.saved("WEBP", lossless=True)} | THIRD,
  ),
  in_pairs(
    "equal pictures in a held-out pair", ("pairs.jsonl, line 2", "the same picture"),
    pair(), pair("white.png", "white.png", _HELDOUT),
  ),
  in_pairs(
    "nothing but ties", ("all 2 training rows are a \"tie\"",),
    pair(label="tie"), pair(label=0.5), HELD, files=THIRD,
  ),
  in_pairs(
    "no such picture of a pair", ('"image_a"', "gone.png: No such file"),
    pair(a="gone.png"), HELD, files=THIRD,
  ),
  in_pairs("no held-out pair", ("none of its rows is on the held-out side",),
           pair()),
  in_references(
    "references of other prompts", ("config.rewards.kept", "no entry for the prompt",
                                    'nor for any other'),
    reference("a green dragon"),
  ),
  in_references("a number for a picture", ("image is 3, not the name",),
                reference(image=3)),
  in_references("numbers for faces", ("faces is 1, not the name",),
                reference(faces=[1, 2])),
  in_references("nothing for a mask", ("mask is None, not the name",),
                reference(mask=None)),
  in_references("mask of a reference without white", ("no white pixel",),
                reference(mask="black.png"), files={"black.png": _BLACK}),
  in_references("mask of a reference of another shape", (_LIKE,),
                reference(mask="tall.png"),
                files={"tall.png": odd.saved("PNG", np.full((48, 40, 3), 255, np.uint8))}),
  in_references("no such reference", ("gone.png: No such file",),
                reference(image="gone.png")),
  Row(
    "no folder of references", ("config.rewards.kept", "no such file or folder"),
    overrides={"rewards.kept.fn": "background",
               "rewards.kept.references": "{here}/gone"},
  ),
  Row(
    "no facts", ("config.rewards.kept", "gone.jsonl: there is no such file"),
    overrides={"rewards.kept.fn": "objects", "rewards.kept.weights": "o/x",
               "rewards.kept.facts": "{here}/gone.jsonl"},
  ),
  Row(
    "no questions", ("config.rewards.kept", "gone.jsonl"),
    overrides=JUDGE | {"rewards.kept.questions": "{here}/gone.jsonl"},
  ),
  Row(
    "questions of nothing", ("config.rewards.kept", 'no line has "questions"'),
    {"q.jsonl": lines({"prompt": "x"})},
    overrides=JUDGE | {"rewards.kept.questions": "{here}/q.jsonl"},
  ),
  Row(
    "no weights to start from", ("config.init.checkpoint=", "no such file"),
    overrides={"init.checkpoint": "{here}/gone.safetensors"},
  ),
  in_prompts(
    "no autoencoder", ("config.autoencoder.weights", "no such file"),
    prompt(), **{"autoencoder.weights": "{here}/gone"},
  ),
  in_prompts(
    "no weights to evaluate", ("config.eval.checkpoint", "no such file"),
    prompt(), job="evaluate", **{"eval.checkpoint": "{here}/gone"},
  ),
  Row(
    "no weights of a reward", ("config.rewards.kept.weights", "no such file"),
    overrides={"rewards.kept.fn": "clip_score",
               "rewards.kept.weights": "{here}/gone"},
  ),
  Row(
    "no pictures for a policy that takes them",
    ('config.data.source="scenes"', "takes a picture"),
    config="pretrain_edits.py:smoke",
    overrides={"data.source": "scenes", "data.grammar": "scenes"},
  ),
  Row(
    "no trained reward model", ("config.rewards.kept", "no reward model at"),
    overrides={"rewards.kept.fn": "learned"},
  ),
]  # fmt: skip
