"""Judges of the program beside whole rows of the model, read one by one."""

import dataclasses
import functools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import rewards
from jaxreward.errors import UserError
from jaxreward.models.vlm import prompts, qwen_vl, tiny
from jaxreward.rewards import (
  answer_tables,
  checklists,
  judges,
  listwise,
  vision_language,
)
from jaxreward.rewards.remote import templates
from jaxreward.rewards.remote.rewards import YES
from jaxreward.types import PromptBatch

pytestmark = [pytest.mark.job, pytest.mark.turns(4, 3)]

TEXTS = ["a red circle", "two blue squares <|image_pad|>"]
# As many bytes each: random weights find long answers improbable.
WORDS = {"first": 1.0, "other": 0.0, "equal": 0.5}
CLEAN = ["a red circle", "two blue squares "]
LENGTH, GROUP = 640, 3
SOURCES = np.random.default_rng(1).random((2, 32, 32, 3)).astype(np.float32)
SOURCES = np.rint(SOURCES * 255) / np.float32(255)
BATCH = PromptBatch(
  np.arange(2, dtype=np.uint32), np.zeros(2, np.int32), np.ones(2, bool),
  source=SOURCES, target=1 - SOURCES,
)  # fmt: skip
PAIR = "{source}: {first} or {second}, {prompt}? {answer}"
EDIT = "{source} became {image} by {prompt}: right? {answer}"
REMARKS = dict(pleased=("Thanks!", "Just so."), displeased=("No.",))
SCALE = dict(answer="score", low=8.0, high=11.0)


def softmax(x):
  y = np.exp(np.asarray(x, np.float64) - np.max(x))
  return y / y.sum()


LINES = [
  {"prompt": TEXTS[0], "questions": [
    "Is it red?", {"question": "A circle?", "weight": 3, "parents": [1]},
  ]},
  {"prompt": TEXTS[1], "questions": [
    {"question": "How many?", "answers": {"one": 0, "two": 1, "six": 0.5}},
  ]},
]  # fmt: skip


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
  """(rewards as functions of images, parameters)."""
  file = tmp_path_factory.mktemp("questions") / "q.jsonl"
  file.write_text("\n".join(map(json.dumps, LINES)))
  edit = file.with_name("edit.txt")
  edit.write_text(EDIT)
  pair = file.with_name("pair.txt")
  pair.write_text(PAIR)
  nearer = dict(template=str(pair), original="target")
  options = dict(weights="tiny", length=LENGTH, microbatch=4)
  ways = {
    "yes": (judges.vlm_pointwise, {}),
    "score": (judges.vlm_pointwise, SCALE),
    "pairs": (judges.vlm_pairwise, {}),
    "first": (judges.vlm_pairwise, dict(pairs="member", swap=False)),
    "others": (judges.vlm_pairwise, dict(pairs="first", swap=False)),
    "nearer": (judges.vlm_pairwise, dict(nearer, pairs="member", swap=False)),
    "whole": (judges.vlm_pairwise, dict(consistent=True)),
    "echo": (judges.prompt_echo, {}),
    "think": (
      judges.vlm_pointwise,
      dict(think=3, temperature=0.0, verdict="So: "),
    ),
    "list": (
      listwise.vlm_listwise,
      dict(members=2, principle="Size matters."),
    ),
    "edit": (judges.vlm_pointwise, dict(template=str(edit))),
    "check": (
      checklists.vlm_checklist,
      dict(questions=str(file), gate="soft"),
    ),
    "sum": (judges.prompt_echo, dict(summed=True)),
    "follow": (judges.follow_up, REMARKS),
    "turned_follow": (
      judges.follow_up,
      dict(zip(REMARKS, [*REMARKS.values()][::-1], strict=True)),
    ),
  }
  built = {}
  for name, (reward, more) in ways.items():
    loaded = reward.loads(**options, **more)
    params = loaded.arrays["params"]
    given = {**loaded.static, **loaded.prepare(TEXTS)}
    if reward is judges.vlm_pairwise:
      table = answer_tables.table_of(tiny.tokens, WORDS)
      given["judge"] = dataclasses.replace(given["judge"], table=table)
    built[name] = functools.partial(reward, **given)
  params = jax.tree.map(lambda x: 6 * x if x.ndim > 1 else x, params)
  return built, params


