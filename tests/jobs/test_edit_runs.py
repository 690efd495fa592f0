"""Align runs whose prompts come with a picture, from end to end, tiny."""

import base64
import json
import re

import jax
import numpy as np
import pytest
from etils import epath

from jaxreward import rewards, setup
from jaxreward.data import pipeline
from jaxreward.errors import UserError
from jaxreward.evaluation import evaluators
from jaxreward.jobs import align, evaluate
from jaxreward.report import grids
from jaxreward.setup import prompt_encoding
from jaxreward.tasks.scenes import edits, grammar
from tests import tiny

pytestmark = [pytest.mark.job, pytest.mark.turns(3, 1)]

SMALL = {
  "eval.samples": 12, "eval.quick_samples": 12, "eval.every": 2,
  "optimizer.warmup_steps": 0, "optimizer.learning_rate": 3e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
  """Weights of the tiny editing model, away from their zeros."""
  config = tiny.load("align_edits.py:smoke", tiny.MODEL)
  path = tmp_path_factory.mktemp("weights") / "base.safetensors"
  return tiny.save_weights(path, config)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, weights_file):
  """Working directory of a run by its objective."""
  done = {}

  def get(objective):
    if objective not in done:
      config = tiny.load(
        f"align_edits.py:{objective},smoke", tiny.MODEL, SMALL,
        {"init.checkpoint": weights_file},
      )  # fmt: skip
      path = tmp_path_factory.mktemp(objective) / "run"
      done[objective] = tiny.run(config, path)
    return done[objective]

  return get


@pytest.fixture(
  params=["diffusion_nft", pytest.param("flow_grpo", marks=pytest.mark.slow)]
)
def workdir(request, runs, one_device):
  return runs(request.param)


def test_five_families_are_scored_and_none_fails(workdir):
  rows = tiny.rows(workdir)
  assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
  trained = ("execution", "preservation", "background", "subject", "clean")
  names = {f"reward/{name}" for name in (*trained, "ssim", "psnr")}
  assert names <= set().union(*rows[1:])  # a batch may lack a kind
  for row in rows[1:]:
    assert not any(row[k] for k in row if k.startswith("failed"))
    assert row["update_norm"] > 0 and row["skipped_updates"] == 0
    assert np.isfinite(row["panel/trained_reward"])
    assert row.get("log_prob_gap", 0.0) == 0.0
  every = set().union(*rows[1:])
  kinds = {k.rpartition("/")[2] for k in every if "train/accuracy" in k}
  assert kinds == set(grammar.EDITS)


def test_the_evaluation_speaks_of_the_kinds_of_edits(workdir):
  found = json.loads((workdir / "evaluation.json").read_text())
  (after,) = found["after"].values()
  assert set(after["kinds"]) == set(grammar.EDITS)
  assert 0 <= after["execution"] <= 1 and 0 <= after["preservation"] <= 1
  assert after["rewards"]["psnr"] > 0
  assert after["kl"] > 0


def test_the_report_shows_sources(workdir):
  cards = grids.load_cards(workdir / "grids" / "cards.npz")
  sources = np.stack(list(cards.beside["source"].values()))
  assert len(sources) == len(cards.after) > len(cards.beside["target"]) > 0
  prompts = edits.prompts("heldout")
  drawn = {x.tobytes() for x in grids.to_uint8(edits.draw(prompts)[0])}
  assert all(x.tobytes() in drawn for x in sources)
  page = (workdir / "report.html").read_text()
  shown = re.findall(
    r'<img src="data:image/png;base64,([^"]+)" alt="Source', page
  )
  assert len(shown) == len(sources)
  one = grids.png(grids.enlarge(sources[:1], 3)[0])
  assert base64.b64encode(one).decode() in shown
  for text in ("Exact answer", "Difference after"):
    assert page.count(f'alt="{text}') == len(cards.beside["target"])


def test_samples_follow_the_source_and_nothing_compiles_again(
  one_device, compile_counter
):
  config = tiny.load("align_edits.py:smoke", tiny.MODEL)
  made = tiny.Iteration(config, tiny.mesh_of(1), real=True)
  put = pipeline.place_batch(made.mesh, replicated=True)
  batches = setup.prompt_batches(config)
  with jax.set_mesh(made.mesh):

    def draw(batch):
      return made.parts.sample(made.parts.state, made.parts.base, batch)[2]

    first, *later = (put(batches(n)) for n in range(3))
    images = np.asarray(draw(first))
    other = np.asarray(draw(first.replace(source=1 - first.source)))
    assert np.abs(images - other).max((1, 2, 3, 4)).min() > 1e-3
    compile_counter.reset()
    jax.block_until_ready([draw(batch) for batch in later])
    assert compile_counter.count == 0


