"""What the three kinds of judge make of the answers."""

import itertools
import json
import math

import numpy as np
import pytest
from PIL import Image

from jaxreward.data import prompts as batches
from jaxreward.errors import UserError
from jaxreward.rewards.remote import matches
from jaxreward.tasks import free
from tests.rewards.judges import (
  Loaded,
  Reply,
  levels,
  numbers,
  reds,
  said,
  scored,
)

TEXTS = ["a red circle", "a blue square"]


def winner(word):
  return said(json.dumps({"winner": word}))


def reddest(ask):
  """An honest judge of redness."""
  first, second = ask.red
  return winner(
    "tie" if first == second else "first" if first > second else "second"
  )


def likes_first(ask):
  return winner("first")


def yes(is_so):
  return said(json.dumps({"answer": "yes" if is_so else "no"}))


# --- pointwise


def test_scores_are_mapped_to_one(serve, tmp_path):
  server = serve(lambda ask: scored(round(-2 + 6 * ask.red[0], 3)))
  judge = Loaded("judge_pointwise", server.url, tmp_path, low=-2.0, high=4.0)
  values = [[0.2, 0.8], [0.4, 1.0]]
  found = judge(reds(values), TEXTS)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, values, atol=1e-3)
  assert "from -2 (not at all) to 4" in server.asks[0].text
  assert {t for ask in server.asks for t in TEXTS if t in ask.text} == set(
    TEXTS
  )


def test_pictures_that_are_not_finite_and_padding_are_not_shown(
  serve, tmp_path
):
  server = serve(lambda ask: scored(10))
  images = reds([[0.2, 0.4], [0.6, 0.8]])
  images[0, 1, 0, 0, 0] = np.nan
  judge = Loaded("judge_pointwise", server.url, tmp_path)
  found = judge(images, TEXTS[:1], rows=2)
  np.testing.assert_array_equal(found, [[1, np.nan], [np.nan, np.nan]])
  assert server.count == 1


@pytest.mark.parametrize("combine", ["mean", "median"])
def test_an_ensemble_of_samples_and_wordings(combine, serve, tmp_path):
  given = {("A", 0): 1, ("A", 1): 4, ("A", 2): 4, ("B", 0): 6, ("B", 1): 10,
           ("B", 2): None}  # fmt: skip

  def answer(ask):
    score = given[ask.text[0], ask.body["seed"] - 7]
    return scored(score) if score else Reply(b"", 500)

  server = serve(answer)
  for name in "AB":
    (tmp_path / name).write_text(f"{name}: {{prompt}} {{image}} {{answer}}\n")
  judge = Loaded(
    "judge_pointwise", server.url, tmp_path / "kept", samples=3, seed=7,
    temperature=1.0, combine=combine, retries=0,
    templates=(str(tmp_path / "A"), str(tmp_path / "B")),
  )  # fmt: skip
  [[found]] = judge(reds([[0.5]]), TEXTS[:1])
  reference = getattr(np, combine)([(x - 1) / 9 for x in (1, 4, 4, 6, 10)])
  assert found == pytest.approx(reference)
  assert server.count == 6
  kinds = [c["type"] for c in server.asks[0].content]
  assert kinds == ["text", "image_url", "text"]


def test_yes_by_its_probability(serve, tmp_path):
  tops = {
    0.2: {"Yes": 0.3, " yes": 0.1, "No": 0.4},
    0.4: {"no": 0.9, "Yes": 0.1},
  }

  def answer(ask):
    for red, top in tops.items():
      if abs(ask.red[0] - red) < 0.01:
        logs = {t: math.log(p) for t, p in top.items()}
        return said(next(iter(top)), [(next(iter(top)), logs)])
    return said("Yes")  # a server that gives none

  server = serve(answer)
  judge = Loaded(
    "judge_pointwise", server.url, tmp_path, answer="yes_no", logprobs=True
  )
  images = reds([[0.2, 0.4, 0.8]])
  np.testing.assert_allclose(
    judge(images, TEXTS[:1]), [[0.5, 0.1, 1.0]], rtol=1e-6
  )
  body = server.asks[0].body
  assert body["logprobs"] is True and body["top_logprobs"] == 20
  assert "response_format" not in body
  assert "one word" in server.asks[0].text
  again = judge(images, TEXTS[:1])  # probabilities are kept as well
  np.testing.assert_allclose(again, [[0.5, 0.1, 1.0]], rtol=1e-6)
  assert server.count == 3


