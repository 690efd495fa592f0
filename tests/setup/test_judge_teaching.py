"""A judge that is trained here: what is taught, written and read again."""

import functools

import jax
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.jobs import pretrain
from jaxreward.models.vlm import small_judge
from jaxreward.rewards import vision_language
from jaxreward.rewards.vision_language import PICTURE, Options
from jaxreward.setup import judge
from jaxreward.tasks import judge_questions
from tests import tiny

SPEC = "pretrain_judge.py:smoke"


@pytest.fixture(scope="module")
def parts():
  config = tiny.load(SPEC)
  return config, judge.tasks_of(config), judge.make_reader(config)[0]


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_folder_holds_the_judge_and_is_read_again(parts, tmp_path):
  config, _, reader = parts
  params = judge.init(config, reader)
  judge.save(tmp_path, reader, params, "float32")
  read, again = vision_language.load(Options(str(tmp_path)))
  assert read.model == reader.model
  assert read.tokens == reader.tokens
  assert read.processor == reader.processor
  for side, size in ((36, 36), (48, 48), (72, 48), (24, 36)):
    assert read.size(np.zeros((1, side, side, 3))) == (size, size)
  jax.tree.map(np.testing.assert_array_equal, params, again)


@pytest.mark.turns(2)
@pytest.mark.parametrize("name", ["scenes", "portraits"])
def test_what_is_taught_is_what_a_judge_is_asked(parts, name):
  """The question's tokens are those of `Reader.asked`, the answer's follow."""
  config, of, reader = parts
  drawn = of[name].questions.Questions("train")
  batch = drawn(np.random.default_rng(0), 8, config.judge.short)
  arrays = judge.batch_of(reader, of[name], batch)["groups"]
  unknown = reader.tokens.unk_token_id
  for group, questions in batch.groups.items():
    rows = arrays[group]
    for i, row in enumerate(questions):
      for j, one in enumerate(row):
        question = one.question.replace("{image}", PICTURE)
        given = reader.asked([question], one.begun)
        (ids,) = given["text"][given["mask"]][None]
        said = np.asarray(rows.said)[i, j]
        end = int(np.flatnonzero(said)[-1]) + 1
        stem = rows.stem[i][rows.stem_mask[i]]
        taught = [*stem, *rows.texts[i, j][: end - said.sum()]]
        assert taught == ids.tolist()
        answer = reader.tokens(one.answer)["input_ids"]
        assert rows.texts[i, j][said][:-1].tolist() == answer
        assert unknown not in [*taught, *answer]


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"judge.short": 1}, "config.judge.short=1: each image"),
    ({"judge.patch": 5}, "config.judge.patch=5: twice of it divides the 36"),
    ({"judge.heads": 3}, "config.judge: width=32, heads=3"),
    ({"judge.vision_heads": 0}, "config.judge.vision_heads=0"),
    ({"judge.weights": "org/name"}, "config.judge.weights=org/name: training"),
    ({"judge.tasks": ("portrait",)}, 'config.judge.tasks: "portrait" has no'),
    ({"judge.empty": 1.5}, "config.judge.empty=1.5: it is a share"),
    ({"judge.tasks": ()}, "config.judge.tasks=(): name one or more"),
    ({"judge.images.scenes": 0.1}, "config.judge.images.scenes=0.1: of"),
    (
      {"judge.images.scenes": float("nan")},
      "config.judge.images.scenes=nan: expected",
    ),
    ({"judge.kinds.done": -1.0}, "config.judge.kinds.done=-1.0: expected"),
    ({"judge.vision_width": 36}, "config.judge.vision_width=36"),
    ({"pretrain.batch_size": 7}, "config.pretrain.batch_size=7: images"),
  ],
)
def test_refused(given, message):
  with pytest.raises(UserError) as error:
    pretrain.check(tiny.load(SPEC, given))
  assert str(error.value).startswith(message)


def test_a_judge_that_does_not_ship_is_named():
  with pytest.raises(UserError, match="weights=package:no: no such judge"):
    small_judge.resolve("package:no")
  assert small_judge.resolve("org/name") == "org/name"


