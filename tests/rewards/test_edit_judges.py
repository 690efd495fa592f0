"""EditScore beside whole rows of the model, in float64."""

import jax
import numpy as np
import pytest

from jaxreward import rewards
from jaxreward.errors import UserError
from jaxreward.models.vlm import prompts, qwen_vl, tiny
from jaxreward.rewards import edit_judges, vision_language
from jaxreward.rewards.remote import templates
from jaxreward.types import PromptBatch

MOST, LENGTH = 2, 1100
TEXTS = ["make it red", "remove the hat"]
SHOWN = vision_language.PICTURE


def softmax(x):
  y = np.exp(np.asarray(x, np.float64) - np.max(x))
  return y / y.sum()


@pytest.fixture(scope="module")
def case():
  """(scores by average, log-probabilities of answers, sources, images)."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: (
    np.rint(255 * rng.random(shape)).astype(np.float32) / 255
  )
  sources, images = draw(2, 32, 32, 3), draw(2, 2, 32, 32, 3)
  images[0, 1, 3, 4, 1] = np.nan
  batch = PromptBatch(
    np.arange(2, dtype=np.uint32), np.zeros(2, np.int32), np.ones(2, bool),
    source=sources,
  )  # fmt: skip
  reward = rewards.REGISTRY["edit_score"]
  loaded = {
    average: reward.loads(
      weights="tiny", length=LENGTH, high=MOST, average=average
    )
    for average in edit_judges.AVERAGES
  }
  params = loaded["last"].arrays["params"]
  params = jax.tree.map(lambda x: 6 * x if x.ndim > 1 else x, params)

  @jax.jit
  def run(params):
    return {
      average: reward(
        images, batch, params=params, **x.static, **x.prepare(TEXTS)
      )["edit_score"]
      for average, x in loaded.items()
    }

  net = jax.jit(lambda packed: jax.nn.log_softmax(
    qwen_vl.logits(params, qwen_vl.states(tiny.MODEL, params, packed))
  ))  # fmt: skip
  mean = np.array([0.48145466, 0.4578275, 0.40821073])
  std = np.array([0.26862954, 0.26130258, 0.27577711])

  def read(name, text, shown, said, answers):
    asked = templates.NAMED[name]
    fields = dict(prompt=text, high=MOST, source=SHOWN, image=SHOWN)
    for field, value in fields.items():
      asked = asked.replace(f"{{{field}}}", str(value))
    begun = tiny.tokens(prompts.chat(asked, 0, answer=said))["input_ids"]
    ends = [tiny.tokens(x)["input_ids"] for x in answers]
    frames = [[prompts.Shown(((x - mean) / std)[None]) for x in shown]]
    rows = [[*begun, *end] for end in ends]
    packed = prompts.pack(
      tiny.MODEL, rows, frames * len(rows), length=LENGTH + 80
    )
    table, sums = np.asarray(net(packed), np.float64), []
    for row, end, size in zip(table, ends, packed.mask.sum(1), strict=True):
      places = np.arange(size - len(end) - 1, size - 1)
      sums.append(row[places, end].sum())
    return softmax(sums)

  return jax.tree.map(np.asarray, run(params)), read, sources, images


@pytest.mark.turns(2)
def test_it_is_the_expected_root_of_both_minima(case):
  scores, read, sources, images = case
  numbers = np.arange(MOST + 1)
  least = np.minimum.outer(numbers, numbers) / MOST
  parts = []
  for name, shown in (
    ("edit_score", [sources[1], images[1, 1]]),
    ("edit_score_quality", [images[1, 1]]),
  ):
    begun = '{"score" : ['
    p = read(name, TEXTS[1], shown, begun, [f"{n}," for n in numbers])
    begun += f"{p.argmax()},"
    q = read(name, TEXTS[1], shown, begun, [f" {n}]" for n in numbers])
    joint = np.outer(p, q)
    parts.append(((joint * least**0.5).sum(), (joint * least).sum()))
  (s, mean_s), (q, mean_q) = parts
  assert scores["last"][1, 1] == pytest.approx(s * q, rel=1e-3)
  first = np.sqrt(mean_s * mean_q)
  assert scores["first"][1, 1] == pytest.approx(first, rel=1e-3)
  assert s * q < first
  for x in scores.values():
    assert np.isnan(x).tolist() == [[False, True], [False, False]]


def test_refused():
  load = rewards.REGISTRY["edit_score"].loads
  with pytest.raises(UserError, match="average"):
    load(weights="tiny", average="mean")
  with pytest.raises(UserError, match=r"looks=1: .* set looks=0"):
    load(weights="tiny", think=4, looks=1)
  with pytest.raises(UserError, match="high=0"):
    load(weights="tiny", high=0)
  with pytest.raises(
    UserError, match='adapter=mine: weights="tiny" takes none'
  ):
    load(weights="tiny", adapter="mine")
  with pytest.raises(UserError, match="adapter=mine"):
    load.check({"weights": "tiny", "adapter": "mine"})
  load.check({"weights": "tiny"})