def test_a_number_is_asked_for_by_schema_even_with_logprobs(serve, tmp_path):
  server = serve(lambda ask: scored(1))
  Loaded("judge_pointwise", server.url, tmp_path, logprobs=True)(
    reds([[0.5]]), TEXTS[:1]
  )
  assert "response_format" in server.asks[0].body
  assert "logprobs" not in server.asks[0].body


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("{image} {prompt} {scale}", "{scale} stands for nothing"),
    ("{image} {propmt}", 'did you mean "prompt"'),
    ("{prompt} {answer}", "{image} has no place"),
    ("{image} {answer}", "{prompt} has no place"),
    (None, "there is no such file"),
    (b"\xff{image}{prompt}", "line 1: byte 1 is not UTF-8"),
  ],
)
def test_wrong_templates(text, words, tmp_path):
  path = tmp_path / "mine.txt"
  if text is not None:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
  with pytest.raises(UserError) as error:
    Loaded("judge_pointwise", "http://h/v1", tmp_path, templates=str(path))
  assert words in str(error.value) and "mine.txt" in str(error.value)


def test_braces_that_name_nothing_stay(serve, tmp_path):
  server = serve(lambda ask: scored(1))
  path = tmp_path / "mine.txt"
  path.write_text('{image}{prompt}: {"score": 3}, {}')
  Loaded("judge_pointwise", server.url, tmp_path, templates=str(path))(
    reds([[0.5]]), ["{image} of {low}"]
  )
  assert server.asks[0].text == '{image} of {low}: {"score": 3}, {}'
  assert len(server.asks[0].pictures) == 1


# --- pairwise


def slow_win_rates(wins):
  """Of a table of P(row beats column), the diagonal left out."""
  table = np.array(wins, np.float64)
  np.fill_diagonal(table, np.nan)
  return np.nanmean(table, 1)


def test_win_rates_of_all_pairs(serve, tmp_path):
  server = serve(reddest)
  values = np.array([[5, 2, 9, 2], [1, 1, 1, 1], [4, 3, 2, 1]]) * 20 / 255
  found = Loaded("judge_pairwise", server.url, tmp_path)(
    reds(values), [*TEXTS, "three"]
  )
  for row, own in zip(found, values, strict=True):
    wins = (np.sign(own[:, None] - own[None]) + 1) / 2
    np.testing.assert_allclose(row, slow_win_rates(wins))
  np.testing.assert_allclose(found[2], [1, 2 / 3, 1 / 3, 0])
  np.testing.assert_allclose(found.sum(1), 2.0)  # G / 2


def test_probabilities_of_winners(serve, tmp_path):
  """P(first) is a function of both pictures, with a lean towards the first."""

  def chance(a, b):
    return 1 / (1 + math.exp(-8 * (a - b) - 0.7))

  def answer(ask):
    p = chance(*ask.red)
    top = {"first": math.log(0.9 * p), "second": math.log(0.9 * (1 - p))}
    return said("first", [("first", top)])

  server = serve(answer)
  values = np.float64(levels(4))
  found = Loaded("judge_pairwise", server.url, tmp_path, logprobs=True)(
    reds([values]), TEXTS[:1]
  )
  table = np.vectorize(chance)(values[:, None], values[None])
  np.testing.assert_allclose(
    found[0], slow_win_rates((table + 1 - table.T) / 2), rtol=1e-5
  )


@pytest.mark.parametrize("lean", ["first", "second"])
def test_both_orders_cancel_a_lean_exactly(lean, serve, tmp_path):
  server = serve(lambda ask: winner(lean))
  judge = Loaded("judge_pairwise", server.url, tmp_path)
  found = judge(reds([levels(5), levels(5) * 2]), TEXTS)
  assert (found == 0.5).all()
  assert server.count == 2 * 2 * 10


def test_one_order_is_drawn_and_does_not_depend_on_the_place(serve, tmp_path):
  server = serve(likes_first)
  values = levels(8)
  judge = Loaded("judge_pairwise", server.url, tmp_path, swap=False)
  found = judge(reds([values]), TEXTS[:1])[0]
  assert server.count == 28
  shuffled = np.random.default_rng(0).permutation(8)
  again = judge(reds([values[shuffled]]), TEXTS[:1])[0]
  np.testing.assert_allclose(again, found[shuffled])
  assert server.count == 28  # the same matches, in the same order
  assert found.std() > 0  # the lean is still there, at random
  assert found.sum() == pytest.approx(4)


