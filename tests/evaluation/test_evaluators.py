"""Evaluators: what they are given, what becomes of their results."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.evaluation import accuracy, evaluators
from jaxreward.evaluation.evaluators import Evaluators

P, G = 4, 3
MASK = np.ones((P, G), bool)
STRICT = np.array([[1, 0, 1], [0, 0, 1]] * 2, np.float32)
HOST = dict(
  mask=MASK, measures={"strict": STRICT, "texture": STRICT / 10},
  scores={"a": np.where(STRICT, 2.0, np.nan)}, applicable={"a": MASK},
  category=np.array([[0] * G, [3] * G] * 2), categories={0: "one", 3: "many"},
  meaning=np.array([["x"] * G, ["y"] * G] * 2),
)  # fmt: skip
DEFAULT = ("measures", "accuracy", "rewards")


def made(*names, **own):
  known = {name: evaluators.REGISTRY[name] for name in names}
  return Evaluators(known | own)


def test_those_that_read_what_is_drawn_run_where_it_is_drawn():
  where = {n: evaluators.on_host(fn) for n, fn in evaluators.REGISTRY.items()}
  assert {n for n, host in where.items() if host} == {"accuracy", "rewards"}
  assert evaluators.on_host(lambda images, scores: {})
  marked = evaluators.declare(is_host=True)(lambda images: {})
  assert evaluators.on_host(marked)


def test_results_are_those_of_the_parts():
  run = made(*DEFAULT)
  drawn = run.drawn(
    mask=MASK, measures={k: jnp.asarray(v) for k, v in HOST["measures"].items()}
  )
  results = run.finish(drawn, **HOST)
  merged = run.merged(results)
  expected = accuracy.summarise(
    STRICT.reshape(-1), np.tile(np.repeat([0, 3], G), 2), names=HOST["categories"],
    clusters=np.tile(np.repeat(["x", "y"], G), 2),
  )  # fmt: skip
  assert {k: merged[k] for k in expected} == expected
  assert list(merged)[:3] == ["strict", "mean_over_kinds", "n"]
  assert merged["texture"] == pytest.approx(0.05)
  assert merged["rewards"] == {"a": 2.0}
  assert run.row(results) == {
    "accuracy": 0.5, "accuracy/one": pytest.approx(2 / 3),
    "accuracy/many": pytest.approx(1 / 3), "reward/a": 2.0,
    "texture": pytest.approx(0.05),
  }  # fmt: skip


def test_what_nobody_judged_has_no_accuracy_and_failures_no_mean():
  given = HOST | {"measures": {}, "scores": {"a": np.full((P, G), np.nan)}}
  run = made(*DEFAULT)
  results = run.finish(run.drawn(mask=MASK, measures={}), **given)
  assert run.merged(results) == {"rewards": {"a": None}}
  assert run.row(results) == {}


def test_arrays_are_averaged_over_what_is_finite():
  values = np.array([[1.0, np.nan, 3.0], [4.0, 4.0, 4.0]] * 2)
  own = lambda scores, *, by=1.0: {"x": by * values, "n": 3, "text": "seen"}
  run = made(own=functools.update_wrapper(functools.partial(own, by=2.0), own))
  results = run.finish({}, **HOST)
  assert results["own"] == {"x": pytest.approx(6.4), "n": 3, "text": "seen"}
  assert run.row(results) == {"x": pytest.approx(6.4), "n": 3.0}


@pytest.mark.parametrize(
  ("fn", "said"),
  [
    (lambda scores: 3.0, "returned float"),
    (lambda scores: {"x": np.zeros(P * G)}, r"\"x\" has the shape \(12,\)"),
    (lambda scores: {"x": scores["b"]}, r"test_evaluators\.py:\d+: KeyError"),
  ],
)
def test_mistakes_of_ones_own_are_one_line(fn, said):
  with pytest.raises(
    UserError, match=rf"^config\.eval\.evaluators\.own.*{said}"
  ):
    made(own=fn).finish({}, **HOST)


def test_two_that_give_one_number_are_refused():
  run = made("rewards", own=lambda scores: {"rewards": 1.0})
  with pytest.raises(
    UserError, match=r'own: another evaluator gives "rewards"'
  ):
    run.merged(run.finish({}, **HOST))


def test_a_name_that_nobody_offers_is_told_with_those_there_are():
  with pytest.raises(
    UserError, match=r'"imags".*did you mean "images".*pixels'
  ):
    evaluators.require(lambda imags: {}, "eval.evaluators.own.fn")
