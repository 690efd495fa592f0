"""Running rewards: names, shapes, failures, host and device."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import rewards
from jaxreward.binding import resolve_callable
from jaxreward.errors import UserError
from jaxreward.rewards import scoring
from jaxreward.setup import rewards as reward_setup
from jaxreward.tasks.scenes import grammar

P, G = 3, 2


@pytest.fixture
def images():
  draw = np.random.default_rng(0).random((P, G, 4, 4, 3))
  return draw.astype(np.float32)


@pytest.fixture
def prompts():
  return grammar.batch(grammar.prompts("train")[:P])


def redness(images, prompts):
  return images[..., 0].mean((-2, -1))


def test_a_bare_array_is_named_after_the_config_key(images, prompts):
  scores, failed = rewards.score(
    rewards.build({"warm": redness}), images, prompts
  )
  np.testing.assert_allclose(
    scores["warm"], images[..., 0].mean((2, 3)), rtol=1e-6
  )
  assert scores["warm"].dtype == jnp.float32
  assert int(failed["warm"]) == 0


def test_a_function_from_a_file_of_the_user(tmp_path, images, prompts):
  file = tmp_path / "mine.py"
  file.write_text(
    "def redness(images, prompts):\n  return images[..., 0].mean((-2, -1))\n"
  )
  fn = resolve_callable(f"{file}:redness", rewards.REGISTRY, field="rewards.a")
  scores, _ = rewards.score(rewards.build({"a": fn}), images, prompts)
  np.testing.assert_allclose(
    scores["a"], images[..., 0].mean((2, 3)), rtol=1e-6
  )


def test_names_of_dictionaries(images, prompts):
  one = lambda i, p: {"inner": redness(i, p)}
  two = lambda i, p: {"x": redness(i, p), "y": -redness(i, p)}
  scores, _ = rewards.score(
    rewards.build({"one": one, "two": two}), images, prompts
  )
  assert sorted(scores) == ["one", "two/x", "two/y"]


def test_failures_are_counted_not_zeroed(images, prompts):
  def half(images, prompts):
    return jnp.where(jnp.arange(G) == 0, jnp.nan, redness(images, prompts))

  scores, failed = rewards.score(rewards.build({"half": half}), images, prompts)
  assert int(failed["half"]) == P
  assert np.isnan(scores["half"][:, 0]).all()
  assert np.isfinite(scores["half"][:, 1]).all()


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize(
  ("result", "words"),
  [
    (lambda i: i[:, :, 0, 0, 0].sum(1), r"shape \[3\]; .*\[3, 2\]"),
    (lambda i: i[..., 0, 0, 0].T, r"shape \[2, 3\]"),
    (lambda i: "good", "returned a str"),
    (lambda i: None, "returned a NoneType"),
    (lambda i: {}, "no score"),
    (lambda i: i[..., 0, 0, 0] + 1j, "complex"),
    (lambda i: {"s": [[1, 2], [3]]}, "unequal length"),
  ],
)
def test_a_wrong_result_is_one_line_with_the_name(
  images, prompts, on_host, result, words
):
  fn = lambda i, p: result(i)
  fn.is_host = on_host
  with pytest.raises(UserError, match=words) as error:
    rewards.score(rewards.build({"mine": fn}), images, prompts)
  assert '"mine"' in str(error.value)
  assert "\n" not in str(error.value)


def test_integers_and_booleans_become_float(images, prompts):
  fn = lambda i, p: redness(i, p) > 0.5
  scores, _ = rewards.score(rewards.build({"b": fn}), images, prompts)
  assert scores["b"].dtype == jnp.float32


def test_a_host_reward_gets_numpy_arrays(images, prompts):
  seen = []

  @rewards.declare(is_host=True)
  def host(images, prompts):
    seen.append((type(images), type(prompts.tokens)))
    return redness(images, prompts)

  built = rewards.build({"host": host, "device": redness})
  scores, _ = rewards.score(built, jnp.asarray(images), prompts)
  assert seen == [(np.ndarray, np.ndarray)]
  np.testing.assert_allclose(scores["host"], scores["device"], rtol=1e-6)


def test_a_host_reward_that_raises_loses_its_prompts_only(images, prompts):
  @rewards.declare(is_host=True)
  def fragile(images, prompts):
    if (np.asarray(prompts.ids) == bad).any():
      raise RuntimeError("server said no")
    return redness(images, prompts)

  bad = prompts.ids[1]
  scores, failed = rewards.score(
    rewards.build({"fragile": fragile}), images, prompts
  )
  lost = np.isnan(np.asarray(scores["fragile"]))
  np.testing.assert_array_equal(lost, [[False] * G, [True] * G, [False] * G])
  assert int(failed["fragile"]) == G


def test_a_host_reward_that_always_raises_stops_the_run(images, prompts):
  @rewards.declare(is_host=True)
  def broken(images, prompts):
    raise RuntimeError("server said no\nand more")

  with pytest.raises(
    UserError, match=r"whole batch: .*server said no$"
  ) as error:
    rewards.score(rewards.build({"judge": broken}), images, prompts)
  assert '"judge"' in str(error.value)


def test_what_a_person_has_to_mend_is_not_asked_for_again(images, prompts):
  asked = []

  @rewards.declare(is_host=True)
  def refused(images, prompts):
    asked.append(len(images))
    raise UserError("key_env=KEY: no such key")

  with pytest.raises(UserError, match=r'^reward "judge": key_env=KEY: no such'):
    rewards.score(rewards.build({"judge": refused}), images, prompts)
  assert asked == [P]


def test_require_scores_stops_on_a_lost_batch_only():
  some = np.array([[1.0, np.nan]])
  lost = np.full((1, 2), np.nan)
  rewards.require_scores({"a": some})
  with pytest.raises(UserError, match='"b" gave no finite score'):
    rewards.require_scores({"a": some, "b": lost})
  rewards.require_scores({"b": lost}, np.zeros((1, 2), bool))
  with pytest.raises(UserError, match="1 samples"):
    rewards.require_scores({"a": some}, np.array([[False, True]]))


def test_context_enters_jit_as_an_argument(images, prompts, compile_counter):
  fn = lambda i, p, *, factor: factor * redness(i, p)
  built = rewards.build({"f": fn}, contexts={"f": {"factor": jnp.ones(())}})
  first, _ = rewards.score(built, images, prompts)
  compile_counter.reset()
  again, _ = rewards.score(built, images, prompts)
  assert compile_counter.count == 0
  doubled = {"f": scoring.Context({"factor": 2 * jnp.ones(())}, {})}
  found = rewards.device_scores(built, doubled, images, prompts)
  np.testing.assert_allclose(found["f"], 2 * again["f"], rtol=1e-6)
  np.testing.assert_array_equal(first["f"], again["f"])


def test_build_reads_declarations_and_weights():
  marked = rewards.declare(is_host=True)(lambda i, p: None)
  bound = functools.update_wrapper(functools.partial(marked), marked)
  built = rewards.build({"a": bound, "b": redness}, {"a": 2})
  assert built["a"].is_host
  assert not built["b"].is_host
  assert (built["a"].weight, built["b"].weight) == (2.0, 1.0)
  with pytest.raises(UserError, match='"c"'):
    rewards.build({"a": redness}, {"c": 1.0})
  with pytest.raises(UserError, match="finite"):
    rewards.build({"a": redness}, {"a": float("nan")})


def test_the_registry_keeps_the_contract():
  known = reward_setup.registry()
  assert set(known) >= {"detector", "strict", "learned"}
  for fn in known.values():
    assert fn.is_host in (True, False)


def test_errors_of_pixels_are_those_of_one_reward(images, prompts):
  def errors(images, prompts):
    flat = images.reshape(*images.shape[:2], -1)
    return rewards.Scores(flat.mean(-1), errors=flat - 1)

  built = rewards.build({"warm": redness, "a": errors, "b": errors})
  contexts = rewards.contexts_of(built, prompts)
  of = lambda *names: rewards.device_errors(
    {n: built[n] for n in names}, contexts, images, prompts
  )
  name, values = of("warm", "a")
  assert name == "a"
  np.testing.assert_array_equal(values, images.reshape(P, G, -1) - 1)
  for names, known in ((("warm",), "none"), (("a", "b"), "a, b")):
    with pytest.raises(UserError, match=f"of config.rewards {known} gives"):
      of(*names)
  wrong = rewards.build(
    {"a": lambda i, p: rewards.Scores(redness(i, p), errors=np.ones((2, 2)))}
  )
  with pytest.raises(UserError, match=r"as errors .* \[P, G, N\]"):
    rewards.device_errors(wrong, contexts, images, prompts)