def test_one_order_finds_the_reddest_too(serve, tmp_path):
  server = serve(reddest)
  judge = Loaded("judge_pairwise", server.url, tmp_path, swap=False)
  np.testing.assert_allclose(
    judge(reds([levels(5)]), TEXTS[:1]), [np.arange(5) / 4]
  )


@pytest.mark.parametrize(
  ("members", "opponents"),
  [*itertools.product((2, 3, 6, 7, 8), (1, 2, 3, 5)), (64, 4)],
)
def test_drawn_matches_are_even(members, opponents):
  rng = np.random.default_rng(members)
  found = matches.schedule(
    rng.permutation(members).tolist(), "random", opponents
  )
  assert len({frozenset(m) for m in found}) == len(found)
  assert all(len(set(m)) == 2 for m in found)
  met = np.bincount(np.ravel(found), minlength=members)
  wanted = min(opponents, members - 1)
  both_odd = wanted % 2 and members % 2
  assert (met == wanted + both_odd).all()


def test_matches_are_drawn_from_what_the_pictures_show(serve, tmp_path):
  server = serve(reddest)

  def pairs_of(values, texts):
    start = server.count
    Loaded(
      "judge_pairwise", server.url, tmp_path / str(start), pairs="random",
      opponents=2, swap=False,
    )(reds([values]), texts)  # fmt: skip
    return {
      frozenset(round(r, 5) for r in ask.red) for ask in server.asks[start:]
    }

  values = levels(10)
  first = pairs_of(values, TEXTS[:1])
  assert len(first) == 10
  assert pairs_of(values[::-1], TEXTS[:1]) == first
  assert pairs_of(values, TEXTS[1:]) != first


def test_all_against_a_member(serve, tmp_path):
  server = serve(reddest)
  found = Loaded("judge_pairwise", server.url, tmp_path, pairs="member")(
    reds([levels(5)]), TEXTS[:1]
  )[0]
  shown = [frozenset(round(r, 5) for r in ask.red) for ask in server.asks]
  [pivot] = frozenset.intersection(*shown)
  assert len(set(shown)) == 4
  index = int(np.argmin(np.abs(levels(5) - pivot)))
  reference = (np.arange(5) > index).astype(float)
  reference[index] = index / 4
  np.testing.assert_allclose(found, reference)


def test_against_a_reference(serve, tmp_path):
  server = serve(reddest)
  pixels = np.zeros((4, 4, 3), np.uint8)
  pixels[..., 0] = 12
  Image.fromarray(pixels).save(tmp_path / "a.png")
  row = {"prompt": TEXTS[0], "image": "a.png"}
  (tmp_path / "references.jsonl").write_text(json.dumps(row) + "\n")
  judge = Loaded(
    "judge_pairwise", server.url, tmp_path / "kept", pairs="reference",
    references=str(tmp_path),
  )  # fmt: skip
  found = judge(reds([levels(4)] * 2), TEXTS)  # 5, 10, 15, 20
  np.testing.assert_array_equal(found, [[0, 0, 1, 1], [np.nan] * 4])
  assert server.count == 8


def test_lost_matches_are_left_out(serve, tmp_path):
  values = levels(4)

  def answer(ask):
    lost = {round(float(values[i]), 4) for i in (0, 3)}
    return (
      Reply(b"", 500)
      if {round(r, 4) for r in ask.red} == lost
      else reddest(ask)
    )

  judge = Loaded("judge_pairwise", serve(answer).url, tmp_path, retries=0)
  found = judge(reds([values]), TEXTS[:1])
  np.testing.assert_allclose(found, [[0, 1 / 3, 2 / 3, 1]])


def test_a_picture_without_a_match_has_no_score(serve, tmp_path):
  values = levels(3)

  def answer(ask):
    lost = any(abs(r - values[1]) < 1e-4 for r in ask.red)
    return Reply(b"", 500) if lost else reddest(ask)

  server = serve(answer)
  judge = Loaded("judge_pairwise", server.url, tmp_path, retries=0)
  np.testing.assert_allclose(judge(reds([values]), TEXTS[:1]), [[0, np.nan, 1]])
  alone = judge(reds([values[:1]]), TEXTS[:1])
  assert np.isnan(alone).all()