@pytest.fixture(scope="module")
def images():
  x = np.random.default_rng(0).random((2, GROUP, 32, 32, 3))
  x = np.rint(x * 255).astype(np.float32) / 255
  x[0, 2, 3, 4, 1] = np.nan
  return x


@pytest.fixture(scope="module")
def scores(setup, images):
  """Everything below, in one program."""
  built, params = setup
  same = np.repeat(images[:, :1], GROUP, 1)

  def everything(params, images):
    one = lambda name, x: next(
      iter(built[name](x, BATCH, params=params).values())
    )
    values = {name: one(name, images) for name in built}
    values["turned"] = one("pairs", images[:, ::-1])
    values["same"] = one("pairs", same)
    slope = jax.grad(lambda x: jnp.nansum(one("echo", x)))(images)
    return {**values, "slope": slope}

  outputs = jax.jit(everything)(params, images)
  return jax.tree.map(np.asarray, outputs)


@pytest.fixture(scope="module")
def read(setup, images):
  """(question, its images, answers) -> log-probabilities of the answers."""
  _, params = setup
  net = jax.jit(lambda packed: jax.nn.log_softmax(
    qwen_vl.logits(params, qwen_vl.states(tiny.MODEL, params, packed))
  ))  # fmt: skip
  mean = np.array([0.48145466, 0.4578275, 0.40821073])
  std = np.array([0.26862954, 0.26130258, 0.27577711])

  def rows(question, shown, begun, tail):
    """Log-probabilities of the next tokens from before the tail to its end."""
    text = prompts.chat(question, 0, answer=begun)
    frames = [prompts.Shown(((x - mean) / std)[None]) for x in shown]
    ids = [*tiny.tokens(text)["input_ids"], *tail]
    packed = prompts.pack(tiny.MODEL, [ids], [frames], length=LENGTH + 8)
    end = int(packed.mask.sum())
    return np.asarray(net(packed))[0, end - len(tail) - 1 : end]

  def log_probs(question, shown, answers, begun="", thought=()):
    sums = []
    for answer in answers:
      said = tiny.tokens(answer)["input_ids"]
      table = rows(question, shown, begun, [*thought, *said])[-len(said) - 1 :]
      sums.append(table[np.arange(len(said)), said].sum())
    return np.array(sums)

  log_probs.rows = rows
  return log_probs


SHOWN = vision_language.PICTURE


def question(template, text, **fields):
  for name, value in dict(fields, prompt=text).items():
    template = template.replace(f"{{{name}}}", value)
  return template


def test_yes_is_as_probable_as_in_a_whole_row(scores, images, read):
  asked = question(
    templates.YES_NO, CLEAN[1], image=SHOWN,
    answer="Answer with one word: yes or no.",
  )  # fmt: skip
  logs = read(asked, [images[1, 1]], ["yes", "Yes", "no", "No"])
  assert math.isclose(
    scores["yes"][1, 1], softmax(logs)[:2].sum(), rel_tol=1e-3
  )
  table = answer_tables.of_choice(tiny.tokens, YES)
  assert table.values.tolist() == [1, 1, 0, 0]
  assert np.isnan(scores["yes"]).tolist() == [[0, 0, 1], [0, 0, 0]]


