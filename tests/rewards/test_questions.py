"""Checklists: what rests on what, and the files of public benchmarks."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.rewards.remote import questions
from jaxreward.rewards.remote.question_files import YES_NO, Question

# 1 <- 0, 3 <- 1 and 2, 4 <- 3
PARENTS = [(), (0,), (), (1, 2), (3,)]
LIST = [Question("?", parents=p) for p in PARENTS]


def by_hand(values, weights, aggregate, gate):
  """Davidsonian scene graphs, question by question."""
  above = [set() for _ in PARENTS]
  for i, parents in enumerate(PARENTS):
    for p in parents:
      above[i] |= {p} | above[p]
  worth = []
  for i, value in enumerate(values):
    for p in above[i]:
      hard = 1.0 if values[p] >= 0.5 else 0.0
      value *= {"hard": hard, "soft": values[p], "off": 1.0}[gate]
    worth.append(value)
  share = np.array(weights) / np.sum(weights)
  if aggregate == "mean":
    return share @ worth
  return np.prod(np.maximum(worth, 1e-6) ** share)


@pytest.mark.parametrize("gate", questions.GATES)
@pytest.mark.parametrize("aggregate", questions.AGGREGATES)
def test_what_rests_on_a_failed_question_counts_as_by_hand(aggregate, gate):
  rng = np.random.default_rng(0)
  values, weights = rng.random((20, 5)), rng.random(5) + 0.1
  above = questions.ancestors(LIST)
  options = dict(aggregate=aggregate, gate=gate)
  got = questions.graded(values, weights, above, **options)
  want = [by_hand(row, weights, aggregate, gate) for row in values]
  np.testing.assert_allclose(got, want, rtol=1e-12)
  jitted = questions.graded(
    jnp.asarray(values), jnp.asarray(weights), jnp.asarray(above),
    xp=jnp, **options,
  )  # fmt: skip
  np.testing.assert_allclose(jitted, want, rtol=1e-5)


def test_padding_does_not_count():
  above = np.zeros((3, 3), bool)
  above[:2, :2] = questions.ancestors(LIST[:2])
  got = questions.graded(
    np.array([0.9, 0.4, 0.7]), np.array([1.0, 3.0, 0.0]), above
  )
  assert got == pytest.approx(0.9 / 4 + 0.4 * 3 / 4)


@pytest.mark.parametrize(
  "parents, says", [([(1,), (0,)], "rests on itself"), ([(4,)], "parent 5")]
)
def test_parents_that_cannot_be_are_refused(parents, says):
  with pytest.raises(UserError, match=says):
    questions.ancestors([Question("a?", parents=p) for p in parents], "q")


def read(tmp_path, name, text):
  path = tmp_path / name
  path.parent.mkdir(exist_ok=True)
  path.write_text(text)
  return questions.read_questions(str(path))


def test_dpg_bench(tmp_path):
  columns = "item_id,text,proposition_id,dependency,question_natural_language"
  lines = [
    columns, "1,two cats,1,0,Are there cats?", "1,two cats,2,1,Two of them?",
    '1,two cats,3,"1,2",Side by side?', "2,a dog,1,0,Is there a dog?",
  ]  # fmt: skip
  got = read(tmp_path, "dpg.csv", "\n".join(lines))
  assert [q.parents for q in got["two cats"]] == [(), (0,), (0, 1)]
  assert got["a dog"] == (Question("Is there a dog?"),)


def test_geneval_2(tmp_path):
  pairs = [["How many cats?", "two"], ["Are they red?", "Yes"]]
  line = json.dumps({"prompt": "two red cats", "vqa_list": pairs})
  (many, red) = read(tmp_path, "g.jsonl", line)["two red cats"]
  assert dict(many.answers) == {str(i): float(i == 2) for i in range(11)}
  assert red.answers == YES_NO
  with pytest.raises(
    UserError, match=r"g\.jsonl, line 1: .* a number up to ten"
  ):
    read(tmp_path, "g.jsonl", line.replace('two"]', 'many"]'))
  with pytest.raises(UserError, match=r"line 2: .* holds None"):
    lacks = json.dumps({"prompt": "a cat"})
    read(tmp_path, "g.jsonl", f"{line}\n{lacks}")


def test_unigenbench_and_wise(tmp_path):
  record = {"Testpoints": ["Style"], "Testpoint Description": ["ink"]}
  said = json.dumps(record).replace('"', '""')
  text = f'index,prompt_en,sub_dims_en\n0,a cat,"{said}"\n'
  (one,) = read(tmp_path, "uni.csv", text)["a cat"]
  assert '"ink"' in one.text and "Style" in one.text
  rows = [{"Prompt": "a leaf in autumn", "Explanation": "It is yellow."}]
  got = read(tmp_path, "wise.json", json.dumps(rows))["a leaf in autumn"]
  assert [q.weight for q in got] == [0.7, 0.2, 0.1]
  assert dict(got[0].answers) == {"0": 0.0, "1": 0.5, "2": 1.0}
  assert "It is yellow. 0" in got[0].text


def test_one_ig(tmp_path):
  listed = {"1": "A boy?", "2": "Two?"}, {"1": [0], "2": [1, 2]}
  entry = dict(
    zip(("question", "dependency"), map(json.dumps, listed), strict=True)
  )
  folder = tmp_path / "one"
  (folder / "Q_D").mkdir(parents=True)
  (folder / "Q_D" / "human.json").write_text(json.dumps({"007": entry}))
  (folder / "OneIG-Bench.csv").write_text(
    "category,id,prompt_en\nPortrait,007,two boys\n"
  )
  (first, second) = questions.read_questions(str(folder))["two boys"]
  assert (first.parents, second.parents) == ((), (0,))


def test_lines_of_ones_own_with_parents_and_other_answers(tmp_path):
  line = {"prompt": "a", "questions": [
    "b?", {"question": "c?", "parents": [1], "answers": {"0": 0, "1": 1}},
  ]}  # fmt: skip
  got = read(tmp_path, "q.jsonl", json.dumps(line))["a"]
  assert got[1] == Question("c?", 1.0, (0,), (("0", 0.0), ("1", 1.0)))
  for says, entry in {
    "parents='b'": {"question": "c?", "parents": "b"},
    "answers=": {"question": "c?", "answers": {"yes": 1}},
    "answers={'yes'": {"question": "c?", "answers": {"yes": [1]}},
    "parent 3": {"question": "c?", "parents": [3]},
  }.items():
    bad = json.dumps({"prompt": "a", "questions": ["b?", entry]})
    with pytest.raises(UserError, match=says):
      read(tmp_path, "q.jsonl", bad)