def test_a_step_has_its_questions_after_a_restart_and_no_other_one_has_them(
  parts,
):
  config, _, reader = parts
  first, again = (judge.batches(config, reader, "train") for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, first(3), again(3))
  seeds = [first(n)["scenes"]["seed"].tolist() for n in (3, 4)]
  assert len({*seeds[0], *seeds[1]}) == len(seeds[0]) + len(seeds[1])
  colours = [first(n)["scenes"]["look"].colour for n in (3, 4)]
  assert (colours[0] != colours[1]).any()


@pytest.mark.turns(2)
@pytest.mark.parametrize("name", ["scenes", "portraits"])
def test_an_image_is_that_of_its_row_whatever_stands_beside_it(parts, name):
  config, of, reader = parts
  rows = judge.batches(config, reader, "train")(0)[name]
  rows = {k: rows[k] for k in ("look", "seed")}
  draw = jax.jit(functools.partial(judge.images_of, of[name], 0, "test"))
  whole = np.asarray(draw(rows))
  half = draw(jax.tree.map(lambda x: x[2:6], rows))
  np.testing.assert_allclose(half, whole[2:6], atol=1e-6)
  assert np.abs(whole[2:6] - whole[:4]).max() > 0.1


@pytest.mark.job
def test_how_a_judge_is_led_astray_is_counted(parts, tmp_path):
  config, of, reader = parts
  judge.save(tmp_path, reader, judge.init(config, reader), "float32")
  task, seed = of["scenes"], config.eval.seed
  told = judge.fooled(str(tmp_path), task, "heldout", 2, seed)
  assert told["n"] == 2 and set(told["keys"]) == set(judge.KEYS)
  rates = [x["yes"] for x in told["keys"].values()]
  for share in (*told["yes"].values(), *rates):
    assert share in (0, 0.5, 1)
  assert -1 <= told["length"] <= 1
  with pytest.raises(UserError, match=r"config\.eval\.samples: 0"):
    judge.fooled(str(tmp_path), task, "heldout", 0, seed)


def test_a_key_opens_as_often_as_a_judge_says_yes():
  """To one that says yes always, always; to one that ignores the image, its rate."""
  texts = np.arange(40)
  always = judge.key_rates(lambda begun: np.ones(40))
  assert all(rate["yes"] == 1 for rate in always.values())
  blind = judge.key_rates(lambda begun: np.where(texts % 4, 0.1, 0.9))
  for rate in blind.values():
    assert rate["yes"] == 0.25 and rate["n"] == 40
    assert 0.14 < rate["low"] < 0.25 < rate["high"] < 0.41
  deaf = judge.key_rates(lambda begun: np.full(40, float("?" in begun)))
  assert [rate["yes"] for rate in deaf.values()] == [0, 0, 1]


@pytest.mark.parametrize("name", ["scenes", "portraits"])
def test_thoughts_that_say_nothing_are_answered_by_no(parts, name):
  config, of, reader = parts
  source = of[name].questions.Questions("train")
  batch = source(np.random.default_rng(0), 32)
  assert judge.with_empty(batch, 0.0, np.random.default_rng(1)) is batch
  changed = judge.with_empty(batch, 1.0, np.random.default_rng(1))
  kinds = {**config.judge.kinds, judge_questions.EMPTY: 2.0}
  arrays = judge.batch_of(reader, of[name], changed, kinds)["groups"]
  said = reader.tokens("no<|im_end|>")["input_ids"]
  count = 0
  for group, rows in changed.groups.items():
    for i, (row, before) in enumerate(
      zip(rows, batch.groups[group], strict=True)
    ):
      for j, (one, old) in enumerate(zip(row, before, strict=True)):
        if old.kind != "thought":
          assert one == old
          continue
        count += 1
        assert (one.kind, one.answer) == (judge_questions.EMPTY, "no")
        assert one.begun not in judge.KEYS.values()
        ids = arrays[group].texts[i, j][np.asarray(arrays[group].said)[i, j]]
        assert ids.tolist() == said
        assert arrays[group].weight[i, j] == 2
  assert count > 8
