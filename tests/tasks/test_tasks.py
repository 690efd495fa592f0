"""Tasks: what they own, which prompts they take, and a new one from outside."""

import dataclasses
import inspect

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import config as config_lib
from jaxreward import tasks
from jaxreward.data import prompts
from jaxreward.data.prompts import Prompt
from jaxreward.errors import UserError
from jaxreward.tasks import free
from jaxreward.types import ArrayLike

NAMES = list(tasks.TASKS)
OWN = [tasks.TASKS[name] for name in tasks.OWN]


def test_the_numbers_of_categories_and_the_first_batches_never_change():
  """They are part of random streams: other ones are other runs."""
  numbers = {name: list(task.categories) for name, task in tasks.TASKS.items()}
  assert numbers["scenes"] == list(range(6)) and numbers["free"] == [6]
  assert numbers["edits"] == list(range(7, 13))
  assert numbers["portraits"] == list(range(13, 18))
  assert numbers["portrait_edits"] == list(range(18, 27))
  assert numbers["motion"] == list(range(27, 33))
  scenes = tasks.TASKS["scenes"]
  batch = scenes.batches(scenes.prompts("train"), seed=0, batch_size=4)(0)
  first = [3857397621, 3415564911, 2367988706, 1919960059]
  assert batch.ids.tolist() == first and batch.category.tolist() == [0, 1, 2, 3]


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.parametrize("task", OWN, ids=tasks.OWN)
def test_a_task_measures_its_own_prompts(task):
  chosen = task.prompts("heldout")[::50][:2]
  batch = task.batch(chosen, 3)
  leaves = jax.tree.leaves(batch.plain)
  assert {x.shape[0] for x in leaves} == {3}
  assert batch.mask.tolist() == [True, True, False]
  assert all(number in task.categories for number in batch.category[:2])
  side = task.side or 36
  images = jnp.full((3, 2, side, side * max(task.frames, 1), 3), 0.9)
  images = images.at[:, 1].set(1.5)
  found = jax.jit(task.measure)(jnp.clip(images, 0, 1), images, batch)
  assert {x.shape for x in found.values()} == {(3, 2)}
  assert set(task.verdict) <= set(found)
  share = found["out_of_range"]
  np.testing.assert_allclose(share, [[0, 1]] * 3, rtol=1e-6)
  assert set(task.describe(images[0])) == {"nothing"}
  splits = [{p.meaning for p in task.prompts(s)} for s in prompts.SPLITS]
  assert sum(map(len, splits)) == len(set.union(*splits))
  assert len(task.prompts(None)) == sum(
    len(task.prompts(s)) for s in prompts.SPLITS
  )


@pytest.mark.parametrize(
  ("name", "source", "said"),
  [
    ("scene", "scenes", 'did you mean "scenes"'),
    ("edits", "mine.txt", 'source="edits" alone, which is "mine.txt"'),
    ("edits", "scenes", 'source="edits" alone'),
    ("scenes", "edits", 'grammar to "edits", or to "free"'),
  ],
)
def test_prompts_that_a_task_cannot_judge_are_refused(name, source, said):
  with pytest.raises(UserError, match=said):
    tasks.get(name, source)


@pytest.mark.parametrize("name", ["scenes", "portraits"])
def test_pictures_of_preferences_are_options_of_every_task(name):
  config = config_lib.load(f"configs/train_reward_{name}.py")
  pictures = config.train_reward.pictures.to_dict()
  assert isinstance(pictures.pop("reference"), bool)  # of all tasks
  collect = tasks.TASKS[name].preferences
  inspect.signature(collect).bind("key", "prompts", "samples", **pictures)


def test_free_takes_the_prompts_of_others_and_judges_none():
  task = tasks.get("free", "edits")
  assert task.prompts("train") == tasks.TASKS["edits"].prompts("train")
  assert task.has_pictures and not task.verdict and not task.rewards
  batch = task.batches(task.prompts("train"), seed=0, batch_size=2)(0)
  assert batch.source is not None and batch.extras is not None
  pixels = jnp.zeros((2, 1, 8, 8, 3))  # of any size
  assert set(task.measure(pixels, pixels, batch)) == {"out_of_range"}
  assert tasks.get("free", "mine.txt").own is None


def test_unknown_categories_and_splits_are_told():
  scenes = tasks.TASKS["scenes"]
  assert {p.category for p in scenes.prompts("train", "", ["two"])} == {1}
  with pytest.raises(UserError, match='did you mean "counting"'):
    scenes.prompts("train", "", ["count"])
  with pytest.raises(UserError, match='did you mean "train"'):
    scenes.prompts("trian")


@flax.struct.dataclass
class Wanted:
  level: ArrayLike


def grey(text):
  return Prompt(text, int(text.split()[1]) > 50, pictures=None)


def rows(chosen, size=None):
  batch = prompts.batch(chosen, size)
  level = np.zeros(len(batch.ids), np.float32)
  level[: len(chosen)] = [int(p.text.split()[1]) / 100 for p in chosen]
  return dataclasses.replace(batch, extras=Wanted(level))


def measure(images, pixels, batch):
  off = images.mean((2, 3, 4)) - jnp.asarray(batch.extras.level)[:, None]
  return {"strict": (jnp.abs(off) < 0.1).astype(jnp.float32)}


def test_a_task_of_ones_own_reads_a_file_and_judges(tmp_path):
  """Levels of grey: nothing of the library knows what the prompts mean."""
  path = tmp_path / "train.txt"
  path.write_text("\n".join(f"grey {n}" for n in range(0, 101, 5)))
  task = tasks.Task(
    "grey", {0: "dark", 1: "light"}, grey, measure=measure, rows=rows
  )
  train, heldout = (task.prompts(s, str(path)) for s in ("train", "heldout"))
  assert not {p.text for p in train} & {p.text for p in heldout}
  options = dict(seed=0, batch_size=4, kind_weights=(1, 3))
  batch = task.batches(train, **options)(5)
  assert sorted(batch.category.tolist()) == [0, 1, 1, 1]
  level = batch.extras.level
  np.testing.assert_array_equal(level > 0.5, batch.category == 1)
  assert batch.tokens is None
  images = np.broadcast_to(level[:, None, None, None, None], (4, 2, 3, 3, 3))
  images = images + np.array([0, 0.5])[None, :, None, None, None]
  found = jax.jit(task.measure)(images, images, batch)
  np.testing.assert_array_equal(found["strict"], [[1, 0]] * 4)
  with pytest.raises(UserError, match="dark, light"):
    task.batches(train, seed=0, batch_size=4, kind_weights=(1,))


def test_prompts_in_any_words_are_of_one_category():
  chosen = [free.parse("a  photo of\ta cat"), free.parse("rain")]
  assert [p.text for p in chosen] == ["a photo of a cat", "rain"]
  batch = free.TASK.batch(chosen, 3)
  assert batch.category.tolist() == [6, 6, 0]
  assert batch.tokens is None and batch.extras is None
