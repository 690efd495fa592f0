"""Text and pictures to pictures as diffusers' Qwen-Image pipelines draw them.

From the same first noise, with guidance, the published sampling times and a
negative prompt, through the job's own readers of weights, words and pictures.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxreward.models.policies import qwen_image
from jaxreward.models.text import qwen_layouts, qwen_prompts
from jaxreward.models.vision import qwen_images, qwen_vision_layouts
from jaxreward.types import PromptEmbeddings

pytestmark = pytest.mark.parity
TOLERANCE = 1e-4  # of the largest latent, and of a picture's range


@pytest.fixture(scope="module")
def whole():
  pytest.importorskip("torch")
  pytest.importorskip("diffusers")
  from tests.models import whole_qwen

  return whole_qwen


@pytest.fixture(scope="module")
def plain(whole, tmp_path_factory):
  return whole.build(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def still(whole, tmp_path_factory):
  """Whose pictures are at time zero."""
  return whole.build(tmp_path_factory.mktemp("still"), "tiny_2511")


def near(whole, got, want):
  whole.peers.assert_near(got[0], want[0], TOLERANCE)
  np.testing.assert_allclose(got[1], want[1], atol=TOLERANCE)


def with_negative(whole, both, made, source=None):
  """Prompts that guidance leads away from other words than none."""
  config, policy, _, decoder = made
  batch = whole.prompts_of([whole.NEGATIVE] * len(both.prompts["mask"]), source)
  negative = dict(whole.encoded(config, policy, decoder, batch).prompts)
  negative.pop("picture", None)
  return dataclasses.replace(both, empty=negative)


@pytest.mark.turns(3)
def test_words_become_pictures(whole, plain, monkeypatch):
  made = config, policy, params, decoder = whole.job(
    plain, "qwen_image", **{"text_encoder.name": "qwen_image"}
  )
  start = whole.noise(2)
  pipe = whole.pipeline(plain, "QwenImagePipeline", monkeypatch)
  both = whole.encoded(config, policy, decoder, whole.prompts_of(whole.PROMPTS))
  for negative, given in (
    (" ", both),
    (whole.NEGATIVE, with_negative(whole, both, made)),
  ):
    want = whole.theirs(
      pipe, start, prompt=list(whole.PROMPTS), negative_prompt=[negative] * 2
    )
    got = whole.ours(*made, given, start, monkeypatch)
    near(whole, got, want)
  # Plain guidance and no rescaling would be seen.
  other = dataclasses.replace(policy, guide=None)
  far, _ = whole.ours(config, other, params, decoder, given, start, monkeypatch)
  assert np.abs(far - want[0]).max() > 0.02 * np.abs(want[0]).max()


def test_a_picture_is_edited(whole, plain, monkeypatch):
  made = config, policy, _, decoder = whole.job(
    plain, "qwen_image_edit",
    **{"text_encoder.name": "qwen_image_edit", "text_encoder.area": whole.AREA},
  )  # fmt: skip
  shown, start = whole.picture(0), whole.noise(1)
  source = shown / np.float32(255)
  batch = whole.prompts_of(whole.PROMPTS[:1], source)
  both = whole.encoded(config, policy, decoder, batch)
  pipe = whole.pipeline(plain, "QwenImageEditPipeline", monkeypatch)
  for negative, given in (
    (" ", both),
    (whole.NEGATIVE, with_negative(whole, both, made, source)),
  ):
    want = whole.theirs(
      pipe, start, image=Image.fromarray(shown), prompt=whole.PROMPTS[0],
      negative_prompt=negative,
    )  # fmt: skip
    near(whole, whole.ours(*made, given, start, monkeypatch), want)


@pytest.mark.turns(2)
@pytest.mark.parametrize(
  ("name", "recipe"),
  [("plain", "qwen_image_edit_2509"), ("still", "qwen_image_edit_2511")],
)
def test_a_picture_is_edited_by_the_plus_form(
  whole, request, name, recipe, monkeypatch
):
  parts = request.getfixturevalue(name)
  made = config, policy, _, decoder = whole.job(
    parts, recipe,
    **{
      "text_encoder.name": "qwen_image_edit_plus",
      "text_encoder.area": whole.AREA,
    },
  )  # fmt: skip
  shown, start = whole.picture(1), whole.noise(1)
  source = shown / np.float32(255)
  batch = whole.prompts_of(whole.PROMPTS[:1], source)
  both = whole.encoded(config, policy, decoder, batch)
  pipe = whole.pipeline(parts, "QwenImageEditPlusPipeline", monkeypatch)
  want = whole.theirs(
    pipe, start, image=Image.fromarray(shown), prompt=whole.PROMPTS[0],
    negative_prompt=" ",
  )  # fmt: skip
  near(whole, whole.ours(*made, both, start, monkeypatch), want)


def test_several_pictures_are_edited_by_the_plus_form(
  whole, still, monkeypatch
):
  """Of other shapes, which the models take and no prompt of a job names."""
  made = _, policy, _, decoder = whole.job(
    still,
    "qwen_image_edit_2511",
    **{"text_encoder.name": "qwen_image_edit_plus"},
  )
  shown = [whole.picture(2, 48, 24), whole.picture(3, 32, 60)]
  start, area = whole.noise(1), 4 * whole.AREA
  place = still.folder / "text_encoder"
  (language, text), (vision, tower) = (
    qwen_layouts.load(place),
    qwen_vision_layouts.load(place),
  )
  prepared = qwen_images.processor_of(
    {"size": whole.LIMITS, "patch_size": 4}, vision, area
  )
  rows = [pixels[None] / np.float32(255) for pixels in shown]
  seen = [prepared(row) for row in rows]
  counts = [math.prod(vision.grid(*x.shape[1:3])) for x in seen]

  @jax.jit
  def read(ids, mask):
    words, kept = qwen_prompts.encode_edit(
      language, vision, {"text": text, "vision": tower}, ids, mask, seen,
      starts=starts,
    )  # fmt: skip
    return {"words": words, "mask": kept}

  found = []
  for said in (whole.PROMPTS[0], qwen_prompts.EMPTY):
    ids, mask, starts = qwen_prompts.tokenize_edit(
      still.tokenizer, [said], 200, counts, language.pad, numbered=True
    )
    found.append(read(ids, mask))
  sizes = [prepared.sizes(*x.shape[:2])[0] for x in shown]
  assert sizes == [(96, 32), (32, 96)]
  resized = [
    np.asarray(Image.fromarray(x).resize((w, h), Image.Resampling.LANCZOS))
    for x, (h, w) in zip(shown, sizes, strict=True)
  ]
  latents = jax.jit(
    lambda decoder: tuple(
      policy.to_latents(jnp.asarray(x[None] / np.float32(255)), decoder)
      for x in resized
    )
  )(decoder)
  both = PromptEmbeddings(found[0] | {"picture": latents}, found[1])
  pipe = whole.pipeline(still, "QwenImageEditPlusPipeline", monkeypatch, area)
  want = whole.theirs(
    pipe, start, image=[Image.fromarray(x) for x in shown],
    prompt=whole.PROMPTS[0], negative_prompt=" ",
  )  # fmt: skip
  near(whole, whole.ours(*made, both, start, monkeypatch), want)


def test_the_templates_are_the_pipelines(whole, plain, monkeypatch):
  for kind, template, cut in (
    ("QwenImagePipeline", "TEMPLATE", "TEMPLATE_TOKENS"),
    ("QwenImageEditPipeline", "EDIT_TEMPLATE", "EDIT_TEMPLATE_TOKENS"),
    ("QwenImageEditPlusPipeline", "PLUS_TEMPLATE", "EDIT_TEMPLATE_TOKENS"),
  ):
    pipe = whole.pipeline(plain, kind, monkeypatch)
    assert pipe.prompt_template_encode == getattr(qwen_prompts, template)
    assert pipe.prompt_template_encode_start_idx == getattr(qwen_prompts, cut)
  assert qwen_image.make_net("tiny_2511").zero_cond_t
