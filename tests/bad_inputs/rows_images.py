"""Pictures that are no good, wherever a picture can stand."""

import json

import numpy as np

from jaxreward.tasks.scenes import grammar
from tests.bad_inputs.table import Row
from tests.data import odd_images as odd

EDIT = "align_public.py:qwen_image_edit,tiny"
PAIRS = "train_reward_scenes.py:smoke"
_IN_FILE = {"data.source": "{here}/train.jsonl", "data.grammar": "free"}
_TRAIN = grammar.prompts("train")[0].text
_HELDOUT = grammar.prompts("heldout")[0].text
_WHITE = np.full((40, 48, 3), 255, np.uint8)
GOOD = {
  "good.png": odd.saved("PNG"),
  "other.png": odd.saved("PNG", odd.PIXELS[::-1].copy()),
  "white.png": odd.saved("PNG", _WHITE),
}


def lines(*rows) -> str:
  return "".join(json.dumps(row) + "\n" for row in rows)


def in_prompts(name, said, *rows, job="sample", files=None, **overrides) -> Row:
  """A row of prompts that name pictures, read by a job."""
  own = {"train.jsonl": lines(*rows)} | GOOD | (files or {})
  fields = _IN_FILE | {"job": job} | overrides
  return Row(name, said, own, EDIT, fields)


def in_pairs(name, said, *rows, files=None, **overrides) -> Row:
  """A file of pairs for the job train_reward."""
  own = {"pairs.jsonl": lines(*rows)} | GOOD | (files or {})
  fields = {"train_reward.source": "{here}/pairs.jsonl", "init.checkpoint": ""}
  return Row(name, said, own, PAIRS, fields | overrides)


def in_references(name, said, *rows, files=None, **overrides) -> Row:
  """A folder of references for a reward that needs no weights."""
  own = {"kept/references.jsonl": lines(*rows)}
  own |= {f"kept/{k}": x for k, x in (GOOD | (files or {})).items()}
  fields = {"rewards.kept.fn": "background"}
  fields["rewards.kept.references"] = "{here}/kept"
  return Row(name, said, own, overrides=fields | overrides)


def prompt(**more) -> dict:
  return {"prompt": "make it blue", "image": "good.png"} | more


def pair(a="good.png", b="other.png", text=_TRAIN, label="a") -> dict:
  return dict(prompt=text, image_a=a, image_b=b, label=label)


HELD = pair("white.png", "third.png", _HELDOUT)
THIRD = {"third.png": odd.saved("PNG", odd.PIXELS[:, ::-1].copy())}


def reference(text=_TRAIN, **more) -> dict:
  return {"prompt": text, "image": "good.png", "mask": "white.png"} | more


def _in_prompt(kind: str) -> Row:
  make, said = odd.NO_GOOD[kind]
  return in_prompts(
    f"image: {kind}", ("train.jsonl, line 2", '"image"', said, " bad: "),
    prompt(), prompt(image="bad"), files={"bad": make()},
  )  # fmt: skip


def _in_pair(kind: str) -> Row:
  make, said = odd.NO_GOOD[kind]
  return in_pairs(
    f"pair: {kind}", ("pairs.jsonl, line 1", '"image_b"', said, " bad: "),
    pair(b="bad"), HELD, files={"bad": make()} | THIRD,
  )  # fmt: skip


def _in_reference(kind: str) -> Row:
  make, said = odd.NO_GOOD[kind]
  return in_references(
    f"reference: {kind}", ("references.jsonl", '"image"', said, " bad: "),
    reference(image="bad"), files={"bad": make()},
  )  # fmt: skip


_BOTH = {
  kind: odd.NO_GOOD[kind] for kind in ("empty", "PNG, cut", "JPEG, half")
}
# One reader reads all: every kind in one place, some in the others.
ROWS = [_in_prompt(kind) for kind in odd.NO_GOOD]
ROWS += [_in_pair(kind) for kind in [*odd.NO_GOOD][1::4]]
ROWS += [_in_reference(kind) for kind in [*odd.NO_GOOD][3::4]]
ROWS += [
  in_prompts(
    f"{field}: {kind}", (f'"{field}"', said, " bad: "),
    prompt(**{field: "bad"}), files={"bad": make()},
  )
  for field in ("target", "mask")
  for kind, (make, said) in _BOTH.items()
]  # fmt: skip
ROWS += [
  in_prompts(
    f"image in {job}", ('"image"', "damaged or cut short"),
    *[prompt(image="bad.png", prompt=f"blue {i}") for i in range(20)],
    files={"bad.png": odd.saved("PNG")[:900]}, job=job,
    **{"eval.checkpoint": ""},
  )
  for job in ("align", "evaluate")
]  # fmt: skip
ROWS += [
  in_prompts(
    "image by a URL", ("train.jsonl, line 1", '"image"', "fetched from https://"),
    prompt(image="https://example.com/a.png"),
  ),
  in_pairs(
    "first picture of a pair", ('"image_a"', "it is empty"),
    pair(a="bad"), HELD, files={"bad": b""} | THIRD,
  ),
  in_pairs(
    "picture of a held-out pair", ("pairs.jsonl, line 2", "damaged or cut short"),
    pair(), HELD, files={"third.png": odd.saved("PNG")[:900]},
  ),
  in_pairs(
    "pair in a later part of a pipeline", ("pairs.jsonl, line 1", "it is empty"),
    pair(a="bad"), HELD, files={"bad": b""} | THIRD,
    job="pipeline", jobs="pretrain,train_reward",
  ),
  in_references(
    "mask of a reference", ('"mask"', "it is empty"),
    reference(mask="bad"), files={"bad": b""},
  ),
  in_references(
    "one of several faces", ('"faces 1"', "it is empty"),
    reference(faces=["good.png", "bad"]), files={"bad": b""},
  ),
  in_references(
    "reference of an evaluation", (" bad: ", "it is empty"),
    reference(_HELDOUT, image="bad"), files={"bad": b""},
    job="evaluate", **{"eval.checkpoint": ""},
  ),
  in_references(
    "reference of a judge", (" bad: ", "it is empty"),
    reference(image="bad"), files={"bad": b""},
    **{
      "rewards.kept.fn": "judge_pairwise", "rewards.kept.pairs": "reference",
      "rewards.kept.url": "http://127.0.0.1:1", "rewards.kept.model": "m",
    },
  ),
]  # fmt: skip
