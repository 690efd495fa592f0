"""Reading what judges say: JSON, prose around it, probabilities of words."""

import dataclasses
import json
import math

import numpy as np
import pytest

from jaxreward.rewards.remote import answers

TEN = answers.Score(1.0, 10.0)
YES = answers.Choice("answer", {"yes": 1.0, "no": 0.0})
WINNER = answers.Choice("winner", {"first": 1.0, "second": 0.0, "tie": 0.5})


def answer(text, tokens=()):
  return answers.Answer(text, tokens)


@pytest.mark.parametrize(
  ("text", "score"),
  [
    ('{"score": 1}', 1),
    ('{"score": 10.0}', 10),
    (" 7 ", 7),
    ('{"score": "5.5"}', 5.5),
    ('Well. {"reason": "a {red} one", "score": 4} I hope so.', 4),
    ('{"score": 2} no, rather\n```json\n{"score": 9}\n```', 9),
    ('<think>{"score": 2}, or 3?</think>8', 8),
    ('{broken {"score": 6}', 6),
  ],
)
def test_scores_are_found(text, score):
  assert TEN.read(answer(text)) == pytest.approx((score - 1) / 9)


@pytest.mark.parametrize(
  "text",
  [
    '{"score": 0.99}', '{"score": 10.01}', '{"score": NaN}', '{"score": true}',
    '{"score": null}', '{"score": [3]}', '{"rating": 3}', "a 7 of 10", "inf",
    '{"score": ', "{" * 3000, '{"score": 3} then {"score": 11}',
  ],
)  # fmt: skip
def test_other_scores_are_refused(text):
  with pytest.raises(answers.Malformed):
    TEN.read(answer(text))


@pytest.mark.parametrize(
  ("text", "value"),
  [
    ('{"answer": "yes"}', 1.0),
    ('{"answer": "No"}', 0.0),
    ('{"answer": true}', 1.0),
    ("Yes, it does.", 1.0),
    ("**No**", 0.0),
    ("<think>Yes? Wait.</think>\nNo.", 0.0),
  ],
)
def test_yes_and_no_as_text(text, value):
  assert YES.read(answer(text)) == value


@pytest.mark.parametrize("text", ["Maybe yes", '{"answer": "si"}', "nope", "!"])
def test_neither_yes_nor_no(text):
  with pytest.raises(answers.Malformed):
    YES.read(answer(text))


def test_winners_as_text():
  for word, value in (("first", 1.0), ("second", 0.0), ("tie", 0.5)):
    assert WINNER.read(answer(f'{{"winner": "{word}"}}')) == value
  with pytest.raises(answers.Malformed):
    WINNER.read(answer('{"winner": true}'))


def test_probabilities_of_all_spellings_are_added():
  top = {
    "Yes": 0.3,
    " yes": 0.2,
    "YES": 0.1,
    "No": 0.15,
    "ĠNO": 0.05,
    "So": 0.2,
  }
  alternatives = [(t, math.log(p)) for t, p in top.items()]
  assert answers.expected([("Yes", alternatives)], YES.values) == pytest.approx(
    0.6 / 0.8
  )


def test_the_first_place_with_a_word_counts():
  low, high = (
    [("yes", math.log(p)), ("no", math.log(1 - p))] for p in (0.2, 0.9)
  )
  tokens = [("**", [("**", -0.1)]), ("No", low), ("yes", high)]
  assert answers.expected(tokens, YES.values) == pytest.approx(0.2)
  assert YES.read(answer("**No yes", tokens)) == pytest.approx(0.2)


def test_places_within_a_thought_do_not_count():
  low, high = (
    [("yes", math.log(p)), ("no", math.log(1 - p))] for p in (0.2, 0.9)
  )
  tokens = [("<think>", []), ("yes", low), ("</think>", []), ("yes", high)]
  found = YES.read(answer("<think>yes</think>yes", tokens))
  assert found == pytest.approx(0.9)


def test_a_tie_is_weighed_too():
  top = {"first": 0.5, "second": 0.1, "tie": 0.4}
  tokens = [("first", [(t, math.log(p)) for t, p in top.items()])]
  assert WINNER.read(answer("first", tokens)) == pytest.approx(0.5 + 0.2)


@pytest.mark.parametrize(
  "tokens",
  [
    [],
    [("maybe", [("yes", -1.0), ("no", -1.0)])],
    [("yes", [("yes", -math.inf), ("no", -9999.0)])],
    [("yes", [("yes", math.nan)])],
  ],
)
def test_without_probabilities_there_is_no_mean(tokens):
  assert answers.expected(tokens, YES.values) is None
  assert YES.read(answer("no", tokens)) == 0.0


