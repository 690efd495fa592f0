"""Which feed a method gets, and what is said where none fits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import feeds, methods, objectives, regularizers
from jaxreward.errors import LINE, UserError, squeeze
from jaxreward.feeds import contract
from jaxreward.flow import rollout, steppers
from jaxreward.numerics import Mean


@pytest.mark.parametrize(
  ("name", "feed"),
  [
    ("flow_grpo", "steps"),
    ("grpo_guard", "steps"),
    ("flow_dppo", "steps"),
    ("diffusion_nft", "noised"),
    ("awm", "noised"),
    ("flow_dpo", "pairs"),
    ("dgpo", "lists"),
    ("align_prop", "tail"),
    ("srpo", "predicted"),
    ("one_step_reward", "predicted"),
    ("flow_matching", "noised"),
  ],
)
def test_the_feed_follows_from_the_signature(name, feed):
  assert feeds.match(objectives.REGISTRY[name], feeds.FEEDS, "x") == feed


def test_every_objective_and_regularizer_has_a_feed():
  """Beside references, and what players and advantages give."""
  also = ("value", "gate", "latent_score", "place_weight")
  every = {
    name: contract.with_references(feed, ["target", "fake", "surrogate"])
    for name, feed in feeds.FEEDS.items()
  }
  for registry in (objectives.REGISTRY, regularizers.REGISTRY):
    for fn in registry.values():
      feeds.match(fn, every, "x", also=also)


def test_a_name_that_nobody_offers_is_told_with_those_there_are():
  def loss(log_prob, old_log_probs, advantage, mask):
    raise AssertionError

  with pytest.raises(UserError) as caught:
    feeds.match(loss, feeds.FEEDS, "objective.name")
  line = str(caught.value)
  assert 'no feed offers "old_log_probs" (did you mean "old_log_prob"?)' in line
  assert '"steps" has' in line and "log_prob" in line


@pytest.mark.parametrize("name", feeds.FEEDS)
def test_every_name_of_the_feed_is_told(name, caplog):
  caplog.set_level("INFO")

  def loss(absent, mask):
    raise AssertionError

  feed = contract.with_references(feeds.FEEDS[name], ["target"])
  for offers in (feeds.FEEDS[name], feed):
    with pytest.raises(UserError) as caught:
      feeds.match(loss, {name: offers}, "objective.name")
    line = str(caught.value)
    assert squeeze(line) == line  # nothing is cut
    parts = [f"{r.getMessage()}, " for r in caplog.records]
    text = "".join(parts) if "listed above" in line else line
    names = re.split(r"[, ]+", text.partition(" has ")[2].strip(", "))
    assert set(names) == set(offers.offers)
    assert all(len(part) < LINE for part in parts)
    caplog.clear()


def test_names_of_two_feeds_are_refused():
  def loss(log_prob, v, mask):
    raise AssertionError

  with pytest.raises(UserError, match="beside the other arguments"):
    feeds.match(loss, feeds.FEEDS, "objective.name")


def test_options_are_not_asked_for():
  def loss(v, t, mask, *, beta=1.0, **rest):
    raise AssertionError

  assert methods.asks(loss) == ("v", "t", "mask")


def test_a_regularizer_of_another_feed_is_refused():
  with pytest.raises(UserError, match=r'reads "mean".*does not offer.*v_old'):
    feeds.require(
      regularizers.step_kl, "noised", feeds.FEEDS["noised"], "regularizers.kl"
    )


class Counting(feeds.Network):
  """A network that counts how often it is run."""

  def __init__(self):
    object.__setattr__(self, "calls", [])

  @property
  def runs(self):
    return len(self.calls)

  def step(self, rows):
    self.calls.append("step")
    return rows["x_t"].sum(1), rows["x_t"]


def arrays_of(name, rows, *, on_policy=False):
  made = {role: Counting() for role in ("policy", "old", "reference")}
  plan = plan_of(feed=feeds.FEEDS[name], is_fresh=on_policy)
  lazy = {role: lambda role=role: made[role] for role in made}
  return feeds.Arrays(feeds.FEEDS[name], rows, lazy, plan), made


def plan_of(prompts=3, group=4, rows=5, **changes):
  times = np.linspace(1.0, 0.0, 4)
  given = dict(
    table=steppers.flow_sde(times), trained=(0, 1), prompts=prompts,
    group=group, updates=1, guidance_scale=1.0, feed=feeds.FEEDS["noised"],
    layout=rollout.make_layout(prompts, group, rows),
  )  # fmt: skip
  given |= changes
  return feeds.Plan(rows=given["layout"], **given)


def test_an_array_is_computed_once_and_only_if_asked_for():
  rows = {"x_t": jnp.ones((2, 3)), "mask": jnp.ones(2, bool)}
  arrays, made = arrays_of("steps", rows)

  def loss(log_prob, mean, mask):
    return log_prob, mean

  feeds.call(loss, arrays)
  feeds.call(lambda mean, reference_mean: None, arrays)
  assert {k: v.runs for k, v in made.items()} == {
    "policy": 1, "old": 0, "reference": 1
  }  # fmt: skip


def test_on_policy_the_old_mean_is_the_mean_and_costs_nothing():
  rows = {"x_t": jnp.ones((2, 3)), "mask": jnp.ones(2, bool)}
  arrays, made = arrays_of("steps", rows, on_policy=True)
  np.testing.assert_array_equal(arrays("old_mean"), arrays("mean"))
  assert made["old"].runs == 0
  slope = jax.grad(
    lambda x: arrays_of("steps", rows | {"x_t": x}, on_policy=True)[0](
      "old_mean"
    ).sum()
  )(rows["x_t"])
  assert not np.any(slope)


@pytest.mark.turns(3)
@pytest.mark.parametrize("split", ["times", "samples"])
@pytest.mark.parametrize("updates", [1, 2])
def test_rows_are_cut_into_every_row_once(split, updates):
  plan = plan_of(split=split, updates=updates)
  layout = rollout.make_layout(3, 4, 5, parts=updates)
  plan = plan_of(split=split, updates=updates, layout=layout)
  size = len(layout.mask)
  rows = {
    "number": jnp.arange(2 * size).reshape(2, size),
    "step": {"t": jnp.array([10.0, 20.0])},
  }
  micros = feeds.cut(rows, plan)
  assert micros["number"].shape[:2] == micros["step"]["t"].shape
  assert micros["number"].shape[0] == updates
  assert sorted(micros["number"].ravel().tolist()) == list(range(2 * size))
  time = jnp.broadcast_to(
    micros["step"]["t"][..., None], micros["number"].shape
  )
  np.testing.assert_array_equal(time, (micros["number"] // size + 1) * 10)


def test_prepared_columns_are_not_asked_of_the_feed():
  @methods.prepares(
    lambda log_prob, mask: {"level": log_prob},
    lambda columns: {"level": columns["level"] * 0 + columns["level"].mean()},
    gives=("level",),
  )
  def loss(log_prob, level, mask):
    return Mean.of(log_prob - level, mask), {}

  assert contract.reads(loss) == ("log_prob", "mask")
  assert feeds.match(loss, feeds.FEEDS, "x") == "steps"