def test_win_rates_against_a_plain_count():
  rng = np.random.default_rng(1)
  games = rng.integers(0, 5, (40, 2))
  games = games[games[:, 0] != games[:, 1]]
  games[::7, 1] = -1
  wins = rng.random(len(games))
  wins[::5] = np.nan
  found = matches.win_rates(6, games, wins)
  for g in range(6):
    own = [w for (i, _), w in zip(games, wins, strict=True) if i == g]
    own += [1 - w for (_, j), w in zip(games, wins, strict=True) if j == g]
    expected = np.nanmean(own) if own else np.nan
    np.testing.assert_allclose(found[g], expected)


@pytest.mark.parametrize(
  ("given", "words"),
  [
    (dict(pairs="some"), 'pairs="some"'),
    (dict(opponents=0), "opponents=0"),
    (dict(pairs="reference"), 'references=""'),
    (dict(references="x"), 'references="x"'),
    (dict(pairs="reference", references="/no/such"), "no such file"),
  ],
)
def test_wrong_matches(given, words, tmp_path):
  with pytest.raises(UserError, match=words):
    Loaded("judge_pairwise", "http://h/v1", tmp_path, **given)


# --- checklist


def red_enough(ask):
  """Answers "Is it redder than 0.3?"."""
  return yes(ask.red[0] > numbers(ask.text)[0])


def test_a_weighted_share_of_questions(serve, tmp_path):
  server = serve(red_enough)
  lines = [
    {"prompt": "a  red circle", "questions": [
      "Is it redder than 0.1?", {"question": "Than 0.5?", "weight": 3},
      {"question": "Than 0.9?"},
    ]},
    {"prompt": "another", "kind": 3},
  ]  # fmt: skip
  path = tmp_path / "train.jsonl"
  path.write_text("\n\n".join(map(json.dumps, lines)))
  for source in (path, tmp_path):
    judge = Loaded(
      "judge_checklist", server.url, tmp_path / "kept", questions=str(source)
    )
    found = judge(reds([[0.05, 0.2, 0.6, 1.0]] * 2), TEXTS)
    np.testing.assert_allclose(found, [[0, 0.2, 0.8, 1], [np.nan] * 4])
  assert server.count == 12  # nothing of the prompt without questions


def test_a_question_counts_only_if_its_parent_holds(serve, tmp_path):
  path = tmp_path / "q.jsonl"
  listed = [
    "Redder than 0.5?",
    {"question": "Redder than 0.1?", "parents": [1]},
  ]
  path.write_text(json.dumps({"prompt": TEXTS[0], "questions": listed}))
  url = serve(red_enough).url
  options = dict(questions=str(path), cache=str(tmp_path / "kept"))
  for gate, expected in {"hard": [0, 0, 1], "off": [0, 0.5, 1]}.items():
    judge = Loaded("judge_checklist", url, tmp_path, gate=gate, **options)
    found = judge(reds([[0.05, 0.4, 0.8]]), TEXTS[:1])
    np.testing.assert_array_equal(found, [expected])


def test_an_unanswered_question_leaves_no_score(serve, tmp_path):
  path = tmp_path / "q.jsonl"
  questions = ["Redder than 0.1?", "Redder than 0.5?"]
  path.write_text(json.dumps({"prompt": TEXTS[0], "questions": questions}))

  def answer(ask):
    lost = "0.5" in ask.text and ask.red[0] < 0.3
    return Reply(b"", 500) if lost else red_enough(ask)

  judge = Loaded(
    "judge_checklist",
    serve(answer).url,
    tmp_path,
    questions=str(path),
    retries=0,
  )
  found = judge(reds([[0.2, 0.4, 0.8]]), TEXTS[:1])
  np.testing.assert_array_equal(found, [[np.nan, 0.5, 1.0]])


def test_questions_that_the_judge_writes_once_per_prompt(serve, tmp_path):
  def answer(ask):
    if ask.pictures:
      return red_enough(ask)
    assert "at most 3" in ask.text
    levels = (0.1, 0.5) if "circle" in ask.text else (0.3,)
    return said(json.dumps({"questions": [f"Over {x}?" for x in levels]}))

  server = serve(answer)
  options = dict(most_questions=3, samples=2, temperature=1.0)
  judge = Loaded("judge_checklist", server.url, tmp_path, **options)
  found = judge(reds([[0.2, 0.6], [0.2, 0.6]]), TEXTS)
  np.testing.assert_array_equal(found, [[0.5, 1], [0, 1]])
  assert sum(not ask.pictures for ask in server.asks) == 2
  assert server.count == 2 + 2 * (2 * 2 + 2)
  judge = Loaded("judge_checklist", server.url, tmp_path, **options)
  judge(reds([[0.4]]), TEXTS[:1])
  assert sum(not ask.pictures for ask in server.asks) == 2


