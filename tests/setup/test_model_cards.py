"""The card beside an export: its head is the hub's, its figures are the run's."""

import json
import pathlib
import re

import numpy as np
import pytest
from etils import epath

from jaxreward import setup
from jaxreward.errors import UserError
from jaxreward.report import grids
from jaxreward.setup import licences, model_cards
from jaxreward.tasks.portraits import task as portraits
from tests import tiny

yaml = pytest.importorskip("yaml")
ROOT = pathlib.Path(__file__).parents[2]
SD3 = "align_public.py:sd35_medium,objective=flow_grpo,tiny"
SCENES = "align_scenes.py:smoke"
NUMBERS = {"strict": 0.25, "n": 8, "kinds": {}, "rewards": {"detector": 0.5}}


@pytest.fixture
def workdir(tmp_path):
  """What a finished run leaves, with two pairs of images."""
  folder = epath.Path(tmp_path / "run")
  folder.mkdir()
  evaluation = {
    side: {"guidance_scale=1.0": NUMBERS} for side in ("before", "after")
  }
  (folder / "evaluation.json").write_text(json.dumps(evaluation))
  row = {"job": "align", "step": 2, "loss": 1.0, "eval/accuracy": 0.625}
  (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
  images = np.random.default_rng(0).random((3, 8, 8, 3))
  texts = [
    {"prompt": f"a | red *{i}*", "kind": kind}
    for i, kind in enumerate(("one", "one", "two"))
  ]
  grids.save_cards(folder / "grids" / "cards.npz", images, 1 - images, texts)
  return folder


def card_of(config, workdir, folder, step=2):
  """(head, text) of a policy's card."""
  model_cards.write_policy(
    config, setup.make_policy(config), epath.Path(folder), workdir, step
  )
  text = (pathlib.Path(folder) / "README.md").read_text()
  assert text.startswith("---\n")
  head = yaml.safe_load(text.split("---\n")[1])
  return head, text


def test_adapters_of_a_hub_model(workdir, tmp_path):
  base = {"init.checkpoint": "some-org/Model-3.5:transformer"}
  config = tiny.load(SD3, base, {"align.iterations": 2, "seed": 7})
  head, text = card_of(config, workdir, tmp_path / "out")
  assert head["license"] == "other"
  assert head["license_link"] == "https://huggingface.co/some-org/Model-3.5"
  assert head["base_model"] == "some-org/Model-3.5"
  assert head["base_model_relation"] == "adapter"
  assert head["library_name"] == "diffusers"
  assert head["pipeline_tag"] == "text-to-image"
  assert {"lora", "jaxreward", "flow_grpo"} <= set(head["tags"])
  assert "datasets" not in head
  assert 'load_lora_weights("FOLDER")' in text
  assert "| reward detector | 0.500 | 0.500 |" in text
  assert "| accuracy | 0.625 |" in text
  assert re.search(r"seed: 7\b", text) and '"seed": 7' in text
  # one of each kind first, and Markdown that shows the prompt as it is
  first = text.index(r"| a \| red \*0\* |")
  assert first < text.index(r"red \*2\*") < text.index(r"red \*1\*")
  for name in re.findall(r"\]\((samples/.*?)\)", text):
    assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
  assert len(list((tmp_path / "out" / "samples").iterdir())) == 6
  assert card_of(config, workdir, tmp_path / "again")[1] == text


@pytest.mark.parametrize(
  ("given", "origin"),
  [
    ({"seed": 7}, "The base is random weights, drawn with seed 7."),
    ({"export.fuse": True}, "It was trained from random weights."),
    ({"init.checkpoint": "a-b/c:transformer"}, "The base is [a-b/c]"),
  ],
)
def test_the_origin_is_that_of_what_is_exported(given, origin, tmp_path):
  assert origin in card_of(tiny.load(SD3, given), None, tmp_path)[1]


@pytest.mark.parametrize(
  ("given", "base"),
  [
    ({}, "drawn at random"),
    ({"reward_model.backbone.weights": "some-org/clip"}, "some-org/clip"),
    ({"train_reward.init_from": "/x/a.npz"}, "the reward model a.npz"),
  ],
)
def test_the_card_of_a_reward_model(given, base, tmp_path):
  config = tiny.load("recipes/pick_score.py:smoke", given)
  config.export.part = "reward_model"
  record = {"model": {"backbone": config.reward_model.backbone.to_dict()}}
  numbers = {"accuracy": 0.75, "low": 0.5, "high": 0.875, "n": 8}
  (tmp_path / "evaluation.json").write_text(
    json.dumps({"reward_model": numbers})
  )
  folder = tmp_path / "out"
  folder.mkdir()
  (folder / "config.json").write_text("{}")
  model_cards.write_reward_model(
    config, record, epath.Path(folder), epath.Path(tmp_path)
  )
  text = (folder / "README.md").read_text()
  head = yaml.safe_load(text.split("---\n")[1])
  assert head["library_name"] == "transformers"
  assert {"reward-model", "preferences"} <= set(head["tags"])
  assert head.get("base_model") == (base if "org" in base else None)
  assert f"- base: {base}\n" in text
  assert "- backbone and head: `clip`, `similarity`" in text
  pattern = r"ordered as their labels: 0\.750 \[0\.500, 0\.875\], n 8\."
  assert re.search(pattern, text)
  assert "--config.reward_model.backbone.weights=FOLDER" in text


def test_another_step_than_the_last_says_what_its_figures_are(
  workdir, tmp_path
):
  config = tiny.load(SD3, {"align.iterations": 5})
  text = card_of(config, workdir, tmp_path)[1]
  assert "step 2 of 5" in text
  assert text.count("After is the end of the run, and not this step.") == 2


def test_whole_weights_name_their_class_and_their_repository(tmp_path):
  config = tiny.load(SD3, {"export.fuse": True, "export.upload": "me/mine"})
  text = card_of(config, None, tmp_path)[1]
  assert "# mine\n" in text
  assert 'SD3Transformer2DModel.from_pretrained(\n  "me/mine"' in text
  assert "--config.init.checkpoint=me/mine" in text
  assert "## Figures" not in text and "## Samples" not in text


@pytest.mark.parametrize(
  ("given", "checkpoint", "expected"),
  [
    ("mit", "package:scenes_base", {"license": "mit"}),
    ("", "package:scenes_base", {"license": "apache-2.0"}),
    (
      "https://x.org/My-Licence",
      "",
      {
        "license": "other",
        "license_name": "my-licence",
        "license_link": "https://x.org/My-Licence",
      },
    ),
    ("", "", {}),
  ],
)
def test_the_licence_follows_one_rule(given, checkpoint, expected, tmp_path):
  config = tiny.load(SCENES, {"export.license": given} if given else {})
  config.init.checkpoint = checkpoint
  head, text = card_of(config, None, tmp_path)
  found = {k: v for k, v in head.items() if k.startswith("license")}
  assert found == expected
  assert ("No licence was given" in text) == (not expected)
  assert "FOLDER/policy.safetensors" in text


def test_local_weights_have_the_licence_of_the_card_beside_them(tmp_path):
  folder = tmp_path / "models--org--base" / "transformer"
  folder.mkdir(parents=True)
  card = "---\nlicense: other\nlicense_name: 'theirs'\nlicense_link: LICENSE\n"
  (folder.parent / "README.md").write_text(card + "---\n# Base\n")
  config = tiny.load(SD3)
  base = licences.base_of(str(folder))
  assert base == "org/base"
  fields = licences.fields(config, str(folder), base)
  assert fields == {"license": "other", "license_name": "theirs"}


def test_a_licence_that_the_hub_would_not_take_is_refused():
  config = tiny.load(SCENES, {"export.license": "Apache 2"})
  with pytest.raises(UserError, match='license="Apache 2": expected an ident'):
    licences.check(config)


def test_portraits_are_credited_as_the_notice_asks(tmp_path):
  config = tiny.load("portraits.py")
  assert portraits.CREDITS in card_of(config, None, tmp_path)[1]
  notice = " ".join((ROOT / "NOTICE").read_text().split())
  words = re.sub(r"\[(.*?)\]\((.*?)\)", r"\1", portraits.CREDITS)
  for part in re.split(r"[:,\"] ?", words.partition("remix of")[2]):
    assert part.strip(" .") in notice
  for link in re.findall(r"\((https:.*?)\)", portraits.CREDITS):
    assert link in notice
