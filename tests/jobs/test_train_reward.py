"""The job that trains a reward model: it learns, resumes and reads back."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from jaxreward import config as config_lib
from jaxreward import jobs, rewards
from jaxreward.data import preferences
from jaxreward.errors import UserError
from jaxreward.evaluation import intervals
from jaxreward.jobs import train_reward
from jaxreward.report import hardest
from jaxreward.setup import reward_losses, reward_model, task_preferences
from jaxreward.tasks.scenes import grammar
from jaxreward.training import checkpoint
from tests import tiny

pytestmark = [pytest.mark.job, pytest.mark.turns(3, 2)]

ROOT = pathlib.Path(__file__).resolve().parents[2]


def make_config(**fields):
  config = config_lib.load(str(ROOT / "configs/train_reward_scenes.py:smoke"))
  with config.unlocked():
    config.mesh.data = 1
    config.train_reward.update(
      init_from_policy=False, steps=12, rows=8, evaluate_every=6, save_every=4
    )
    config.train_reward.update(fields)
  return config


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
  """Light pictures are preferred to dark ones, whatever the prompt."""
  folder = tmp_path_factory.mktemp("pairs")
  generator = np.random.default_rng(0)
  rows = []
  chosen = grammar.prompts("train")[:24] + grammar.prompts("heldout")[:12]
  for i, prompt in enumerate(chosen):
    label = "ab"[i % 2]
    for side in "ab":
      low = 150 if side == label else 0
      picture = generator.integers(low, low + 100, (36, 36, 3), np.uint8)
      Image.fromarray(picture).save(folder / f"{i}{side}.png")
    rows.append(
      dict(
        prompt=prompt.text,
        image_a=f"{i}a.png",
        image_b=f"{i}b.png",
        label=label,
      )
    )
  path = folder / "pairs.jsonl"
  path.write_text("".join(json.dumps(r) + "\n" for r in rows))
  return str(path)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  tiny.use_one_device(monkeypatch)


@pytest.fixture(scope="module")
def unbroken(pairs_file, tmp_path_factory):
  workdir = epath.Path(tmp_path_factory.mktemp("unbroken"))
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_one_device(patch)
    train_reward.run(make_config(source=pairs_file), workdir)
  return workdir


def test_it_learns_an_easy_preference(unbroken):
  found = json.loads((unbroken / "evaluation.json").read_text())["reward_model"]
  assert found["n"] == 12
  assert found["accuracy"] >= 0.9
  assert found["low"] <= found["accuracy"] <= found["high"]
  assert found["strict"]["n"] == 0  # nobody has judged these pictures
  rows = [json.loads(x) for x in (unbroken / "metrics.jsonl").open()]
  assert [r["step"] for r in rows] == list(range(13))
  assert rows[0]["eval/pair_accuracy"] == 0.5  # a fresh model has no opinion
  assert rows[-1]["loss"] < rows[1]["loss"]


def test_started_alone_it_leaves_a_report(pairs_file, tmp_path):
  workdir = epath.Path(tmp_path)
  config = make_config(source=pairs_file, steps=4)
  workdir.joinpath("config.json").write_text(config_lib.to_json(config))
  jobs.find(config)(config, workdir)
  jobs.report(config.job, workdir)
  page = (workdir / "report.html").read_text()
  assert "Reward model run" in page
  assert 'alt="Chart: Loss"' in page and 'alt="Chart: Pair accuracy"' in page
  assert 'alt="Chart: Calibration"' in page


def test_the_bins_of_its_confidence_are_those_of_its_pairs():
  """Four pairs of one row each: two sure and right, one wrong, one unsure."""
  gaps = np.array([3.0, 3.0, -3.0, 0.1], np.float32)
  scores = np.stack([gaps, np.zeros(4, np.float32)], 1)
  prob = np.full((4, 2, 2), np.nan, np.float32)
  prob[:, 0, 1], prob[:, 1, 0] = 1.0, 0.0
  data = preferences.Preferences(
    images=np.zeros((8, 2, 2, 3), np.uint8),
    tokens=np.zeros((4, 3), np.int32),
    category=np.zeros(4, np.int32),
    members=np.arange(8).reshape(4, 2),
    prob=prob,
    score=np.full((4, 2), np.nan),
    strict=np.full((4, 2), np.nan),
    source=np.full(2, preferences.SOURCES.index("file")),
  )
  unsure, sure = reward_model.evaluate(
    data, scores, seed=0, categories=grammar.CATEGORIES
  )["calibration"]
  assert (unsure["n"], sure["n"]) == (1, 3)
  assert unsure["accuracy"] == 1.0 and sure["accuracy"] == pytest.approx(2 / 3)
  assert sure["confidence"] == pytest.approx(1 / (1 + np.exp(-3.0)))
  assert unsure["confidence"] == pytest.approx(1 / (1 + np.exp(-0.1)))


def test_pairs_of_a_prompt_are_not_independent():
  """Thirty prompts in two rows of four pairs each, right or wrong as one."""
  rng = np.random.default_rng(0)
  prompt = np.arange(60) % 30
  right = np.arange(30) % 10 < 7
  scores = np.tile([1.0, 0.0], (60, 4))
  scores[~right[prompt]] *= -1
  prob = np.full((60, 8, 8), np.nan, np.float32)
  odd = np.arange(8) % 2
  prob[:, (odd[:, None] == 0) & (odd == 1)] = 1.0
  prob[:, (odd[:, None] == 1) & (odd == 0)] = 0.0
  data = preferences.Preferences(
    images=np.zeros((480, 1, 1, 3), np.uint8),
    tokens=rng.integers(9, size=(30, 8))[prompt],
    category=np.zeros(60, np.int32),
    members=np.arange(480).reshape(60, 8),
    prob=prob,
    score=np.full((60, 8), np.nan),
    strict=np.tile([1.0, 0.0], (60, 4)),
    source=np.full(8, preferences.SOURCES.index("file")),
  )
  found = reward_model.evaluate(data, scores, 0, grammar.CATEGORIES)
  assert found["n"] > 100 and found["policy_strict"]["n"] == 0
  prompts = intervals.wilson(21, 30)
  for row in (found, found["strict"], *found["kinds"].values()):
    np.testing.assert_allclose((row["low"], row["high"]), prompts, atol=0.04)


class Drawn(Exception):
  """Raised in place of the policy's work."""