def test_questions_are_answered_as_in_whole_rows(scores, images, read):
  def answer(p, g, text, words):
    asked = question(
      templates.CHECKLIST, CLEAN[p], image=SHOWN, question=text,
      answer=f"Answer with one word: {words}.",
    )  # fmt: skip
    spelled = re.findall(r"[a-z]+", words.replace(" or ", " "))
    every = [s for word in spelled for s in (word, word.capitalize())]
    logs = softmax(read(asked, [images[p, g]], every))
    return dict(zip(spelled, logs.reshape(-1, 2).sum(1), strict=True))

  red, circle = (
    answer(0, 1, text, "yes or no")["yes"]
    for text in ("Is it red?", "A circle?")
  )
  expected = red / 4 + 3 / 4 * red * circle
  assert math.isclose(scores["check"][0, 1], expected, rel_tol=1e-3)
  many = answer(1, 2, "How many?", "one, two or six")
  expected = many["two"] + many["six"] / 2
  assert math.isclose(scores["check"][1, 2], expected, rel_tol=1e-3)
  assert np.isnan(scores["check"]).tolist() == [[0, 0, 1], [0, 0, 0]]


def test_remarks_are_as_probable_as_in_whole_rows(scores, images, read):
  asked = judges.FOLLOW_UP.format(prompt=CLEAN[1])
  every = [*REMARKS["pleased"], *REMARKS["displeased"]]
  sizes = [len(tiny.tokens(x)["input_ids"]) for x in every]
  pleased, well, no = read(asked, [images[1, 1]], every) / sizes
  expected = (pleased + well) / 2 - no
  assert math.isclose(scores["follow"][1, 1], expected, rel_tol=1e-3)
  assert np.isnan(scores["follow"]).tolist() == [[0, 0, 1], [0, 0, 0]]
  np.testing.assert_allclose(
    scores["turned_follow"], -scores["follow"], rtol=1e-4, atol=1e-6
  )


def test_no_remark_is_refused():
  with pytest.raises(UserError, match=r"displeased=\(\): give a remark"):
    judges.follow_up.loads(weights="tiny", displeased=())
  with pytest.raises(UserError, match=r'pleased="Thanks": give a tuple'):
    judges.follow_up.loads(weights="tiny", pleased="Thanks")


def test_a_thought_stands_before_the_verdict(scores, images, read):
  """Greedy, written token by token."""
  template = templates.default(templates.YES_NO, thinks=True)
  asked = question(
    template, CLEAN[1], image=SHOWN, answer="Answer with one word: yes or no."
  )
  thought: list[int] = []
  for _ in range(3):
    table = read.rows(asked, [images[1, 1]], "<think>\n", thought)
    thought.append(int(table[-1].argmax()))
  assert tiny.tokens("<|im_end|>")["input_ids"][0] not in thought
  thought += tiny.tokens("</think>\nSo: ")["input_ids"]
  logs = read(
    asked, [images[1, 1]], ["yes", "Yes", "no", "No"], "<think>\n", thought
  )
  assert math.isclose(
    scores["think"][1, 1], softmax(logs)[:2].sum(), rel_tol=1e-3
  )


def test_lists_are_read_from_every_start(scores, images, read):
  template = templates.default(templates.BEST, told=True)
  asked = question(
    template, CLEAN[1], principle="Size matters.",
    images="".join(f"Picture {i}:\n{SHOWN}\n" for i in (1, 2)),
    answer="Answer with one word: 1 or 2.",
  )  # fmt: skip
  total = np.zeros(3)
  for start in range(3):
    pair = [start, (start + 1) % 3]
    total[pair] += softmax(read(asked, images[1, pair], ["1", "2"])) / 2
  np.testing.assert_allclose(scores["list"][1], total, rtol=1e-3)
  # The third image of the first prompt is not finite: one list is left.
  assert np.isnan(scores["list"][0]).tolist() == [False, False, True]
  np.testing.assert_allclose(scores["list"][0, :2].sum(), 1, rtol=1e-5)


def test_an_edit_is_seen_beside_its_source(scores, images, read):
  asked = question(
    EDIT, CLEAN[0], source=SHOWN, image=SHOWN,
    answer="Answer with one word: yes or no.",
  )  # fmt: skip
  shown = [SOURCES[0], images[0, 1]]
  logs = read(asked, shown, ["yes", "Yes", "no", "No"])
  assert math.isclose(
    scores["edit"][0, 1], softmax(logs)[:2].sum(), rel_tol=1e-3
  )