def test_the_mean_of_a_reward_is_over_the_rows_where_it_has_a_say():
  every = edits.prompts("train")
  prompts = grammar.batch(every[:: len(every) // 6][:6])
  kind = int(prompts.category[0])
  weight = rewards.RowWeight(2.0, ((kind, 1.0),))
  found = rewards.build({"one": lambda *_: None}, {"one": weight})["one"]
  scores = np.arange(12.0).reshape(6, 2)
  own = np.asarray(prompts.category) == kind
  assert 0 < own.sum() < 6
  says = {
    name: evaluate._applicable(reward, prompts, scores.shape)
    for name, reward in (("some", found), ("all", None))
  }
  means = evaluators.rewards(dict.fromkeys(says, scores), says)["rewards"]
  assert means["some"] == pytest.approx(scores[own].mean())
  assert means["all"] == pytest.approx(scores.mean())


def test_a_judge_of_scenes_is_refused_for_pictures_of_other_sizes():
  given = {"data.grammar": "edits"}
  config = tiny.load("align_public.py:qwen_image_edit,tiny", given)
  with pytest.raises(UserError, match="pictures of 36 pixels a side, and the"):
    prompt_encoding.bind(config, setup.make_policy(config))


def test_a_reward_that_fails_wherever_it_has_a_say_stops_the_run(
  command, tmp_path, weights_file
):
  path = tmp_path / "mine.py"
  path.write_text(
    "import jax.numpy as jnp\n"
    "def lost(images, prompts):\n  return jnp.full(images.shape[:2], jnp.nan)\n"
  )
  given = {
    "rewards.mine.fn": f"{path}:lost", "rewards.mine.kinds.identity": 1.0,
    "data.kind_weights": "(1,0,0,0,1,0)", "init.checkpoint": weights_file,
  }  # fmt: skip
  assert (
    command("align_edits.py:smoke", tmp_path / "run", tiny.MODEL, given) == 2
  )
  assert 'reward "mine" gave no finite score' in command.error


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model.takes_source": False}, "takes no picture; set config.model"),
    ({"data.grammar": "scenes"}, 'set config.data.grammar to "edits"'),
    ({"data.source": "scenes"}, "judges the tasks of"),
    ({"data.kind_weights": "(0,0,0,0,0,0)"}, "order recolour, remove"),
    ({"rewards.clean.fn": "learned"}, "reads the words of the scenes alone"),
    ({"rewards.psnr.kinds.counting": 1.0}, '"counting" is not known'),
  ],
)
def test_what_does_not_go_together_is_refused(changes, message):
  from jaxreward.setup import checks

  config = tiny.load("align_edits.py:smoke", changes)
  with pytest.raises(UserError, match=message):
    checks.check(config)
    align.check(config)


def test_rows_of_an_own_file_start_from_their_pictures(tmp_path, weights_file):
  """Prompts of the scenes with pictures of one's own, no task beside them."""
  from PIL import Image

  rng = np.random.default_rng(0)
  lines = []
  for i, prompt in enumerate(grammar.prompts("train")[:60:2]):
    pixels = rng.integers(0, 256, (50, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    lines.append(json.dumps({"prompt": prompt.text, "image": f"{i}.png"}))
  (tmp_path / "train.jsonl").write_text("\n".join(lines))
  config = tiny.load(
    "align_scenes.py:smoke", tiny.MODEL, {"init.checkpoint": weights_file}
  )
  with config.unlocked():
    config.model.takes_source = True
    config.data.source = str(tmp_path)
  batch = setup.prompt_batches(config)(0)
  assert batch.source.shape == (6, 36, 36, 3) and batch.target is None
  assert batch.extras.edit is None and set(batch.words.prompts) == {
    "tokens",
    "source",
  }
  assert set(batch.words.empty) == {"tokens"}


def test_pretraining_teaches_edits(tmp_path, one_device):
  config = tiny.load(
    "pretrain_edits.py:smoke", tiny.MODEL,
    SMALL | {"eval.guidance_scales": "1.0", "pretrain.steps": 3},
  )  # fmt: skip
  workdir = tiny.run(config, tmp_path / "run")
  rows = tiny.rows(workdir)
  assert all(np.isfinite(row["loss"]) for row in rows[1:])
  policy = setup.make_policy(config)
  params = setup.load_params(
    config, policy, spec=str(epath.Path(workdir) / setup.POLICY_FILE)
  )
  kernel = np.asarray(params["source_in"]["kernel"])
  assert np.abs(kernel).max() > 0