@pytest.fixture
def asked(monkeypatch):
  """Prompts that the policy was asked to draw; it draws nothing."""
  found = []

  def draw(config, policy, params, chosen):
    found.extend(chosen)
    raise Drawn

  monkeypatch.setattr(task_preferences, "sample_policy", draw)
  return found


def test_pictures_are_of_the_prompts_of_the_source(asked, tmp_path, caplog):
  own = [p for p in grammar.prompts("train") if p.category == 3]
  path = tmp_path / "prompts.txt"
  path.write_text("".join(p.text + "\n" for p in own))
  config = make_config()
  with config.unlocked():
    config.data.source = str(path)
  with caplog.at_level("INFO"), pytest.raises(Drawn):
    task_preferences.scene_preferences(config, tiny.small_policy(), {})
  rows = config.train_reward.train_rows
  assert {p.text for p in asked} <= {p.text for p in own}
  assert all(p.split == "train" for p in asked[:rows])
  assert {p.split for p in asked[rows:]} == {"validation", "heldout"}
  # a plain line before the long silence
  said = [r.getMessage() for r in caplog.records]
  assert "drawing and judging images of 36 prompts, 2 each" in said[-1]


def test_a_source_that_cannot_be_split_is_refused(asked, tmp_path):
  path = tmp_path / "prompts.txt"
  path.write_text("a red circle\n")
  config = make_config()
  with config.unlocked():
    config.data.source = str(path)
  with pytest.raises(UserError, match=r"prompts\.txt"):
    task_preferences.scene_preferences(config, tiny.small_policy(), {})
  assert not asked