def test_a_pair_is_seen_beside_the_exact_answer(scores, images, read):
  asked = question(
    PAIR, CLEAN[0], source=SHOWN, first=SHOWN, second=SHOWN,
    answer="Answer with one word: first, second or tie.",
  )  # fmt: skip
  shown = [1 - SOURCES[0], *images[0, :2]]
  win = softmax(read(asked, shown, list(WORDS))) @ list(WORDS.values())
  expected = [win, 1 - win, np.nan]
  np.testing.assert_allclose(scores["nearer"][0], expected, atol=1e-5)


def test_a_file_asks_the_same_of_judges_here_and_behind_a_server(tmp_path):
  file = tmp_path / "q.txt"
  file.write_text("{image}\nIs it {prompt}? By {principle}! {answer}")
  principle = tmp_path / "p.jsonl"
  line = {"prompt": TEXTS[0], "principle": "colour"}
  principle.write_text(json.dumps(line))
  options = dict(principles=str(principle))
  here = judges.vlm_pointwise.loads(
    weights="tiny", length=256, template=str(file), **options
  )
  ids = here.prepare(TEXTS[:1])
  text = bytes(i for i in ids["text"][0][ids["mask"][0]] if i < 256).decode()
  away = rewards.REGISTRY["judge_pointwise"].loads(
    folder=tmp_path, url="http://h/v1", model="m", logprobs=True,
    templates=(str(file),), answer="yes_no", **options,
  )  # fmt: skip
  judge, (wording,) = away.static["judge"], away.static["wordings"]
  parts = templates.fill(
    wording, {"prompt": TEXTS[0], "image": "", "answer": YES.request(True)}
    | judge.principles.of(TEXTS[0]),
  )  # fmt: skip
  assert "".join(parts).strip() in text and "By colour!" in text


def test_a_score_is_the_mean_of_whole_numbers(scores, images, read):
  asked = question(
    templates.POINTWISE, CLEAN[0], image=SHOWN, low="8", high="11",
    answer='Answer with JSON of the form {"score": number}.',
  )  # fmt: skip
  logs = read(asked, [images[0, 1]], ["8}", "9}", "10}", "11}"], '{"score": ')
  expected = softmax(logs) @ np.arange(4) / 3
  assert math.isclose(scores["score"][0, 1], expected, abs_tol=1e-5)


def test_both_orders_of_a_pair_are_asked(scores, images, read):
  words, value = list(WORDS), np.array(list(WORDS.values()))
  asked = question(
    templates.PAIRWISE, CLEAN[0], first=SHOWN, second=SHOWN,
    answer="Answer with one word: first, second or tie.",
  )  # fmt: skip
  pair = images[0, :2]
  ahead, behind = (
    softmax(read(asked, x, words)) @ value for x in (pair, pair[::-1])
  )
  # The third image is not finite: there is one match.
  win = (ahead + 1 - behind) / 2
  expected = [win, 1 - win, np.nan]
  np.testing.assert_allclose(scores["pairs"][0], expected, atol=1e-5)
  expected = [ahead, 1 - ahead, np.nan]
  np.testing.assert_allclose(scores["first"][0], expected, atol=1e-5)
  expected[0] = np.nan  # it is what the others are compared with
  np.testing.assert_allclose(scores["others"][0], expected, atol=1e-5)
  votes = (ahead > 0.5) + (behind < 0.5)
  expected = [votes / 2, 1 - votes / 2, np.nan]
  np.testing.assert_allclose(scores["whole"][0], expected, atol=1e-5)


def test_win_rates_follow_the_images_and_sum_to_half(scores):
  np.testing.assert_allclose(
    scores["turned"][1], scores["pairs"][1, ::-1], atol=1e-5
  )
  np.testing.assert_allclose(scores["pairs"][1].mean(), 0.5, atol=1e-6)
  np.testing.assert_allclose(scores["same"], 0.5, atol=1e-6)
  assert np.ptp(scores["pairs"][1]) > 1e-4


