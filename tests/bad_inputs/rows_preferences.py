"""Files of preferences for a reward model, and what the config says of them."""

from tests.bad_inputs.rows_images import (
  _HELDOUT,
  _TRAIN,
  GOOD,
  PAIRS,
  THIRD,
  in_pairs,
  lines,
)
from tests.bad_inputs.table import Row

_PAIR = {"prompt": _TRAIN, "image_a": "good.png", "image_b": "other.png"}
_HELD = {"prompt": _HELDOUT, "image_a": "third.png", "image_b": "white.png",
         "label": "a", "user": "new"}  # fmt: skip
_LIST = {"prompt": _TRAIN, "images": ["good.png", "other.png"]}
_HEAD_OF_USERS = {"reward_model__head__name": "ideal_point"}
_READING, _LAYOUT = "data.reading", "data.layout"


def read(name, says, *rows, **options) -> Row:
  """Rows read without a job."""

  def call(here):
    from jaxreward.data import preference_files

    list(preference_files.read_rows(here / "rows.jsonl", **options))

  return Row(name, says, {"rows.jsonl": lines(*rows)} | GOOD, call=call)


def trained(name, says, *rows, **overrides) -> Row:
  """Rows for train_reward, beside a held-out one."""
  overrides = {key.replace("__", "."): x for key, x in overrides.items()}
  return in_pairs(name, says, *rows, _HELD, files=THIRD, **overrides)


def field(name, says, key, value) -> Row:
  return Row(
    name, says, {"pairs.jsonl": lines(_PAIR | {"label": "a"}, _HELD)} | GOOD | THIRD,
    PAIRS,
    {"train_reward.source": "{here}/pairs.jsonl", "init.checkpoint": "",
     key: value},
  )  # fmt: skip


ROWS = [
  read("a label of another scheme", ("line 2", '"label" is "left"', '"tie"'),
       _PAIR | {"label": "a"}, _PAIR | {"label": "left"}),
  read("aspects without a rating", ("line 1", '"text" is []'),
       _PAIR | {"label": "a", "aspects": {"text": []}}),
  read("no aspect at all", ("line 1", '"aspects" is {}', "per aspect"),
       _PAIR | {"label": "a", "aspects": {}}),
  read("fewer ranks than images", ("line 1", '"images" has 2', '"ranks" 3'),
       _LIST | {"ranks": [1, 2, 3]}),
  read("a list of one", ("line 1", "a list of 2 or more"),
       _LIST | {"images": ["good.png"], "ranks": [1]}),
  read("an order of three", ("line 1", '"A>B>C"', "an order of 2 images"),
       _LIST | {"order": "A>B>C"}),
  read("ratings beyond the scale", ("line 1", "holds 5", "outside 0 to 1",
       "config.data.layout.scale"), _LIST | {"ratings": [1, 5]}),
  read("more malformed rows than allowed", ("1 of 2 rows", "reading.skip=0.4",
       "line 2"), _PAIR | {"label": "a"}, _PAIR | {"label": "c"}, skip=0.4),
  read("a column that the file lacks", ("columns.label=\"lable\"",
       'mean "label"'), _PAIR | {"label": "a"}, layout="columns",
       columns={"prompt": "prompt", "images": ("image_a", "image_b"),
                "label": "lable"}),
  field("no such layout", (f"config.{_LAYOUT}.name", 'mean "pick_a_pic"'),
        f"{_LAYOUT}.name", "pickapic"),
  field("no map of columns", (f"config.{_LAYOUT}.columns is empty",),
        f"{_LAYOUT}.name", "columns"),
  field("no such field of a map", (f"config.{_LAYOUT}.columns.promt",
        'mean "prompt"'), f"{_LAYOUT}.columns.promt", "prompt"),
  field("a scale that ends before it starts", (f"config.{_LAYOUT}.scale",
        "the smaller first"), f"{_LAYOUT}.scale", "(5, 1)"),
  field("more than every row", (f"config.{_READING}.skip=1", "[0, 1)"),
        f"{_READING}.skip", 1.0),
  field("no such fit", (f"config.{_READING}.fit", 'mean "crop"'),
        f"{_READING}.fit", "corp"),
  field("no folder of images", (f"config.{_READING}.images", "no such file"),
        f"{_READING}.images", "{here}/none"),
  field("no held-out file", ("config.train_reward.heldout", "no such file"),
        "train_reward.heldout", "{here}/none.jsonl"),
  field("new users that show nothing", ("config.train_reward.users.shown=0",
        "1 row or more"), "train_reward.users.shown", 0),
  trained("ties alone", ("pairs.jsonl", 'all 1 training rows are a "tie"'),
          _PAIR | {"label": "tie"}),
  trained("ratings that nobody gave", ("config.train_reward.loss.name",
          "reads ratings", "holds answers to pairs"), _PAIR | {"label": "a"},
          train_reward__loss__name="pairwise", train_reward__label_noise=0.0),
  trained("a source that no row has", ("config.reward_model.context",
          "no row of", "source image"), _PAIR | {"label": "a"},
          reward_model__context=True),
  trained("users that no row names", ('reward_model.head.name="ideal_point"',
          "no row of", "names one"), _PAIR | {"label": "a"},
          **_HEAD_OF_USERS),
  trained("more users than the head's table", ("reward_model.head.users=1",
          "have 2 users"), _PAIR | {"label": "a", "user": "one"},
          _PAIR | {"label": "a", "user": "two"},
          **_HEAD_OF_USERS, reward_model__head__users=1),
  trained("ties that are good alone", ("all training rows of", "are ties"),
          _PAIR | {"label": "both_good"}),
  read("fewer generators than images", ("line 1", 'it has 2 images and "models" 1'),
       _LIST | {"ranks": [1, 2], "models": ["x"]}),
  trained("users that training never sees", ("no user of the held-out rows",
          "is in the training rows"), _PAIR | {"label": "a", "user": "one"},
          **_HEAD_OF_USERS),
  in_pairs("held-out users never seen", ("no user of",
           "config.train_reward.heldout", "is in"),
           _PAIR | {"label": "a", "user": "one"},
           files=THIRD | {"held.jsonl": lines(_HELD)},
           **{"train_reward.heldout": "{here}/held.jsonl",
              "reward_model.head.name": "ideal_point"}),
  trained("the same image twice", ("line 1", "the same picture"),
          _PAIR | {"image_b": "good.png", "label": "a"}),
]  # fmt: skip
