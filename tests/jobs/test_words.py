"""Prompts as a policy takes them: encoded once, checked, or left alone."""

import dataclasses
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxreward import jobs
from jaxreward.data import texts
from jaxreward.errors import UserError
from jaxreward.flow import guidance
from jaxreward.jobs import align
from jaxreward.models.policies import sd3
from jaxreward.setup import prompt_encoding
from jaxreward.tasks.scenes import grammar
from tests import tiny

SPEC = "align_public.py:tiny"
ROOT = pathlib.Path(__file__).resolve().parents[2]
PROMPTS = grammar.prompts("train")[:3]


@pytest.fixture(scope="module")
def policy():
  return sd3.make_policy(
    size="tiny", latent_side=4, words=5, remat="none", dtype="float32"
  )


def encoder_of(calls, shapes=None, rows=0):
  """A text encoder that notes what it is asked."""

  def make(given, mesh):
    def encode(said):
      calls.append(list(said))
      return jax.tree.map(
        lambda s: np.stack(
          [np.full(s.shape[1:], len(text), s.dtype) for text in said]
          + [np.zeros(s.shape[1:], s.dtype)] * rows
        ),
        given if shapes is None else shapes,
      )

    return encode

  return make


def test_a_policy_of_word_ids_gets_them_as_they_are():
  config = tiny.load("align_scenes.py:smoke")
  batch = grammar.batch(PROMPTS)
  encode = prompt_encoding.make_encode(config, tiny.small_policy())
  assert encode(batch) is batch and batch.words is batch.tokens


def test_each_text_is_encoded_once(policy, monkeypatch):
  calls = []
  monkeypatch.setitem(prompt_encoding.REGISTRY, "noise", encoder_of(calls))
  encode = prompt_encoding.make_encode(tiny.load(SPEC), policy)
  batch = grammar.batch([*PROMPTS, PROMPTS[0]], 5)
  found = encode(batch).embedded
  again = encode(grammar.batch([PROMPTS[1]])).embedded
  assert calls == [[""], [p.text for p in PROMPTS]]
  lengths = [len(text) for text in texts.decode(batch.text)]
  assert found.prompts["pooled"].shape == (5, 20)
  np.testing.assert_array_equal(found.prompts["pooled"][:, 0], lengths)
  assert again.prompts["words"][0, 0, 0] == len(PROMPTS[1].text)
  assert found.empty["words"].shape == (1, 5, 24)


def test_guidance_leads_away_from_the_negative_prompt(policy, monkeypatch):
  calls = []
  monkeypatch.setitem(prompt_encoding.REGISTRY, "noise", encoder_of(calls))
  config = tiny.load(
    SPEC, {"data.negative_prompt": "blurry", "sample.guidance_scale": 2.0}
  )
  prompt_encoding.bind(config, policy)
  found = prompt_encoding.make_encode(config, policy)(
    grammar.batch(PROMPTS[:1])
  )
  assert calls == [["blurry"], [PROMPTS[0].text]]
  assert found.embedded.empty["words"][0, 0, 0] == len("blurry")


def test_what_is_kept_is_bounded_in_bytes(policy, monkeypatch):
  calls = []
  monkeypatch.setitem(prompt_encoding.REGISTRY, "noise", encoder_of(calls))
  size = sum(4 * s.size for s in jax.tree.leaves(policy.prompts))
  monkeypatch.setattr(prompt_encoding, "KEPT", 2 * size)
  encode = prompt_encoding.make_encode(tiny.load(SPEC), policy)
  a, b, _ = PROMPTS
  for prompt in (a, b, b, a, b):  # the empty text leaves first, then none
    encode(grammar.batch([prompt]))
  assert calls == [[""], [a.text], [b.text]]
  encode(grammar.batch(PROMPTS))  # an iteration's own are kept, all three
  encode(grammar.batch(PROMPTS))
  assert calls[3:] == [[PROMPTS[2].text]]


def test_noise_is_the_texts_own(policy):
  encode = prompt_encoding.noise_encoder(policy.prompts)
  a, b = encode(["a", "b"]), encode(["b"])
  np.testing.assert_array_equal(a["words"][1], b["words"][0])
  assert not np.array_equal(a["words"][0], a["words"][1])


