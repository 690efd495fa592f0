"""Runs from files: nothing is drawn, nothing is scored, rows are what they say."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from jaxreward import feeds, setup
from jaxreward.errors import UserError
from jaxreward.jobs import align
from jaxreward.setup import offline, task_dataset, updates
from jaxreward.setup import rewards as reward_setup
from jaxreward.tasks.scenes import grammar
from tests import tiny, turns

SFT = "recipes/flow_matching.py:smoke"


def save(path, image):
  Image.fromarray(np.asarray(image)).save(path)
  return path.name


def dataset_of(folder, count=6):
  """A folder of random images with captions of the scenes."""
  rng = np.random.default_rng(0)
  lines = [
    {
      "file_name": save(folder / f"{i}.png", rng.integers(0, 256, (36, 36, 3), np.uint8)),
      "text": grammar.prompts("train")[i].text,
      "weight": 1 + i,
    }
    for i in range(count)
  ]  # fmt: skip
  (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
  return folder


def config_of(spec, *overrides):
  return tiny.load(spec, tiny.MODEL, tiny.REWARD, tiny.FAST, *overrides)


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_run_on_a_folder_of_images(tmp_path, monkeypatch):
  def draws(*args, **kwargs):
    raise AssertionError("a rollout")

  monkeypatch.setattr(updates, "sample", draws)
  folder = tmp_path / "images"
  folder.mkdir()
  given = {"data.dataset": dataset_of(folder), "align.iterations": 2}
  workdir = tiny.run(config_of(SFT, given), tmp_path / "run")
  first, *rest = tiny.rows(workdir, "align")
  assert [row["step"] for row in rest] == [1, 2]
  assert all(np.isfinite(row["loss"]) for row in rest)
  assert "reward" not in rest[-1] and "panel/diversity" not in rest[-1]
  assert {"eval/accuracy", "eval/reward/redness"} <= set(first) & set(rest[-1])
  assert rest[-1]["loss"] > rest[-1]["matching_loss"]  # weights above 1
  assert (workdir / "report.html").exists()


def test_rows_reach_the_update_as_the_file_has_them(tmp_path):
  config = config_of(
    SFT, {"data.dataset": dataset_of(tmp_path), "rollout.prompts": 5}
  )
  plan = tiny.make_plan(config, tiny.mesh_of(1))
  assert (plan.prompts, plan.group, plan.origin) == (5, 1, "dataset")
  batch = offline.batches(config)(0)
  encode = offline.encoder(config, tiny.small_policy())
  trajectory = offline.samples(encode, batch.images, plan)
  latents = np.asarray(trajectory.latents)[0, :5]
  np.testing.assert_allclose(
    latents, batch.images[:, 0] / np.float32(255) * 2 - 1, atol=1e-6
  )
  weight = dict(
    zip((p.text for p in grammar.prompts("train")), range(1, 7), strict=False)
  )
  words = [bytes(x).rstrip(b"\0").decode() for x in batch.prompts.text]
  kept = [text for text in words if text]
  assert kept
  for text, score in zip(words, batch.scores, strict=True):
    assert not text or score == weight[text]


@pytest.mark.turns(2)
def test_captions_are_dropped_at_their_rate_by_the_step():
  config = config_of(SFT, {"rollout.prompts": 24, "data.caption_drop": 0.5})
  read = offline.batches(config)
  empty = lambda n: ~np.asarray(read(n).prompts.tokens).any(1)
  shares = np.concatenate([empty(n) for n in range(8)])
  assert abs(shares.mean() - 0.5) < 4 * 0.5 / len(shares) ** 0.5
  np.testing.assert_array_equal(empty(3), empty(3))
  assert not np.array_equal(empty(3), empty(4))


@pytest.mark.job
@pytest.mark.turns(3)
def test_drawn_scenes_show_their_prompts():
  """The detector agrees with what the dataset says."""
  from jaxreward.tasks.scenes import detect

  batch = offline.batches(config_of(SFT, {"data.caption_drop": 0.0}))(2)
  judge = jax.jit(lambda x, prompts: detect.judge(detect.detect(x), prompts))
  verdict = judge(batch.images[:, 0] / np.float32(255), batch.prompts)
  np.testing.assert_array_equal(verdict.strict, 1)


@pytest.mark.turns(2)
@pytest.mark.parametrize("from_file", [False, True])
def test_edits_of_a_dataset_learn_answers_from_their_sources(
  from_file, tmp_path
):
  config = tiny.load(
    "recipes/controlnetpp_single_step.py:smoke", {"rollout.prompts": 3}
  )
  source, answer = np.random.default_rng(0).integers(
    0, 256, (2, 48, 48, 3), np.uint8
  )
  if from_file:
    row = {
      "prompt": "colour it",
      "image": save(tmp_path / "source.png", source),
      "target": save(tmp_path / "answer.png", answer),
    }
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    folder = str(tmp_path)
    config.data.update(dataset=folder, grammar="free", source=folder)
  rows = offline.batches(config)(0)
  assert rows.images.shape == (3, 1, 48, 48, 3)
  drawn = rows.images[:, 0] / np.float32(255)
  if from_file:
    assert (rows.images == answer).all()
    np.testing.assert_allclose(rows.prompts.source * 255, [source] * 3)
  else:
    np.testing.assert_allclose(drawn, rows.prompts.target, atol=3e-3)
    grey = drawn @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(rows.prompts.source[..., 0], grey, atol=3e-3)


@pytest.mark.job
@pytest.mark.turns(3)
def test_latents_are_the_autoencoders():
  config = tiny.load(
    "align_public.py:sd35_medium,objective=diffusion_nft,tiny",
    {"objective.name": "flow_matching", "data.dataset": "scenes"},
  )
  policy = setup.make_policy(config)
  plan = tiny.make_plan(config, tiny.mesh_of(1))
  decoder = jax.jit(policy.decoder)(jax.random.key(0))
  images = offline.batches(config)(0).images
  encode = offline.encoder(config, policy)
  draw = lambda images, decoder: offline.samples(encode, images, plan, decoder)
  trajectory = jax.jit(draw)(images, decoder)
  want = jax.jit(policy.to_latents)(images[:, 0] / np.float32(255), decoder)
  got = np.asarray(trajectory.latents)[0, : len(images)]
  assert got.shape[1:] == policy.latent_shape
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.job
def test_online_pairs_written_to_a_file_are_the_same_update(tmp_path):
  """From there on it is one code: the same noise, times, masks and parameters."""
  sizes = {"rollout.prompts": 3, "rollout.group": 4, "align.updates": 2}
  sizes |= {"rollout.microbatch": 12, "optimizer.name": "sgd"}
  sizes |= {"optimizer.learning_rate": 1e-2, "optimizer.clip_norm": 0.0}
  online = config_of("recipes/flow_dpo.py:smoke", sizes)
  one = tiny.Iteration(online, tiny.mesh_of(1))
  trajectory, _, _ = one.sample(one.state)
  # Images of 8 bits, so that a file holds exactly what was drawn; the best of
  # each group comes first, as in a file.
  pixels = np.round(np.clip(trajectory.latents[-1] * 0.5 + 0.5, 0, 1) * 255)
  pixels = pixels.astype(np.uint8)
  latents = pixels[None].astype(np.float32) / 255 * 2 - 1
  trajectory = dataclasses.replace(trajectory, latents=jnp.asarray(latents))
  signal = np.array([[3, 1, 0, 2], [5, 4, 3, 2], [1, 1, 1, 1]], np.float32)
  worst = signal.argmin(1)
  drawn, wanted = one.update(
    one.state, trajectory, {"redness": jnp.asarray(signal)}
  )

  grouped = pixels[:12].reshape(3, 4, *pixels.shape[1:])
  words = [bytes(x).rstrip(b"\0").decode() for x in one.batch.text]
  labels = ["a", "a", "tie"]
  lines = [
    {
      "prompt": words[p],
      "image_a": save(tmp_path / f"{p}a.png", grouped[p, 0]),
      "image_b": save(tmp_path / f"{p}b.png", grouped[p, worst[p]]),
      "label": labels[p],
    }
    for p in range(3)
  ]
  (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
  file = {"data.preferences": tmp_path / "pairs.jsonl"}
  two = tiny.Iteration(
    config_of("recipes/flow_dpo.py:smoke", sizes, file), tiny.mesh_of(1)
  )
  assert sorted(two.batch.ids.tolist()) == sorted(one.batch.ids.tolist())
  read, _, images = two.sample(two.state)
  learned, metrics = two.update(two.state, read, two.scores(images))
  assert metrics["accuracy"].weight == 2 * one.config.align.times
  for name in ("loss", "margin", "error_chosen", "error_rejected"):
    np.testing.assert_allclose(
      metrics[name].value(), wanted[name].value(), rtol=1e-5
    )
  moved = tiny.flat(drawn.params) - tiny.flat(one.state.params)
  np.testing.assert_allclose(
    tiny.flat(learned.params) - tiny.flat(two.state.params), moved,
    atol=1e-4 * np.abs(moved).max(),
  )  # fmt: skip


@pytest.mark.job
@pytest.mark.turns(3)
def test_drawn_pairs_differ_in_what_the_prompt_asks_for():
  from jaxreward.tasks.scenes import detect

  config = config_of(
    "recipes/flow_dpo_offline.py:smoke", {"rollout.prompts": 12}
  )
  batch = offline.batches(config)(1)
  np.testing.assert_array_equal(batch.scores, [[1, 0]] * 12)
  for member, right in ((0, 1), (1, 0)):
    seen = detect.detect(batch.images[:, member] / np.float32(255))
    strict = np.asarray(detect.judge(seen, batch.prompts).strict)
    assert (strict == right).mean() > 0.9


@pytest.mark.parametrize("name", ["diffusion_nft", "dgpo"])
def test_other_objectives_read_preferences_as_groups_of_two(name):
  config = config_of(
    "recipes/flow_dpo_offline.py:smoke", {"objective.name": name}
  )
  plan = tiny.make_plan(config, tiny.mesh_of(1))
  assert (plan.group, plan.origin) == (2, "preferences")


FILES = ("portrait_edits", "kontext", "qwen_image_edit", "wan_t2v", "wan_i2v")


@pytest.mark.parametrize("model", turns.one_due([*FILES, "qwen_image"]))
def test_pairs_of_files_suit_policies_of_every_kind(model, tmp_path):
  """Sources beside edits, frames of videos: shapes that the update is built for."""
  sizes = {"rollout.prompts": 2, "finetune.drawn": 3}
  config = tiny.load(f"offline.py:{model},smoke", sizes)
  policy = setup.make_policy(config)
  align.check(config)
  config = task_dataset.write(config, policy, epath.Path(tmp_path))
  batch, plan = offline.batches(config)(0), align.make_plan(config, 1)
  like = offline.image_shapes(config, policy, plan)
  assert batch.images.shape == like.shape and batch.images.dtype == np.uint8
  np.testing.assert_array_equal(batch.scores, [[1, 0]] * 2)
  assert (batch.images[:, 0] != batch.images[:, 1]).any((-3, -2, -1)).all()
  side = (*setup.picture_side(policy), 3)
  source = batch.prompts.source
  assert policy.takes_source == (source is not None)
  assert source is None or source.shape == (2, *side)
  decoder = policy.decoder and jax.eval_shape(policy.decoder, jax.random.key(0))
  trajectory = jax.eval_shape(
    lambda *x: offline.samples(
      offline.encoder(config, policy), x[0], plan, x[1]
    ),
    like,
    decoder,
  )
  assert trajectory.latents.shape == (1, 4, *policy.latent_shape)


def test_instructions_of_a_task_are_its_own(tmp_path):
  row = {"prompt": "make it loud", "chosen": "a.png", "rejected": "a.png"}
  (tmp_path / "p.jsonl").write_text(json.dumps(row | {"source": "a.png"}))
  save(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
  config = tiny.load(
    "offline.py:portrait_edits,smoke",
    {"data.preferences": tmp_path / "p.jsonl"},
  )
  with pytest.raises(UserError, match='"make it loud" is no instruction'):
    offline.records(config)


@pytest.mark.turns(2)
def test_lists_reach_objectives_on_groups_with_what_is_missing_masked():
  """Images, credit and masks of rows are those of the lists."""
  config = config_of(
    "offline.py:scenes,objective=rank_dpo,smoke",
    {"data.preferences": "lists.jsonl", "data.list_size": 3, "rollout.prompts": 2},
    {"rollout.microbatch": 6, "align.times": 1},
  )  # fmt: skip
  plan = tiny.make_plan(config, tiny.mesh_of(1))
  assert (plan.group, plan.origin) == (3, "preferences")
  images = np.random.default_rng(0).integers(
    0, 256, (2, 3, 36, 36, 3), np.uint8
  )
  trajectory = offline.samples(
    offline.encoder(config, tiny.small_policy()), images, plan
  )
  advantage = np.array([[0.5, 1, 0], [1, 0, np.nan]], np.float32)
  credit = feeds.Credit(
    np.nan_to_num(advantage), advantage, advantage == advantage
  )
  ids = np.arange(2, dtype=np.uint32)
  rows = feeds.FEEDS["lists"].make(
    trajectory, credit, ids, plan, jax.random.key(0)
  )
  np.testing.assert_array_equal(rows["mask"][0], ~np.isnan(advantage))
  np.testing.assert_array_equal(rows["advantage"][0], np.nan_to_num(advantage))
  x0 = rows["x_t"][0] - rows["t"][0][..., None, None, None] * rows["u"][0]
  want = images / 127.5 - 1
  want[1, 2] = 0  # nobody said
  np.testing.assert_allclose(x0, want, atol=1e-5)


@pytest.mark.turns(2)
@pytest.mark.parametrize("name", ["rank_dpo", "flow_dpo"])
def test_lists_may_be_shorter_than_their_most(name, tmp_path):
  """What a row lacks enters no feed, if the longest is held out too."""
  rng = np.random.default_rng(0)
  for i in range(4):
    pixels = rng.integers(0, 256, (36, 36, 3), np.uint8)
    save(tmp_path / f"{i}.png", pixels)
  texts = [p.text for p in grammar.prompts("train")[:2]]
  texts.append(grammar.prompts("heldout")[0].text)
  lines = [
    {"prompt": text, "images": [f"{i}.png" for i in range(n)],
     "ranks": [*range(n, 0, -1)]}
    for text, n in zip(texts, (3, 2, 4), strict=True)
  ]  # fmt: skip
  (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, lines)))
  config = config_of(
    f"offline.py:scenes,objective={name},smoke",
    {"data.preferences": tmp_path / "lists.jsonl", "data.list_size": 4},
    {"rollout.prompts": 2, "rollout.microbatch": 8, "align.times": 1},
  )
  plan, policy = tiny.make_plan(config, tiny.mesh_of(1)), tiny.small_policy()
  batch = offline.batches(config)(0)
  assert batch.images.shape == offline.image_shapes(config, policy, plan).shape
  trajectory = offline.samples(
    offline.encoder(config, policy), batch.images, plan
  )
  known = np.isfinite(batch.scores)
  assert sorted(known.sum(1)) == [2, 3]
  scores = np.nan_to_num(batch.scores)
  credit = feeds.Credit(scores, batch.scores, known)
  ids, key = np.arange(2, dtype=np.uint32), jax.random.key(0)
  rows = plan.feed.make(trajectory, credit, ids, plan, key)
  if name == "rank_dpo":
    np.testing.assert_array_equal(rows["mask"][0], known)
    return
  assert rows["mask"].all()
  best = batch.images[[0, 1], known.sum(1) - 1] / 127.5 - 1
  worst = batch.images[:, 0] / 127.5 - 1
  t = rows["t"][0][:, None, None, None]
  for side, want in (("chosen", best), ("rejected", worst)):
    x0 = rows[f"x_{side}"][0] - t * rows[f"u_{side}"][0]
    np.testing.assert_allclose(x0, want, atol=1e-5)


@pytest.mark.parametrize("model", turns.one_due(["kontext", "sd35_medium"]))
def test_no_reward_is_asked_unless_it_is_named(model):
  rewards = lambda *given: reward_setup.bind(
    tiny.load(f"offline.py:{model}", {"data.grammar": "free"}, *given)
  )
  assert not rewards()
  assert [*rewards({"rewards.jpeg.fn": "jpeg_compressibility"})] == ["jpeg"]