def test_what_it_writes_is_read_back_as_a_reward(unbroken):
  model = reward_model.load(unbroken / "reward_model.safetensors")
  prompts = grammar.batch(grammar.prompts("heldout")[:2])
  images = np.full((2, 2, 36, 36, 3), 0.2, np.float32)
  images[:, 1] = 0.8
  built = rewards.build(
    {"learned": lambda i, p, **c: rewards.learned(i, p, scorer=model.scorer, **c)},
    contexts={
      "learned": dict(params=model.params, mean=model.mean, std=model.std)
    },
  )  # fmt: skip
  scores, failed = rewards.score(built, jnp.asarray(images), prompts)
  assert int(failed["learned"]) == 0
  assert (scores["learned"][:, 1] > scores["learned"][:, 0]).all()
  assert model.std > 0


def test_the_hardest_pairs_are_kept_for_the_page(unbroken):
  pairs = hardest.load(unbroken / "grids" / hardest.FILE)
  assert len(pairs) == 12  # every held-out pair
  texts = {prompt.text for prompt in grammar.prompts("heldout")}
  assert {pair["prompt"] for pair in pairs} <= texts
  gaps = [np.subtract(*map(float, pair["scores"])) for pair in pairs]
  assert np.diff(gaps).min() > -0.021  # the worst first, as rounded
  record = json.loads((unbroken / "reward_model.json").read_text())
  model = reward_model.load(unbroken / "reward_model.safetensors")
  assert model.temperature == record["temperature"] > 0


def test_it_stops_early_and_keeps_its_best_step(pairs_file, tmp_path):
  """Labels are curated too: those of prompts that the proxies agree with."""
  metric = "eval/pair_log_likelihood"
  config = make_config(source=pairs_file, evaluate_every=1, steps=60)
  with config.unlocked():
    config.train_reward.early_stopping.update(patience=2, metric=metric)
    config.train_reward.curation = dict(name="consensus")
    config.train_reward.optimizer.learning_rate = 1.0  # it soon gets worse
  train_reward.run(config, epath.Path(tmp_path))
  rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").open()]
  values = [row[metric] for row in rows[1:]]
  best = int(np.argmax(values))
  assert best + 3 == len(values) < 60
  evaluation = json.loads((tmp_path / "evaluation.json").read_text())
  assert 0 < evaluation["reward_model"]["n"] < 12  # the other half chose
  assert evaluation["curation"]["kept"] <= evaluation["curation"]["pairs"] == 24
  with checkpoint.Checkpoints(
    tmp_path / "checkpoints" / "train_reward"
  ) as checkpoints:
    assert checkpoints.best() == (pytest.approx(values[best]), best + 1)


def test_a_broken_record_is_named(unbroken, tmp_path):
  (tmp_path / "reward_model.json").write_text("{}")
  with pytest.raises(UserError, match=r"reward_model\.json"):
    reward_model.load(tmp_path / "reward_model.safetensors")


def test_a_run_that_breaks_off_goes_on_as_if_nothing_had_happened(
  unbroken, pairs_file, tmp_path, monkeypatch
):
  workdir = epath.Path(tmp_path)
  config = make_config(source=pairs_file)
  save = checkpoint.Checkpoints.save

  def save_and_fall(self, step, *args, **kwargs):
    if step == 8:
      self.wait()
      raise RuntimeError("power cut")
    save(self, step, *args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.Checkpoints, "save", save_and_fall)
    with pytest.raises(RuntimeError, match="power cut"):
      train_reward.run(config, workdir)
  broken = (workdir / "metrics.jsonl").read_bytes()
  assert len(broken.splitlines()) == 9
  train_reward.run(config, workdir)
  for name in ("metrics.jsonl", "reward_model.safetensors"):
    assert (workdir / name).read_bytes() == (unbroken / name).read_bytes(), name


