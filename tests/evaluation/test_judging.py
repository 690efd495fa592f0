"""What an evaluation of rewards reports, on planted scores."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from jaxreward import config as config_lib
from jaxreward.data import corruptions
from jaxreward.errors import UserError
from jaxreward.evaluation import tables
from jaxreward.evaluation.reward_models import judge
from jaxreward.setup import checks, judging, judging_rows, judging_scores
from jaxreward.setup import rewards as reward_setup
from jaxreward.tasks import free
from jaxreward.tasks.scenes import grammar
from tests import tiny


@pytest.fixture
def labels():
  """40 rows of 5 images with planted ratings, labeled by them."""
  generator = np.random.default_rng(0)
  gold = generator.normal(size=(40, 5))
  gold[:, 4] = gold[:, 3]  # a tie in every row
  gap = gold[:, :, None] - gold[:, None]
  prob = np.where(gap == 0, 0.5, gap > 0).astype(float)
  prob[:, np.arange(5), np.arange(5)] = np.nan
  model = np.broadcast_to(np.arange(5), gold.shape)
  return judge.Labels(prob, gold, np.arange(40) // 2, model)


def test_a_perfect_a_reversed_and_a_random_reward(labels):
  noise = np.random.default_rng(1).normal(size=labels.gold.shape)
  scores = {"right": 3 * labels.gold + 1, "wrong": -labels.gold, "any": noise}
  results = {n: judge.agreement(labels, s) for n, s in scores.items()}
  right, wrong, other = results.values()
  assert right["n"] == wrong["n"] == 40 * 9
  assert (right["accuracy"], wrong["accuracy"]) == (1.0, 0.0)
  assert right["with_ties"]["accuracy"] == 1.0
  assert right["with_ties"]["n"] == 40 * 10
  assert right["best_of_4"]["accuracy"] == 1.0
  assert (right["spearman"], wrong["kendall"]) == pytest.approx((1, -1))
  assert right["regret"] == pytest.approx({"2": 0, "4": 0})
  assert wrong["regret"]["2"] == pytest.approx(2)
  assert right["starc"] == pytest.approx(0, abs=1e-6)
  assert wrong["starc"] == pytest.approx(2)
  assert right["models"]["spearman"] == pytest.approx(1)
  assert right["ties"] > 0.9
  assert 0.4 < other["accuracy"] < 0.6
  assert other["low"] < 0.5 < other["high"]
  assert 0.8 < other["regret"]["4"] < 1.2
  differences = judge.side_by_side(labels, scores)
  assert differences["wrong"]["value"] == -1.0
  assert differences["any"]["high"] < 0
  cells = tables.judged_rows(
    {"judged": {"rewards": results, "differences": differences}}
  )
  assert cells[0] == ["", "right", "wrong", "any"]
  assert cells[1][1].startswith("1.000 [")
  assert cells[-1][0] == "accuracy less that of right"


def test_answers_per_aspect_alone(labels):
  """As those of a set of videos, which has no overall answer."""
  nobody = dataclasses.replace(
    labels, prob=labels.prob * np.nan, gold=labels.gold * np.nan
  )
  answers = {"look": labels.prob, "text": 1 - labels.prob}
  scores = {"a": labels.gold, "b": -labels.gold}
  results = {n: judge.agreement(nobody, s, answers) for n, s in scores.items()}
  of = lambda name, aspect: results[name]["answers"][aspect]["accuracy"]
  assert [of("a", "look"), of("a", "text"), of("b", "text")] == [1, 0, 1]
  assert results["a"]["accuracy"] is None and "starc" not in results["a"]
  assert judge.side_by_side(nobody, scores) == {}
  lines = tables.judged_rows({"judged": {"rewards": results}})
  assert ["pair accuracy, look", "pair accuracy, text"] == [
    line[0] for line in lines[2:4]
  ]


def test_lists_of_other_lengths_and_answers_of_a_file(tmp_path):
  pixels = np.full((4, 4, 3), 255, np.uint8)
  for name in "abc":
    Image.fromarray(pixels).save(tmp_path / f"{name}.png")
  rows = [
    {"prompt": "p", "images": ["a.png", "b.png", "c.png"], "ranks": [1, 2, 2]},
    {"prompt": "p", "images": ["a.png", "b.png"], "answers": {"look": "b"}},
  ]
  path = tmp_path / "rows.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  config = config_lib.load(str(tiny.CONFIGS / "base.py"))
  table = judging_rows.read(
    config, str(path), free.parse, "eval.preferences", 9
  )
  images = judging_rows.images(table, 4, np.array([1, 0]))
  assert np.isfinite(images).all((2, 3, 4)).tolist() == [[1, 1, 0], [1, 1, 1]]
  assert table.answers["look"][1, 1, 0] == 1
  assert np.isnan(table.answers["look"][0]).all()


def test_rewards_are_judged_on_several_frames_of_a_clip(tmp_path):
  """By one line of the config: the mean over frames, each mirrored in place."""
  shades = {"a": (0, 50, 100, 150), "b": (200, 100, 0, 100)}
  for name, values in shades.items():
    frames = [np.full((4, 4, 3), v, np.uint8) for v in values]
    for frame in frames:
      frame[:, :2] += 5  # the left half is lighter
    first, *others = map(Image.fromarray, frames)
    first.save(tmp_path / f"{name}.png", save_all=True, append_images=others)
  path = tmp_path / "rows.jsonl"
  row = {"prompt": "p", "images": ["a.png", "b.png"], "ranks": [2, 1]}
  path.write_text("".join(json.dumps(row | {"prompt": p}) + "\n" for p in "pq"))
  config = tiny.load(
    "evaluate_scenes.py:smoke",
    {
      "data.grammar": "free", "rewards.detector": "none",
      "rewards.redness.fn": f"{tiny.HERE}:redness",
      "rewards.redness.scale": 1.0, "eval.preferences": path,
      "eval.judging.side": 4, "eval.judging.frames": 2,
    },
  )  # fmt: skip
  judging.check(config)
  rows = judging.load(config, str(path), "eval.preferences")
  images = rows.images(np.array([0, 1]))
  assert images.shape == (2, 2, 4, 8, 3) and rows.frames == 2
  # The middle frames of two halves.
  want = np.array([[50, 150], [100, 100]]) / 255
  np.testing.assert_allclose(images[0, :, 0, 2::4, 0], want, atol=1e-6)
  fn = reward_setup.bind(config, ("rewards",), 2)["redness"].fn
  shown = []
  scorer = lambda images, prompts: (
    shown.append(images) or {"redness": np.asarray(fn(images, None))}
  )
  views = judging_scores.Views(rows, scorer, 2, 2, 0)
  _, scores = views.mirrored()
  mean = want.mean(1) + 2.5 / 255
  np.testing.assert_allclose(scores["redness"], [mean, mean], atol=1e-6)
  frames = np.split(images, 2, axis=3)
  flipped = np.concatenate([x[:, :, :, ::-1] for x in frames], 3)
  np.testing.assert_array_equal(shown[0], flipped)
  config.eval.preferences = "scenes"
  config.data.grammar = "scenes"
  with pytest.raises(UserError, match="frames=2: config"):
    judging.check(config)


def test_failed_scores_are_wrong_and_counted(labels):
  scores = np.array(labels.gold)
  scores[:, 0] = np.nan
  result = judge.agreement(labels, scores)
  assert result["failed"] == pytest.approx(0.2)
  assert result["accuracy"] == pytest.approx(5 / 9)  # 4 of 9 pairs have it
  assert result["spearman"] == pytest.approx(1)


def test_a_temperature_that_was_fitted_elsewhere_mends_the_calibration():
  generator = np.random.default_rng(2)
  d = generator.normal(size=6000)
  flip = generator.uniform(size=6000) > 1 / (1 + np.exp(-np.abs(d)))
  signed = 5 * np.where(flip, -np.abs(d), np.abs(d))  # five times too sure
  result = judge.calibrated(signed, np.arange(6000))
  assert result["temperature"] == pytest.approx(5, rel=0.1)
  assert result["calibration_error"] > 0.2
  assert result["calibration_error_scaled"] < 0.03


def test_ratings_are_those_known_or_the_share_of_comparisons_won():
  nan = np.nan
  prob = np.array([[[nan, 1, 0.5], [0, nan, nan], [0.5, nan, nan]]] * 2)
  known = np.array([[nan, nan, nan], [3.0, nan, 1.0]])
  expected = [[0.75, 0, 0.5], [3, nan, 1]]
  np.testing.assert_array_equal(judge.ratings(prob, known), expected)


def test_minimal_pairs_of_prompts():
  texts = [
    "A red dog.",
    "a cat",
    "a blue dog",
    "a green dog",
    "the cat",
    "a cat",
  ]
  assert judge.minimal_pairs(texts).tolist() == [[0, 2], [1, 4]]
  assert judge.minimal_pairs(["a dog", "a dog"]).shape == (0, 2)


@pytest.mark.parametrize("kind", corruptions.KINDS)
def test_corruptions_grow_with_their_severity(kind):
  images = np.random.default_rng(0).uniform(size=(3, 16, 16, 3))
  images = images.astype(np.float32)
  steps = corruptions.steps(kind, images, 4, seed=1)
  assert steps.dtype == np.float32
  np.testing.assert_array_equal(steps[:, 0], images)
  distance = ((steps - images[:, None]) ** 2).mean((2, 3, 4))
  assert (np.diff(distance, axis=1) > 0).all()
  assert steps.min() >= 0 and steps.max() <= 1
  again = corruptions.steps(kind, images, 4, seed=1)
  np.testing.assert_array_equal(steps, again)


def test_prompts_in_other_words():
  for prompt in grammar.prompts("heldout")[::7]:
    other = grammar.reword(prompt)
    if other is not None:
      assert other.meaning == prompt.meaning
      assert other.text != prompt.text
  assert grammar.reword(grammar.parse("a red circle and a blue square"))
  assert free.reword(free.parse("a dog")).text == "an image of a dog"
  prompts = [grammar.parse(t) for t in ("a circle and a square", "a cross")]
  numbers = judging.prompt_numbers([*prompts, grammar.reword(prompts[0])])
  assert numbers[0] == numbers[2] != numbers[1]


def test_a_judge_is_held_against_ratings_before_a_run():
  rng = np.random.default_rng(0)
  gold = rng.random((50, 4))
  noise = rng.normal(size=gold.shape) * gold.std()
  fair = gold + noise  # a correlation of .7 about
  found = judge.beside_ratings(gold, fair)
  want = np.corrcoef(gold.ravel(), fair.ravel())[0, 1]
  assert found["pearson"] == pytest.approx(want) and 0.6 < want < 0.78
  assert found["error"] == pytest.approx(np.abs(noise).mean())
  assert "below 0.8" in judge.missed(found, 0.8, None)
  assert judge.missed(found, 0.6, None) == ""
  assert "above 0.1" in judge.missed(found, 0.6, 0.1)
  exact = judge.beside_ratings(gold, gold)
  assert judge.missed(exact, 0.8, 0.25) == ""
  missing = np.where(gold > 0.5, np.nan, gold)  # failed scores do not count
  assert judge.beside_ratings(gold, missing)["error"] == 0
  flat = judge.beside_ratings(gold, 0 * gold)
  assert flat["pearson"] is None
  assert "is none, below" in judge.missed(flat, 0.8, None)


def test_comparisons_won_are_no_ratings(labels):
  """All right in their rows, and with no scale over the rows."""
  scores = labels.gold + 10 * labels.prompt[:, None]
  found = judge.agreement(labels, scores)
  assert found["accuracy"] == 1
  assert found["pearson"] is None and found["error"] is None
  rated = dataclasses.replace(labels, rating=labels.gold)
  found = judge.agreement(rated, labels.gold + 0.1)
  assert (found["pearson"], found["error"]) == pytest.approx((1, 0.1))


def gated(**gate):
  names = {"a": 1.0, "b": 0.0}
  fields = {"rewards.detector": "none"}
  fields |= {f"rewards.{k}.weight": weight for k, weight in names.items()}
  fields |= {f"rewards.{k}.fn": "jpeg_compressibility" for k in names}
  fields |= {f"eval.judging.gate.{k}": value for k, value in gate.items()}
  return tiny.load("base.py", fields)


def test_a_gate_stops_a_run_by_the_rewards_that_count():
  found = {"pearson": 0.7, "error": 0.2}
  none = {"pearson": None, "error": None}
  results = {"rewards": {"a": found, "b": none}}  # b is watched
  judging.require_gate(gated(), results)
  judging.require_gate(gated(pearson=0.6, error=0.25), results)
  with pytest.raises(UserError, match=r"rewards.a: .* is 0.700, below 0.8"):
    judging.require_gate(gated(pearson=0.8), results)
  with pytest.raises(UserError, match=r"rewards.a: .* is 0.200, above 0.1"):
    judging.require_gate(gated(error=0.1), results)


def test_a_gate_beside_comparisons_alone_is_refused(tmp_path):
  for name in "ab":
    Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
  row = {"prompt": "a red circle", "images": ["a.png", "b.png"]}
  path = tmp_path / "rows.jsonl"
  config = gated(pearson=0.8)
  config.eval.preferences = str(path)
  path.write_text(json.dumps(row | {"ratings": [1.0, 0.0]}))
  assert judging.data(config)
  path.write_text(json.dumps(row | {"ranks": [1, 2]}))
  with pytest.raises(UserError, match="comparisons and no ratings"):
    judging.data(config)


def test_a_gate_stands_before_the_policy_learns():
  fields = {"job": "align", "eval.preferences": "scenes"}
  gate = {"eval.judging.gate.pearson": 0.8}
  for jobs in ((), ("align", "evaluate"), ("align",)):
    order = {"job": "pipeline", "jobs": jobs} if jobs else {}
    config = tiny.load("base.py", fields | gate | order)
    with pytest.raises(UserError, match="nothing is evaluated before align"):
      checks.check(config)
  order = {"job": "pipeline", "jobs": ("evaluate", "align")}
  checks.check(tiny.load("base.py", fields | gate | order))
