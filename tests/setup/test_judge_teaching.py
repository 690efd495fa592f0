"""A judge that is trained here: what is taught, written and read again."""

import jax
import numpy as np
import pytest

from jaxreward import setup
from jaxreward.errors import UserError
from jaxreward.jobs import pretrain
from jaxreward.models.vlm import own
from jaxreward.rewards import vision_language
from jaxreward.rewards.vision_language import PICTURE, Options
from jaxreward.setup import judge
from tests import tiny

SPEC = "pretrain_judge.py:smoke"


@pytest.fixture(scope="module")
def parts():
  config = tiny.load(SPEC)
  task = setup.make_task(config)
  return config, task, judge.make_reader(config, task)[0]


def test_a_folder_holds_the_judge_and_is_read_again(parts, tmp_path):
  config, _, reader = parts
  params = judge.init(config, reader)
  judge.save(tmp_path, reader, params, "float32")
  read, again = vision_language.load(Options(str(tmp_path)))
  assert read.model == reader.model
  assert read.tokens == reader.tokens
  assert read.processor == reader.processor
  assert read.size(np.zeros((1, 72, 72, 3))) == (36, 36)
  jax.tree.map(np.testing.assert_array_equal, params, again)


def test_what_is_taught_is_what_a_judge_is_asked(parts):
  """The question's tokens are those of `Reader.asked`, the answer's follow."""
  config, task, reader = parts
  drawn = task.questions.Questions(setup.load_prompts(config, "train"))
  batch = drawn(np.random.default_rng(0), 8)
  arrays = judge.batch_of(reader, batch)
  unknown = reader.tokens.unk_token_id
  count = 0
  for name in judge.GROUPS:
    rows = arrays[name]
    for i, asked in enumerate(getattr(batch, name)):
      for j, one in enumerate(asked):
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
        count += 1
  assert count == 8 * (config.judge.short + 1) + 8


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"judge.short": 1}, "config.judge.short=1: each image"),
    ({"judge.patch": 5}, "config.judge.patch=5: twice of it divides the 36"),
    ({"judge.heads": 3}, "config.judge: width=32, heads=3"),
    ({"judge.vision_heads": 0}, "config.judge.vision_heads=0"),
    ({"judge.weights": "org/name"}, "config.judge.weights=org/name: training"),
    ({"judge.vision_width": 36}, "config.judge.vision_width=36"),
    ({"pretrain.batch_size": 7}, "config.pretrain.batch_size=7: scenes"),
  ],
)
def test_refused(given, message):
  with pytest.raises(UserError) as error:
    pretrain.check(tiny.load(SPEC, given))
  assert str(error.value).startswith(message)


def test_a_judge_that_does_not_ship_is_named():
  with pytest.raises(UserError, match="weights=package:no: no such judge"):
    own.resolve("package:no")
  assert own.resolve("org/name") == "org/name"


def test_a_step_has_its_questions_after_a_restart_and_no_other_one_has_them(
  parts,
):
  config, task, reader = parts
  source = task.questions.Questions(setup.load_prompts(config, "train"))
  first, again = (judge.batches(config, reader, source) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, first(3), again(3))
  assert (first(3)["look"].colour != first(4)["look"].colour).any()


@pytest.mark.job
def test_how_a_judge_is_led_astray_is_counted(parts, tmp_path):
  config, task, reader = parts
  judge.save(tmp_path, reader, judge.init(config, reader), "float32")
  source = task.questions.Questions(setup.load_prompts(config, "heldout"))
  told = judge.fooled(str(tmp_path), task, source, 2, config.eval.seed)
  assert told["n"] == 2 and set(told["keys"]) == set(judge.KEYS)
  for share in (*told["yes"].values(), *told["keys"].values()):
    assert share in (0, 0.5, 1)
  assert -1 <= told["length"] <= 1
  with pytest.raises(UserError, match=r"config\.eval\.samples: 0"):
    judge.fooled(str(tmp_path), task, source, 0, config.eval.seed)