@pytest.mark.parametrize(
  "reply",
  [
    None, [], {}, {"choices": []}, {"choices": [{}]}, "text",
    {"choices": [{"message": {"content": None}}]},
    {"choices": [{"message": {"content": "  "}}]},
    {"choices": [{"message": {"content": ["a"]}}]},
    {"choices": [{"message": {"content": "a"}, "logprobs": {"content": [3]}}]},
    {"choices": [{"message": {"content": "a"}, "logprobs": "many"}]},
  ],
)  # fmt: skip
def test_replies_of_another_schema_are_malformed(reply):
  with pytest.raises(answers.Malformed):
    answers.of_reply(reply)


def test_an_answer_survives_json():
  place = {"token": "Yes", "top_logprobs": [{"token": "Yes", "logprob": -0.5}]}
  reply = {
    "choices": [
      {"message": {"content": "Yes"}, "logprobs": {"content": [place]}}
    ]
  }
  found = answers.of_reply(reply)
  assert found == answers.Answer("Yes", (("Yes", (("Yes", -0.5),)),))
  fields = json.loads(json.dumps({"text": found.text, "tokens": found.tokens}))
  assert answers.of_stored(fields) == found
  with pytest.raises(answers.Malformed):
    answers.of_stored({"text": "Yes"})


def test_lists_of_questions():
  form = answers.Texts("questions", 2)
  assert form.read(answer('So: {"questions": [" a? ", "b?"]}')) == ("a?", "b?")
  for text in ("[]", '{"questions": []}', '{"questions": ["a", "b", "c"]}',
               '{"questions": ["a", 3]}', '{"questions": "a"}'):  # fmt: skip
    with pytest.raises(answers.Malformed):
      form.read(answer(text))


@pytest.mark.parametrize("form", [TEN, YES, WINNER, answers.Texts("q", 3)])
def test_what_a_form_asks_for_it_reads(form):
  """The example in its own request is an answer in its form."""
  request = form.request(False).replace(": number", ": 3")
  *_, example = answers.objects(request)
  value = form.read(answer(json.dumps(example)))
  assert np.ndim(value) == 1 or 0 <= value <= 1
  assert list(form.schema["properties"]) == list(example)


def test_tokens_are_counted_as_the_server_does():
  assert answers.tokens_used({"usage": {"total_tokens": 12}}) == 12
  for reply in ({}, [], {"usage": None}, {"usage": {"total_tokens": "12"}}):
    assert answers.tokens_used(reply) == 0


# Answers that end too early


@pytest.mark.parametrize(
  "text",
  [
    '<think>perhaps {"score": 3}, no',
    "<thinking>7",
    '<reasoning>{"score": 7}',
    '[THINK]{"score": 7}',
    '◁think▷{"score": 7}',
    '<think>a</think><think>{"score": 7}',
  ],
)
def test_a_thought_without_end_holds_no_score(text):
  with pytest.raises(answers.Malformed, match="thought"):
    TEN.read(answer(text))
  assert TEN.read(answer(f"{text}</think>8")) == pytest.approx(7 / 9)


def cut(text, tokens=()):
  return dataclasses.replace(answer(text, tokens), is_cut=True)


@pytest.mark.parametrize("text", ["1", '{"score": 7}', 'A 7? {"score": 7} but'])
def test_a_cut_answer_holds_no_score(text):
  TEN.read(answer(text.removeprefix("A 7? ").removesuffix(" but")))
  with pytest.raises(answers.Malformed, match="cut at max_tokens"):
    TEN.read(cut(text))


def test_a_single_word_may_be_all_that_was_asked_for():
  assert YES.read(cut("Yes")) == 1.0
  tokens = [("no", [("no", -0.1), ("yes", -2.5)])]
  assert 0 < YES.read(cut("no", tokens)) < 0.2
  with pytest.raises(answers.Malformed, match="cut"):
    WINNER.read(cut("First, I look at the colours of both pictures"))


def test_prose_that_begins_with_a_word_names_no_winner():
  assert WINNER.read(answer("**First**")) == 1.0
  with pytest.raises(answers.Malformed, match="prose"):
    WINNER.read(answer("First, I look at both. The second is better."))


def test_a_reply_says_that_it_was_cut():
  choice = {"message": {"content": "7"}, "finish_reason": "length"}
  found = answers.of_reply({"choices": [choice]})
  assert found.is_cut
  assert answers.of_stored(dataclasses.asdict(found)) == found
  choice["message"]["content"] = ""  # the thought stands elsewhere
  with pytest.raises(answers.Malformed, match="max_tokens"):
    answers.of_reply({"choices": [choice]})
  choice = {"message": {"content": "7"}, "finish_reason": "content_filter"}
  with pytest.raises(answers.Malformed, match="filter"):
    answers.of_reply({"choices": [choice]})