def test_other_results_in_the_folder_are_kept(unbroken, pairs_file):
  path = unbroken / "evaluation.json"
  kept = json.loads(path.read_text()) | {"policy": {"guidance_scale=1.0": {}}}
  path.write_text(json.dumps(kept))
  train_reward.run(make_config(source=pairs_file), unbroken)
  assert json.loads(path.read_text()) == kept


def test_ties_train_but_do_not_count_in_accuracy(pairs_file, tmp_path):
  rows = [json.loads(x) for x in pathlib.Path(pairs_file).open()]
  folder = pathlib.Path(pairs_file).parent
  path = folder / "one.jsonl"
  labels = [{}] + [{"label": "tie"}] * (
    len(rows) - 1
  )  # nothing held out has one
  path.write_text(
    "".join(
      json.dumps(r | label) + "\n"
      for r, label in zip(rows, labels, strict=True)
    )
  )
  config = make_config(source=str(path))
  train_reward.run(config, epath.Path(tmp_path))
  found = json.loads((tmp_path / "evaluation.json").read_text())
  assert found["reward_model"]["n"] == 0


@pytest.mark.slow
def test_scenes_from_policy_to_reward(tmp_path):
  config = make_config(init_from_policy=True)
  with config.unlocked():
    config.reward_model.backbone.heads = config.model.heads
  train_reward.run(config, epath.Path(tmp_path))
  found = json.loads((tmp_path / "evaluation.json").read_text())["reward_model"]
  assert found["n"] > 20
  assert set(found["kinds"]) <= set(grammar.KINDS)
  assert (tmp_path / "reward_model.safetensors").exists()


def rated_batch(rows=3, pictures=5):
  """Two ratings are alike, one is missing."""
  rng = np.random.default_rng(5)
  rating = rng.normal(size=(rows, pictures)).astype(np.float32)
  rating[0, 1], rating[1, 2] = rating[0, 0], np.nan
  prob = preferences.preference_probabilities(
    jax.random.key(0), rating, margin=0.0, ties="half"
  )
  images = rng.random((rows, pictures, 36, 36, 3), np.float32)
  tokens = grammar.batch(grammar.prompts("train")[:rows]).tokens
  return preferences.PreferenceBatch(images, tokens, prob, rating)


@pytest.mark.parametrize("form", ["xla", "interpret"])
def test_ratings_of_a_group_teach_what_the_answers_to_its_pairs_teach(form):
  batch = rated_batch()
  found = {}
  for loss in ("bradley_terry", "pairwise"):
    config = make_config(loss=dict(name=loss), label_noise=0.0)
    with config.unlocked():
      config.kernels.implementation = form
    model = reward_model.make(config)
    params = model.init(jax.random.key(1))
    loss_fn = reward_losses.preference_loss(config, model)
    value = lambda p, loss_fn=loss_fn: loss_fn(p, batch, None)[0].value()
    found[loss] = jax.value_and_grad(value)(params)
  for a, b in zip(
    jax.tree.leaves(found["bradley_terry"]),
    jax.tree.leaves(found["pairwise"]),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)
  assert max(np.abs(g).max() for g in jax.tree.leaves(found["pairwise"])) > 1e-3


def test_the_rating_loss_is_refused_where_there_are_no_ratings(pairs_file):
  loss = dict(name="pairwise")
  with pytest.raises(UserError, match=r"label_noise=0\.05 to 0"):
    train_reward.check(make_config(loss=loss))
  config = make_config(loss=loss, source=pairs_file)
  train_reward.check(config)
  with pytest.raises(UserError, match=r"holds answers to pairs"):
    train_reward.data(config, epath.Path("."))
  with pytest.raises(UserError, match=r"config\.train_reward\.loss\.ties"):
    train_reward.check(
      make_config(loss=loss | dict(ties="halve"), label_noise=0.0)
    )
