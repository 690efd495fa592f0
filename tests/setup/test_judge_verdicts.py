"""Training of judges by their verdicts: what is asked, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import tasks
from jaxreward.errors import UserError
from jaxreward.jobs import pretrain
from jaxreward.models.vlm import verdicts
from jaxreward.rewards import vision_language
from jaxreward.rewards.vision_language import PICTURE, Options
from jaxreward.setup import judge, judge_verdicts
from tests import tiny

SPEC = "pretrain_judge.py:smoke"
ON = {"verdicts.rule.name": "added"}


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"verdicts.rule.name": "adde"}, 'config.verdicts.rule.name="adde"'),
    ({"verdicts.rule.wait": 1}, "config.verdicts.rule.wait"),
    ({"verdicts.samples": 1}, "config.verdicts.samples=1: answers of a"),
    ({"verdicts.length": 3}, "config.verdicts.length=3: a thought and"),
    ({"verdicts.kl": -1.0}, "config.verdicts.kl=-1.0: expected"),
    ({"verdicts.credit": "all"}, 'config.verdicts.credit="all": it is one'),
    (
      {"verdicts.rule.name": "graded", "verdicts.rule.least": 0.0},
      "config.verdicts.rule.least=0.0: it is",
    ),
    (
      {"verdicts.rule.name": "listened", "verdicts.rule.weight": -1.0},
      "config.verdicts.rule.weight=-1.0: expected",
    ),
  ],
)
def test_refused(given, message):
  with pytest.raises(UserError) as error:
    pretrain.check(tiny.load(SPEC, ON, given))
  assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", ["scenes", "portraits"])
def test_questions_end_where_the_thought_begins(name):
  config = tiny.load(SPEC, ON)
  task, reader = judge.tasks_of(config)[name], judge.make_reader(config)[0]
  generator = np.random.default_rng(0)
  source = task.questions.Questions("train")
  look, rows = judge_verdicts.draw(name, source, generator, 6)
  assert {row.kind for row in rows} == {"thought"} and len(rows) == 6
  first = next(iter(vars(look).values()))
  assert len(first) == 6
  given = judge_verdicts.questions_of(
    reader, rows, *task.questions.ROOM["long"]
  )
  words = {reader.tokens.ids[x]: x for x in ("yes", "no")}
  for i, row in enumerate(rows):
    asked = row.question.replace("{image}", PICTURE)
    whole = reader.asked([asked], "<think>")
    ids = [
      *np.asarray(given.stem)[i][given.stem_mask[i]],
      *np.asarray(given.texts)[i, 0][given.texts_mask[i, 0]],
    ]
    assert ids == whole["text"][whole["mask"]].tolist()
    thought, _, verdict = row.answer.partition("</think>")
    assert verdict == words[int(given.truth[i])]
    exact = np.asarray(given.exact)[i][given.exact_mask[i]].tolist()
    assert exact == reader.tokens(thought)["input_ids"]


@pytest.mark.parametrize("name", ["scenes", "portraits"])
def test_few_questions_are_drawn_until_enough_want_a_thought(name):
  source = tasks.TASKS[name].questions.Questions("train")
  for seed in range(8):  # a third of such batches has no thought
    generator = np.random.default_rng(seed)
    _, rows = judge_verdicts.draw(name, source, generator, 2)
    assert [row.kind for row in rows] == ["thought"] * 2


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_step_makes_answers_that_earn_more_likely(monkeypatch):
  """What earns here is a first token of an even number."""
  config = tiny.load(SPEC, ON, {"judge.tasks": ("scenes",), "verdicts.kl": 0.0})
  of, (reader, _) = judge.tasks_of(config), judge.make_reader(config)
  params = judge.init(config, reader)

  def earns(answers, truth, **options):
    is_even = answers.tokens[..., 0] % 2 == 0
    zeros = jnp.zeros(is_even.shape)
    return verdicts.Verdicts(is_even, is_even, zeros, zeros)

  monkeypatch.setattr(verdicts, "read", earns)
  loss = judge_verdicts.loss(config, reader, of, verdicts.gated)
  micro = judge_verdicts.batches(config, reader, "train")(0)

  def even(params):
    rows = micro["scenes"]
    images = judge.images_of(of["scenes"], config.seed, "verdicts/scenes", rows)
    prefix = judge_verdicts.read(reader, params, images, rows["rows"])
    return jax.nn.softmax(prefix.logits)[:, ::2].sum(-1).mean()

  @jax.jit
  def step(params):
    def value(x):
      total, means = loss(x, micro, (jnp.int32(0), params))
      return total.value(), means

    (_, means), slope = jax.value_and_grad(value, has_aux=True)(params)
    moved = jax.tree.map(lambda x, g: x - 0.1 * g, params, slope)
    return even(params), even(moved), means["reward/scenes"].value()

  before, after, reward = map(float, step(params))
  assert 0.1 < reward < 0.9 and abs(reward - before) < 0.3
  assert after > before + 1e-3


@pytest.mark.job
@pytest.mark.turns(2)
@pytest.mark.parametrize("credit", ["reward", "group"])
def test_rejection_learns_right_answers_and_groups_what_differs(
  credit, monkeypatch
):
  """Nothing is learned where none is right, nor in a group where all are alike."""
  config = tiny.load(
    SPEC, ON,
    {"judge.tasks": ("scenes",), "verdicts.kl": 0.0, "verdicts.credit": credit},
  )  # fmt: skip
  of, (reader, _) = judge.tasks_of(config), judge.make_reader(config)
  params = judge.init(config, reader)
  share = []  # the one that the program is given

  def alike(answers, truth, **options):
    right = jnp.broadcast_to(share[-1] > 0, answers.tokens.shape[:-1])
    zeros = jnp.zeros(right.shape)
    return verdicts.Verdicts(right, right, zeros, zeros)

  monkeypatch.setattr(verdicts, "read", alike)
  loss = judge_verdicts.loss(config, reader, of, verdicts.gated)
  micro = judge_verdicts.batches(config, reader, "train")(0)

  @jax.jit
  def largest(right):
    share.append(right)
    slope = jax.grad(
      lambda x: loss(x, micro, (jnp.int32(0), params))[0].value()
    )
    leaves = jax.tree.leaves(slope(params))
    return jnp.stack([jnp.abs(x).max() for x in leaves]).max()

  none, all_right = float(largest(0.0)), float(largest(1.0))
  assert none < 1e-6
  assert (all_right > 1e-3) if credit == "reward" else (all_right < 1e-6)


@pytest.mark.job
@pytest.mark.turns(3)
def test_stages_go_on_from_the_judge_before(tmp_path, monkeypatch):
  """Answers, then rejection sampling, then GRPO: each begins where one has ended."""
  tiny.use_one_device(monkeypatch)
  stages = {
    "answers": {},
    "right": {"verdicts.rule.name": "gated", "verdicts.credit": "reward"},
    "compared": {"verdicts.rule.name": "added"},
  }
  few = {"judge.tasks": ("scenes",), "pretrain.steps": 1, "eval.every": 0}
  few |= {
    "eval.samples": 8,
    "eval.quick_samples": 8,
    "optimizer.warmup_steps": 0,
  }
  before = ""
  for name, fields in stages.items():
    config = tiny.load(SPEC, few, fields, {"judge.weights": before})
    workdir = tiny.run(config, tmp_path / name)
    if before:
      start = judge.make_reader(config)[1]
      held = vision_language.load(Options(before))[1]
      jax.tree.map(np.testing.assert_array_equal, start, held)
      end = vision_language.load(Options(str(workdir / "judge")))[1]
      moved = jax.tree.map(lambda a, b: bool((a != b).any()), start, end)
      assert any(jax.tree.leaves(moved))
    before = str(workdir / "judge")