def test_a_prompt_that_no_questions_are_found_for(serve, tmp_path):
  def answer(ask):
    if ask.pictures:
      return red_enough(ask)
    good = "circle" in ask.text
    return said(json.dumps({"questions": ["Over 0.1?"] if good else []}))

  server = serve(answer)
  judge = Loaded("judge_checklist", server.url, tmp_path, retries=1)
  found = judge(reds([[0.2, 0.05]] * 2), TEXTS)
  np.testing.assert_array_equal(found, [[1, 0], [np.nan, np.nan]])
  assert server.count == 1 + 2 + 2


def test_checklists_by_probability(serve, tmp_path):
  def answer(ask):
    if not ask.pictures:
      return said(json.dumps({"questions": ["a?", "b?"]}))
    p = 0.25 if "a?" in ask.text else 0.75
    top = {"Yes": math.log(p / 2), "No": math.log((1 - p) / 2)}
    return said("No", [("No", top)])

  server = serve(answer)
  judge = Loaded("judge_checklist", server.url, tmp_path, logprobs=True)
  np.testing.assert_allclose(judge(reds([[0.5]]), TEXTS[:1]), [[0.5]])


@pytest.mark.parametrize(
  ("line", "words"),
  [
    ("{", "line 1"),
    ('{"questions": ["a?"]}', "line 1"),
    ('{"prompt": "a", "questions": [3]}', "line 1"),
    ('{"prompt": "a", "questions": "Is it?"}', "line 1"),
    ('{"prompt": "a", "questions": [" "]}', "line 1"),
    ('{"prompt": "a", "questions": [{"question": 3}]}', "line 1"),
    ('{"prompt": "a", "questions": [{"weight": 3}]}', "line 1"),
    (
      '{"prompt": "a", "questions": [{"question": "a", "weight": 0}]}',
      "weight",
    ),
    ('{"prompt": "a"}', 'no line has "questions"'),
    ("", 'no line has "questions"'),
    (None, "there is no such file"),
  ],
)
def test_wrong_questions(line, words, tmp_path):
  path = tmp_path / "q.jsonl"
  if line is not None:
    path.write_text(line)
  with pytest.raises(UserError) as error:
    Loaded("judge_checklist", "http://h/v1", tmp_path, questions=str(path))
  assert words in str(error.value) and "\n" not in str(error.value)


def test_the_request_for_questions_in_other_words(serve, tmp_path):
  path = tmp_path / "ask.txt"
  path.write_text("What of {prompt}? {answer}")
  server = serve(
    lambda ask: (
      yes(True) if ask.pictures else said(json.dumps({"questions": ["a?"]}))
    )
  )
  Loaded("judge_checklist", server.url, tmp_path, questions_template=str(path))(
    reds([[0.5]]), TEXTS[:1]
  )
  assert server.asks[0].text.startswith("What of a red circle? ")


# --- pictures to start from


@pytest.mark.parametrize(
  "name", ["judge_pointwise", "judge_pairwise", "judge_checklist"]
)
def test_pictures_to_start_from_have_a_place(name, serve, tmp_path):
  def answer(ask):
    if not ask.pictures:
      return said(json.dumps({"questions": ["a?"]}))
    assert ask.red[0] == pytest.approx(0.2)
    return {
      "judge_pointwise": scored(10),
      "judge_pairwise": winner("tie"),
      "judge_checklist": yes(True),
    }[name]

  shown = "{first} {second}" if "pair" in name else "{image} {question}"
  shown = shown.replace("{question}", "") if "point" in name else shown
  path = tmp_path / "mine.txt"
  path.write_text("{source} " + shown + " {prompt} {answer}")
  server = serve(answer)
  judge = Loaded(name, server.url, tmp_path / "kept", templates=str(path))
  batch = batches.batch([free.parse(TEXTS[0])])
  images = reds([levels(3)])
  context = judge.loaded.prepare(TEXTS[:1])
  with pytest.raises(UserError, match="source"):
    judge(images, TEXTS[:1])
  object.__setattr__(batch, "source", reds([0.2]))
  [found] = judge.fn(images, batch, **judge.loaded.static, **context).values()
  assert (found == (0.5 if "pair" in name else 1)).all()