@pytest.mark.job
@pytest.mark.turns(3)
def test_guidance_leads_away_from_the_empty_prompt(policy):
  encode = prompt_encoding.make_encode(tiny.load(SPEC), policy)
  batch = encode(grammar.batch(PROMPTS))
  params = jax.jit(policy.init)(jax.random.key(0))
  cond, none = guidance.conditioning(policy, params, batch.words, 1.0)
  again, empty = guidance.conditioning(policy, params, batch.words, 3.0)
  assert none is None
  np.testing.assert_array_equal(cond["words"], again["words"])
  want = policy.encode(params, batch.embedded.empty)
  np.testing.assert_array_equal(empty["words"], want["words"])


def test_shapes_alone_are_enough_to_compile(policy):
  batch = grammar.batch(PROMPTS)
  abstract = prompt_encoding.abstract(batch, policy)
  real = prompt_encoding.make_encode(tiny.load(SPEC), policy)(batch)
  shape = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shape(abstract.embedded) == shape(real.embedded)


def test_outputs_of_another_shape_are_refused(policy, monkeypatch):
  wrong = policy.prompts | {"pooled": jax.ShapeDtypeStruct((1, 7), np.float32)}
  monkeypatch.setitem(prompt_encoding.REGISTRY, "noise", encoder_of([], wrong))
  with pytest.raises(UserError, match=r"'pooled': \(7,\).*'pooled': \(20,\)"):
    prompt_encoding.make_encode(tiny.load(SPEC), policy)
  monkeypatch.setitem(prompt_encoding.REGISTRY, "noise", encoder_of([], rows=1))
  with pytest.raises(ValueError, match="1 texts were encoded into"):
    prompt_encoding.make_encode(tiny.load(SPEC), policy)


@pytest.mark.parametrize(
  ("spec", "changes", "said"),
  [
    (SPEC, {"text_encoder.name": "none"}, "takes outputs of text encoders"),
    (SPEC, {"text_encoder.name": "nois"}, r'did you mean "noise"'),
    (
      "align_scenes.py:smoke",
      {"text_encoder.name": "noise"},
      "has its own text embeddings",
    ),
    (
      "align_scenes.py:smoke",
      {"data.grammar": "free"},
      "knows only the words of the scenes",
    ),
    (SPEC, {"data.grammar": "any"}, "scenes, edits, free"),
    (SPEC, {"autoencoder.size": "flux"}, "latents of 16 channels"),
    (SPEC, {"autoencoder.name": "vae"}, "autoencoder.name"),
  ],
)
def test_what_does_not_go_together_is_refused(spec, changes, said):
  with pytest.raises(UserError, match=said):
    config = tiny.load(spec, changes)
    from jaxreward.setup import checks

    checks.check(config)
    align.check(config)


def test_the_detector_judges_no_free_prompts():
  config = tiny.load(SPEC, {"data.grammar": "free"})
  with config.unlocked():
    config.rewards = dict(mine=dict(fn="detector", weight=1.0))
  with pytest.raises(UserError, match=r"config\.rewards\.mine: the detector"):
    align.check(config)


def test_rewards_do_not_see_what_text_encoders_made(policy):
  batch = prompt_encoding.make_encode(tiny.load(SPEC), policy)(
    grammar.batch(PROMPTS)
  )
  assert batch.plain.embedded is None
  assert {x.shape[0] for x in jax.tree.leaves(batch.plain)} == {3}
  assert dataclasses.replace(batch.plain, embedded=batch.embedded) is not batch


@pytest.mark.job
@pytest.mark.turns(3)
def test_what_is_checked_starts_no_device():
  """Processes join after the checks, and before any device is there."""
  code = """
from jax._src import xla_bridge
from jaxreward import config, jobs
for spec in ("sd35_medium", "flux_dev", "qwen_image"):
  found = config.load(f"configs/align_public.py:{spec},tiny")
  jobs.check("align", found)
assert not xla_bridge._backends, xla_bridge._backends
"""
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
  ("job", "spec", "changes", "said"),
  [
    ("pretrain", SPEC, {}, 'pretrain takes "scene_dit"'),
    (
      "train_reward",
      "train_reward_scenes.py:smoke",
      {"data.grammar": "free"},
      "knows only the words of the scenes",
    ),
    ("align", SPEC, {"rewards.jpeg.weights": "a.safetensors"}, "reads none"),
  ],
)
def test_jobs_refuse_what_they_cannot_run(job, spec, changes, said):
  with pytest.raises(UserError, match=said):
    jobs.check(job, tiny.load(spec, changes))
