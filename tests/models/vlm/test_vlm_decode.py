"""Answers drawn and scored from one reading of the prompt."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from jaxreward.errors import UserError
from jaxreward.models.text.qwen import Qwen
from jaxreward.models.vision.qwen_vision import Vision
from jaxreward.models.vlm import decode, prompts, qwen_vl
from jaxreward.training import sharding
from tests import tiny

pytestmark = [pytest.mark.job, pytest.mark.turns(3, 1)]

MODEL = qwen_vl.Model(
  Qwen(24, 2, 4, 2, 20, 64, sections=(1, 1, 2), pad=60, head=8, qwen3=True),
  Vision(
    16, 1, 2, 8, 24, 4, window=0, full=(), model="qwen3_vl", table=3, deep=(0,)
  ),
  video=61,
)
STOP = 9
CHOICES = np.array([[5, 6, STOP], [5, STOP, STOP], [7, STOP, STOP]])
ROWS = [[1, 2, 60, 3], [4, 60, 5, 6, 7, 8]]
ANSWERS = np.array([[[3, 4, 5], [6, 7, 8]], [[11, 12, 13], [3, 3, 3]]])
MANY = 3000
# The first token of each answer, padded.
MORE = ANSWERS * (np.arange(3) < 1), np.arange(3) < np.ones((2, 2, 1))


def big(key):
  params = qwen_vl.init(key, MODEL)
  return jax.tree.map(lambda x: 6 * x if x.ndim > 1 else x, params)


@pytest.fixture(scope="module")
def run():
  """Everything below, in one program."""
  params = big(jax.random.key(0))
  frames = np.random.default_rng(0).standard_normal((2, 1, 16, 8, 3))
  shown = [[prompts.Shown(x)] for x in frames]
  packed = prompts.pack(MODEL, ROWS, shown, length=16)
  whole = prompts.pack(
    MODEL,
    [[*row, *answer] for row, two in zip(ROWS, ANSWERS, strict=True)
     for answer in two.tolist()],
    [one for one in shown for _ in range(2)],
    length=16,
  )  # fmt: skip

  def everything(params):
    prefix = decode.prefill(MODEL, params, packed)
    draw = lambda key, **options: decode.generate(
      MODEL, params, prefix, jax.random.key(key), np.arange(2),
      **{"stops": (STOP,), "length": 4} | options,
    )  # fmt: skip
    hidden = qwen_vl.states(MODEL, params, whole)
    warm = draw(1, samples=5, temperature=1.0, stops=(STOP, 10))
    longer = decode.extended(MODEL, params, prefix, *MORE)
    until = tuple(warm.tokens[0, 0, 1:3])  # traced: as any other ids
    ended = draw(1, samples=5, temperature=1.0, stops=(STOP, 10), until=until)
    return {
      "longer": longer.logits,
      "onward": decode.log_probs(
        MODEL, params, longer, jnp.asarray(ANSWERS).reshape(4, 1, 3)[..., 1:]
      ),
      "ended": ended,
      "followed": decode.followed(ended, (STOP, 10), until, (50, 51)),
      "prefix": prefix.logits,
      "given": decode.log_probs(MODEL, params, prefix, ANSWERS),
      "whole": jax.nn.log_softmax(qwen_vl.logits(params, hidden)),
      "greedy": draw(0),
      "narrow": draw(1, samples=5, temperature=1.0, top_p=1e-6),
      "warm": warm,
      "again": draw(1, samples=2, temperature=1.0, stops=(STOP, 10)),
      "scored": decode.log_probs(MODEL, params, prefix, warm.tokens),
      "chosen": draw(2, samples=MANY, length=3, temperature=2.0, choices=CHOICES),
      "likely": draw(3, samples=MANY, length=1, temperature=1.0, top_p=0.5),
    }  # fmt: skip

  return jax.tree.map(np.asarray, jax.jit(everything)(params))


def test_given_answers_score_as_in_a_row_of_their_own(run):
  whole = run["whole"].reshape(2, 2, 16, -1)
  for b, row in enumerate(ROWS):
    size = len(row) + 1  # two tokens of the image for one placeholder
    for g, answer in enumerate(ANSWERS[b]):
      expected = whole[b, g, np.arange(size - 1, size + 2), answer]
      np.testing.assert_allclose(run["given"][b, g], expected, atol=2e-5)


def test_a_sample_has_its_own_draw_however_many_there_are(run):
  warm, again = run["warm"], run["again"]
  assert len(np.unique(warm.tokens.reshape(-1, 4), axis=0)) > 5
  np.testing.assert_array_equal(warm.tokens[:, :2], again.tokens)
  gap = np.where(warm.mask, warm.log_probs - run["scored"], 0)
  np.testing.assert_allclose(gap, 0, atol=2e-5)
  assert not warm.log_probs[~warm.mask].any()
  ended = np.isin(warm.tokens, (STOP, 10)).cumsum(-1)
  before = np.concatenate([0 * ended[..., :1], ended[..., :-1]], -1)
  np.testing.assert_array_equal(warm.mask, before == 0)


def test_words_after_a_prompt_are_as_in_a_row_of_their_own(run):
  whole = run["whole"].reshape(2, 2, 16, -1)
  onward = run["onward"].reshape(2, 2, 2)
  longer = jax.nn.log_softmax(run["longer"]).reshape(2, 2, -1)
  for b, row in enumerate(ROWS):
    size = len(row) + 1
    for g, answer in enumerate(ANSWERS[b]):
      np.testing.assert_allclose(longer[b, g], whole[b, g, size], atol=2e-5)
      expected = whole[b, g, [size, size + 1], answer[1:]]
      np.testing.assert_allclose(onward[b, g], expected, atol=2e-5)


def test_an_answer_ends_with_words_and_goes_on_with_others(run):
  warm, ended = run["warm"], run["ended"]
  end = warm.tokens[0, 0, 1:3].tolist()
  tokens, mask, *_ = run["followed"]
  for b, g in np.ndindex(2, 5):
    said = warm.tokens[b, g][warm.mask[b, g]].tolist()
    at = [i for i in range(len(said) - 1) if said[i : i + 2] == end]
    size = at[0] + 2 if at else len(said)
    assert ended.tokens[b, g][ended.mask[b, g]].tolist() == said[:size]
    kept = said[: size - 2] if at else [x for x in said if x not in (STOP, 10)]
    assert tokens[b, g][mask[b, g]].tolist() == [*kept, 50, 51]
  assert ended.mask[0, 0].tolist() == [True, True, True, False]


def test_a_mesh_draws_alike_and_cuts_what_is_kept_by_heads(run):
  """One program for two lengths of a bucket."""
  mesh = tiny.mesh_of(4, 1, 2, 2)
  shapes = jax.eval_shape(lambda k: qwen_vl.init(k, MODEL), jax.random.key(0))
  specs = sharding.param_specs(shapes, qwen_vl.SHARDING_RULES, mesh)
  places = jax.tree.map(lambda s: NamedSharding(mesh, s), specs)
  params = jax.jit(big, out_shardings=places)(jax.random.key(0))
  frames = np.random.default_rng(0).standard_normal((2, 1, 16, 8, 3))
  shown = [[prompts.Shown(x)] for x in frames]

  @jax.jit
  def draw(params, packed):
    prefix = decode.prefill(MODEL, params, packed)
    answers = decode.generate(
      MODEL, params, prefix, jax.random.key(1), np.arange(2), length=4,
      samples=2, temperature=1.0, stops=(STOP, 10),
    )  # fmt: skip
    return answers, prefix.cache

  with jax.set_mesh(mesh):
    answers, cache = draw(params, prompts.pack(MODEL, ROWS, shown))
    longer = [[*row, 3, 3] for row in ROWS]
    draw(params, prompts.pack(MODEL, longer, shown))
  np.testing.assert_array_equal(answers.tokens, run["warm"].tokens[:, :2])
  for kept in cache:  # [layers, B, P, groups, head]
    assert kept.sharding.shard_shape(kept.shape) == (2, 1, 64, 1, 8)
  assert draw._cache_size() == 1


def test_buckets_hold_what_is_asked_for_and_are_few():
  sizes = [prompts.bucket(n) for n in range(1, 1000)]
  assert all(size >= n for n, size in enumerate(sizes, 1))
  assert sorted(set(sizes)) == [64, 96, 128, 192, 256, 384, 512, 768, 1024]


def test_the_least_nucleus_is_the_most_probable_token(run):
  for g in range(5):
    np.testing.assert_array_equal(
      run["narrow"].tokens[:, g], run["greedy"].tokens[:, 0]
    )
  np.testing.assert_array_equal(
    run["greedy"].tokens[:, 0, 0], run["prefix"].argmax(-1)
  )


def frequencies(tokens, ids):
  return np.array([[(row == i).mean() for i in ids] for row in tokens])


def test_draws_follow_the_nucleus_and_the_choices(run):
  def expected(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)

  chances = expected(run["prefix"].astype(np.float64))
  for row, tokens in zip(chances, run["likely"].tokens, strict=True):
    order = np.argsort(-row)
    kept = order[: np.searchsorted(row[order].cumsum(), 0.5) + 1]
    assert set(np.unique(tokens)) <= set(kept)
    want = row[kept] / row[kept].sum()
    got = frequencies(tokens[None], kept)[0]
    assert np.abs(got - want).max() < 5 * np.sqrt(0.25 / MANY)
  want = expected(run["prefix"][:, [5, 7]].astype(np.float64) / 2)
  tokens = run["chosen"].tokens
  got = frequencies(tokens[:, :, 0], [5, 7])
  assert np.abs(got - want).max() < 5 * np.sqrt(0.25 / MANY)
  drawn = {tuple(x) for x in tokens.reshape(-1, 3).tolist()}
  assert drawn == {tuple(x) for x in CHOICES.tolist()}


@pytest.mark.parametrize(
  "options, says",
  [
    (dict(stops=()), "stops=()"),
    (dict(length=0), "length=0"),
    (dict(temperature=-1.0), "temperature=-1.0"),
    (dict(top_p=0.0), "top_p=0.0"),
    (dict(length=2, choices=CHOICES), "longest choice has 3 tokens"),
  ],
)
def test_an_option_out_of_range_is_refused(options, says):
  given = dict(length=3, stops=(STOP,)) | options
  cache = (jnp.zeros((2, 1, 3, 2, 8)),) * 2
  mask, place = jnp.ones((1, 3), bool), jnp.full(1, 3)
  prefix = decode.Prefix(cache, mask, place, jnp.zeros((1, 64)))
  with pytest.raises(UserError, match=re.escape(says)):
    decode.generate(MODEL, {}, prefix, jax.random.key(0), np.arange(1), **given)