def test_an_echo_is_the_likelihood_of_the_prompt(scores, images, read):
  logs = read(judges.DESCRIBE, [images[1, 2]], [CLEAN[1]])
  tokens = len(CLEAN[1])
  assert math.isclose(scores["sum"][1, 2], logs[0], rel_tol=1e-5)
  assert math.isclose(scores["echo"][1, 2], logs[0] / tokens, rel_tol=1e-5)
  assert (scores["echo"][1] < 0).all()


def test_sum_and_mean_give_the_same_standardised_advantages(scores):
  def standard(x):
    return (x - x.mean()) / x.std()

  np.testing.assert_allclose(
    standard(scores["sum"][1]), standard(scores["echo"][1]), atol=1e-3
  )


def test_an_echo_has_a_gradient_in_finite_images(scores):
  slope = np.abs(scores["slope"]).sum((2, 3, 4))
  assert np.isfinite(slope).all()
  assert (slope > 0).tolist() == [[1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize(
  "reward, options, says",
  [
    ("vlm_pointwise", dict(dtype="float16"), 'dtype="float16" is none of'),
    ("vlm_pointwise", dict(answer="yes"), 'answer="yes" is none of'),
    ("vlm_pointwise", dict(SCALE, high=8.5), "numbers a step apart"),
    ("vlm_pointwise", dict(low=2.0, high=1.0), "low must be less"),
    ("vlm_pairwise", dict(pairs="some"), 'pairs="some" is none of'),
    ("vlm_pairwise", dict(opponents=0), "opponents=0"),
    ("prompt_echo", dict(microbatch=-1), "microbatch=-1"),
  ],
)
def test_an_option_is_refused(reward, options, says):
  with pytest.raises(UserError, match=says):
    rewards.REGISTRY[reward].loads(weights="tiny", **options)


@pytest.mark.parametrize(
  ("reward", "text"),
  [
    ("vlm_pairwise", "{second} or {first} for {prompt}?"),
    ("vlm_pairwise", "{first} or {second}, {first} for {prompt}?"),
    ("vlm_pointwise", "{image} {image} {prompt}"),
    ("vlm_pointwise", "<|image_pad|> {image} {prompt}"),
  ],
)
def test_images_out_of_order_or_twice_are_refused(tmp_path, reward, text):
  file = tmp_path / "question.txt"
  file.write_text(text)
  with pytest.raises(
    UserError, match=r"question\.txt: images are read in .* once"
  ):
    rewards.REGISTRY[reward].loads(weights="tiny", template=str(file))


def test_no_mark_is_left_of_marks_within_marks():
  nested = "a <|image_<|image_pad|>pad|> cat"
  assert prompts.without_marks(nested) == "a  cat"


def test_who_meets_nobody_and_what_has_no_words_have_no_score(setup, images):
  built, params = setup
  alone = built["pairs"](images[:, :1], BATCH, params=params)["judge"]
  assert alone.shape == (2, 1) and np.isnan(alone).all()


def test_a_question_that_is_too_long_is_refused():
  loaded = judges.prompt_echo.loads(weights="tiny", length=200)
  with pytest.raises(UserError, match=r"length=200: .* 300 tokens.*raise"):
    loaded.prepare(["a" * 300])


def test_an_answer_that_begins_another_has_to_end():
  """Or 1 would have the share of 10, and of ten things a half at most."""
  table = answer_tables.table_of(tiny.tokens, {"1": 0.0, "10": 1.0})
  rows = [x[m].tolist() for x, m in zip(table.ids, table.mask, strict=True)]
  end = tiny.tokens(prompts.END)["input_ids"]
  assert rows == [tiny.tokens(s)["input_ids"] + end for s in ("1", "10")]


def test_an_answer_that_the_vocabulary_lacks_is_refused():
  def words(text):
    return {"input_ids": [7 if text == "yes" else 0]}

  words.unk_token_id = 0
  with pytest.raises(UserError, match='vocabulary has no "no"'):
    answer_tables.table_of(words, {"yes": 1.0, "no": 0.0})
