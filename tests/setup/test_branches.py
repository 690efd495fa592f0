"""Trees of samples, and preferences that are drawn in them or by a gallery."""

import collections

import jax
import numpy as np
import pytest

from jaxreward import config as config_lib
from jaxreward import setup
from jaxreward.errors import UserError
from jaxreward.setup import branches, task_preferences
from tests import tiny

RECIPE = "recipes/tree_preference_rm.py"
SAMPLING = "train_reward.sampling"


def forks_of(members: tuple[int, ...]) -> np.ndarray:
  """Forks that two leaves pass together, [N, N]; all of them for a leaf itself."""
  leaf = np.arange(members[0])
  paths = np.stack([leaf // size for size in (*members, 1)])
  return (paths[:, :, None] == paths[:, None]).sum(0) - 1


def test_the_recipe_forks_in_two_at_three_steps():
  config = tiny.load(RECIPE)
  table, share = task_preferences.plan_of(config)
  assert share.members == (8, 4, 2) and share.steps == (1, 4, 7)
  assert (np.asarray(table.std)[7:] > 0).any()
  depth = forks_of(share.members)
  counts = collections.Counter(depth[np.triu_indices(8, 1)].tolist())
  # Of the 7 others, 4 part at the first fork, 2 at the second, 1 at the last.
  assert counts == {0: 8 * 4 // 2, 1: 8 * 2 // 2, 2: 8 * 1 // 2}
  # The pairs are those of one tree: nothing but its leaves is compared.
  options = config.train_reward
  assert options.sampling.guidance_scales == (1.0,)
  assert options.pictures_per_row == options.sampling.samples == 8
  assert not any(
    options.pictures[k] for k in ("renders", "spoiled", "borrowed")
  )


def test_a_sampler_is_named_from_the_command_line():
  fields = {f"{SAMPLING}.sampler.name": "cps"}
  fields |= {f"{SAMPLING}.sampler.noise_level": 0.4}
  for spec in ("train_reward_scenes.py", RECIPE):
    config = tiny.load(spec, fields)
    assert config.train_reward.sampling.sampler.noise_level == 0.4
  config = tiny.load(RECIPE, {f"{SAMPLING}.sampler.name": "cps"})
  assert dict(config.train_reward.sampling.sampler) == {"name": "cps"}
  curation = {"train_reward.curation.name": "consensus"}
  curation |= {"train_reward.curation.flip_above": 0.8}
  config = tiny.load("train_reward_scenes.py", curation)
  assert config.train_reward.curation.flip_above == 0.8


def test_every_section_that_names_a_method_takes_its_arguments():
  open_or_parts = (*config_lib.OPEN_SECTIONS, "model", "data.layout")
  config = tiny.load("train_reward_scenes.py")

  def sections(node, path=""):
    for name, value in node.items():
      if isinstance(value, type(config)):
        yield from sections(value, f"{path}{name}.")
    if path and "name" in node:
      yield path.removesuffix(".")

  named = [x for x in sections(config) if not x.startswith(open_or_parts)]
  ranges = ("optimizer", "train_reward.optimizer")  # the same fields for all
  assert len(named) > 15
  assert {*named} - {*ranges} <= {*config_lib.METHOD_SECTIONS}


@pytest.mark.job
@pytest.mark.turns(3)
def test_every_policy_of_a_gallery_draws_as_many(tmp_path):
  small = {f"{SAMPLING}.num_steps": 2, f"{SAMPLING}.samples": 2}
  config = tiny.load("train_reward_scenes.py:smoke", tiny.MODEL, small)
  policy = setup.make_policy(config)
  params = tiny.shaken(tiny.drawn(policy.init, jax.random.key(0)))
  prompts = list(setup.load_prompts(config, "train")[:3])
  (alone,) = task_preferences.sample_policy(config, policy, params, prompts)
  file = tiny.save_weights(tmp_path / "other.safetensors", config, seed=1)
  with config.unlocked():
    config.train_reward.sampling.gallery = (file,)
  (both,) = task_preferences.sample_policy(config, policy, params, prompts)
  assert alone.shape[:2] == (3, 4) and both.shape[:2] == (3, 8)
  np.testing.assert_array_equal(both[:, :4], alone)
  other = setup.load_params(config, policy, spec=file)
  with config.unlocked():
    config.train_reward.sampling.gallery = ()
  (theirs,) = task_preferences.sample_policy(config, policy, other, prompts)
  # The same policy under other keys: neither a copy nor the base's.
  assert not np.array_equal(both[:, 4:], theirs)
  far = lambda a, b: np.abs(
    np.float64(a).mean((0, 1)) - np.float64(b).mean((0, 1))
  )
  assert far(both[:, 4:], theirs).mean() < far(both[:, 4:], alone).mean()


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"samples": 6}, r"config\.train_reward\.sampling\.samples=6"),
    ({"sampler.name": "ode"}, "take a sampler with noise"),
    ({"branch.steps": -1}, r"branch\.steps=-1: expected 0 to 9$"),
  ],
)
def test_samples_that_make_no_tree_are_refused(fields, words):
  fields = {f"{SAMPLING}.{name}": x for name, x in fields.items()}
  with pytest.raises(UserError, match=words):
    task_preferences.plan_of(tiny.load(RECIPE, fields))


def test_a_fork_without_noise_is_refused():
  """Two of three forks lie before the window: nothing would part there."""
  fields = {
    "rollout.group": 8, "rollout.num_steps": 8, "rollout.window_size": 4,
    "rollout.window_start": 4, "rollout.branch.members": 8,
    "rollout.branch.children": 2, "rollout.branch.every": 2,
  }  # fmt: skip
  config = tiny.load("align_scenes.py:flow_grpo", fields)
  noisy = (np.arange(8) >= 4) & (np.arange(8) < 8)
  table = setup.step_table(config, "rollout", noisy)
  with pytest.raises(
    UserError, match=r"part at step 0.*it does from step 4 to 8"
  ):
    branches.make_share(config, "rollout", 8, table)


@pytest.mark.parametrize("gallery", [(5,), ("",), ("workdir:policy",)])
def test_a_gallery_of_no_files_is_refused(gallery):
  config = tiny.load("train_reward_scenes.py:smoke")
  with config.unlocked():
    config.train_reward.sampling.gallery = gallery
  with pytest.raises(UserError, match="expected files of weights"):
    task_preferences.check_gallery(config)
  with config.unlocked():
    config.train_reward.source = "pairs.jsonl"
  with pytest.raises(UserError, match="no policy draws any"):
    task_preferences.check_gallery(config)
