"""A vision-language judge as a backbone: its question, its state, its room."""

import re

import jax
import numpy as np
import pytest

from jaxreward import rewards
from jaxreward.errors import UserError
from jaxreward.models.vlm import qwen_vl, small_judge, words
from jaxreward.reward_models import BACKBONES
from jaxreward.rewards.remote import templates
from jaxreward.rewards.remote.rewards import YES
from jaxreward.tasks.scenes import grammar

YES_NO = templates.YES_NO.replace("{image}", "").replace(
  "{answer}", YES.request(True)
)


@pytest.mark.job
def test_a_shipped_judge_is_a_backbone_that_is_asked_its_question():
  """Its last state gives the answer that the judge as a reward gives."""
  backbone = BACKBONES["qwen_vl"](
    weights="package:judge", image=36, length=64, question=YES_NO
  )
  texts = ["a red circle", "two blue squares"]
  images = np.random.default_rng(0).random((2, 3, 36, 36, 3), np.float32)
  params = backbone.pretrained()
  joint = jax.jit(backbone.features)(params, images, backbone.read(texts))
  folder = small_judge.resolve("package:judge")
  model, weights = qwen_vl.load(folder)
  head = weights["text"]["token"].T if model.language.tied else None
  head = weights["head"]["kernel"] if head is None else head
  tokens = words.pretrained(folder)
  ids = [tokens(x)["input_ids"] for x in ("yes", "Yes", "no", "No")]
  logits = joint["joint"] @ head
  yes, no = (
    jax.nn.logsumexp(logits[..., np.unique(ids[i : i + 2])], -1) for i in (0, 2)
  )
  loaded = rewards.REGISTRY["vlm_pointwise"].loads(
    weights="package:judge", length=64
  )
  batch = grammar.batch(grammar.prompts("train")[:2])
  scores = rewards.REGISTRY["vlm_pointwise"](
    images, batch, **loaded.static, **loaded.arrays, **loaded.prepare(texts)
  )
  np.testing.assert_allclose(
    jax.nn.sigmoid(yes - no), scores["judge"], atol=1e-5
  )


@pytest.mark.parametrize(
  ("options", "says"),
  [
    (
      dict(question="is it good?"),
      'question="is it good?": write {prompt} in it, once',
    ),
    (dict(question="{prompt} or {prompt}"), "write {prompt} in it, once"),
    (dict(question=YES_NO, length=20), "length=20: the template alone has"),
    (dict(weights="package:nobody"), "no such judge ships"),
  ],
)
def test_a_question_without_its_prompt_or_room_is_refused(options, says):
  with pytest.raises(UserError, match=re.escape(says)):
    BACKBONES["qwen_vl"](**dict(size="tiny") | options)


def test_a_long_prompt_leaves_the_question_whole():
  """Tokens of the prompt are cut, and none of what is asked."""
  text = "is this {prompt}? yes or no"
  make = lambda length: BACKBONES["qwen_vl"](
    size="tiny", length=length, question=text
  )
  rest, end = len(text) - len("{prompt}"), 1
  ids = make(rest + end + 5).read(["abcdefgh", "abc"])
  as_text = lambda row: "".join(chr(i - 1) for i in row[row >= 0][:-1])
  assert as_text(ids[0]) == text.format(prompt="abcde")
  assert as_text(ids[1]) == text.format(prompt="abc")
