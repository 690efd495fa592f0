"""What holds for every recipe: one table, the same proofs for each row.

All of them are loaded and checked at every size. What compiles or runs takes
turns, so that its cost does not grow with the number of recipes: each commit
runs the next few, and `pytest -m slow` the rest.
"""

import pathlib

import jax
import numpy as np
import pytest

from jaxreward import config as config_lib
from jaxreward import jobs
from jaxreward.errors import UserError
from jaxreward.recipes import SIZES
from jaxreward.rewards import contexts_of
from jaxreward.setup import reward_model
from jaxreward.training import checkpoint
from jaxreward.training.state import abstract
from tests import tiny, turns

EVERY = sorted(path.stem for path in (tiny.CONFIGS / "recipes").glob("*.py"))


def sizes(*names: str) -> list:
  """Of every recipe the miniature is loaded with every test, others with jobs."""
  others = [pytest.mark.job, pytest.mark.turns(3)]
  marks = lambda name: [] if name == "smoke" else others
  return [pytest.param(name, marks=marks(name)) for name in names]


@pytest.fixture
def types_of_miniatures(request):
  """Types are checked as miniatures are loaded; other sizes differ in numbers."""
  if request.node.callspec.params["size"] != "smoke":
    request.getfixturevalue("as_users_call")


def those_of(call: str) -> list[str]:
  """Recipes whose file calls a function of `recipes`."""
  text = lambda name: (tiny.CONFIGS / f"recipes/{name}.py").read_text()
  return [name for name in EVERY if f"recipes.{call}(" in text(name)]


PUBLISHED = those_of("published_reward")
# of align, without a full size
FOR_USERS = [
  name
  for call in ("for_users", "of_scores", "require_scenes")
  for name in those_of(call)
]
REWARD_MODELS = [
  name
  for call in ("reward_model", "of_users", "judged", "aligned_and_judged")
  for name in those_of(call)
]
STEERED = those_of("steered")
JUDGES = those_of("by_verdicts") + those_of("taught_judge")
OF_SCENES = REWARD_MODELS + STEERED + JUDGES  # without a full size
RECIPES = [
  name for name in EVERY if name not in OF_SCENES + PUBLISHED
]  # of align
GEOMETRY = {
  "rollout.prompts": 3,
  "rollout.group": 4,
  "align.updates": 2,
  "align.split": "samples",
  "optimizer.learning_rate": 1e-3,
}
NEEDS = {"pisces_ot": "ott"}  # packages of an extra
DUE = 4  # recipes of a commit whose runs are not slow
# Those with a state to resume, of an advantage and of a player, resume always.
RESUMED = ("ddpo_tracker", "ac_flow")


def load(name, *overrides, size="smoke"):
  if name in NEEDS:
    pytest.importorskip(NEEDS[name])
  return tiny.load(f"recipes/{name}.py:{size}", *overrides)


def due(turn: int, always: tuple[str, ...] = ()) -> set[str]:
  """Recipes whose programs a commit compiles and runs: `DUE` beside `always`.

  The next commit takes those that follow, so that any n commits on end run n
  times as many. The others run too where slow tests do.
  """
  others = [name for name in RECIPES if name not in always]
  first = turn * DUE
  return {*always, *(others[(first + i) % len(others)] for i in range(DUE))}


def rotated(always: tuple[str, ...] = ()) -> list:
  """Every recipe, `slow` unless it is due."""
  return turns.slow_but(RECIPES, due(turns.turn(), always))


def test_every_recipe_has_its_turn():
  count = -(-len(RECIPES) // DUE)
  for start in (0, 1, 1000):
    for always in ((), RESUMED):
      names = [due(start + i, always) for i in range(count)]
      assert max(map(len, names)) <= DUE + len(always)
      assert set().union(*names) == set(RECIPES)


@pytest.mark.usefixtures("types_of_miniatures")
@pytest.mark.parametrize("size", sizes(*SIZES))
@pytest.mark.parametrize("name", RECIPES)
def test_it_loads_and_is_checked_at_every_size(name, size, tmp_path):
  overrides = {}
  if size == "full" and name in FOR_USERS:
    with pytest.raises(UserError, match="no full size"):
      load(name, size=size)
    return
  if size == "full":
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na cat\na dog\n")
    overrides["data.source"] = prompts
    if name == "geneval":
      facts = tmp_path / "facts.jsonl"
      facts.write_text(
        "".join(
          f'{{"prompt": "{prompt}", "include": [{{"class": "dog", "count": 1}}]}}\n'
          for prompt in prompts.read_text().splitlines()
        )
      )
      overrides["rewards.objects.facts"] = facts
  check(load(name, overrides, size=size))


def check(config):
  jobs.find(config)
  jobs.check(config.job, config)
  text = config_lib.to_json(config)
  assert config_lib.to_json(config_lib.from_json(text)) == text


@pytest.mark.usefixtures("types_of_miniatures")
@pytest.mark.parametrize("size", sizes("default", "smoke"))
@pytest.mark.parametrize("name", OF_SCENES)
def test_of_scenes_it_loads_and_is_checked_at_both_sizes(name, size):
  check(load(name, size=size))
  with pytest.raises(UserError, match="no full size"):
    load(name, size="full")


# Towers of the published sizes, in the place of weights to download.
SIZES_OF = {"pick_score": "vit_h_14", "hpsv2": "vit_h_14",
            "image_reward": "image_reward", "social_reward": "vit_l_14", "aesthetic_predictor": "vit_l_14",
            "solireward": "qwen2_vl_2b", "ixc25_reward": "qwen2_vl_2b"}  # fmt: skip


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.usefixtures("types_of_miniatures")
@pytest.mark.parametrize("size", sizes(*SIZES))
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_one_loads_and_is_checked_at_every_size(name, size):
  """At full size every program's shapes are traced."""
  towers = {}
  if size == "full":
    keys = ("weights", "size", "tokenizer")
    values = ("", SIZES_OF[name], "")
    part = "reward_model.backbone."
    towers = {part + k: v for k, v in zip(keys, values, strict=True)}
  config = load(name, towers, size=size)
  check(config)
  if size == "full":
    model = reward_model.make(config)
    side = 448 if SIZES_OF[name].startswith("qwen") else 224
    assert model.backbone.image_shape == (side, side, 3)


@pytest.mark.parametrize("name", EVERY)
def test_its_docstring_names_the_paper(name):
  text = (tiny.CONFIGS / "recipes" / f"{name}.py").read_text()
  assert "https://" in text.split('"""')[1]
  assert len(text.splitlines()) <= 40


# Thresholds that the rewards below, which are near 2, lie on both sides of, and
# what the small policy has not.
OVERRIDES = {
  "uniworld_v2_edit_r1": {
    "advantage.least_spread": 0.0, "advantage.most_mean": 9.0,
  },
  "verpo_check_weights": {"composition.passed": 2.0},
  "ssl_sweet_spot": {"composition.thresholds": "(1.951,1.96,1.972,1.98)"},
  "rlfr_flow_reward": {"align.hold_policy": 0},
  # the student's labels come later, and at first it scores all alike
  "oni_async_distilled_judge": {
    "players.student.floor": 0.0, "rewards.detector.weight": 1.0,
  },
  "jarvisevo_sepo": {
    "players.evaluator.floor": 0.0, "rewards.detector.weight": 1.0,
  },
  # its answer is above nothing at first
  "retouchiq_pgrt": {"rewards.detector.weight": 1.0},
  "artifact_reward": {"align.hold_policy": 0},  # the policy is to learn
  "euphonium": {"align.hold_policy": 0},
  "implicit_prm": {"align.hold_policy": 0},
  "anyprefer": {"advantage.least": 0.0},  # each optimizer step is to have a pair
  "dense_grpo": {"align.hold_policy": 0},
  # rewards below have no texts to move
  "d2_align": {"align.hold_policy": 0, "players.bias": "none"},
  "texforce": {"lora.rank": 0},  # the small policy has no layers to adapt
  "softrepa": {"align.trained": ""},
}  # fmt: skip

# Rewards, and noise to the end, for miniatures whose random weights draw nothing that
# their own tell apart.
SIGNALS = {
  "euphonium": tiny.REWARD,
  "eva_idm_reward": {
    "rewards.redness.fn": tiny.REWARD["rewards.redness.fn"],
    "rollout.window_size": 0, "align.split": "samples",
  },
}  # fmt: skip


READ_ERRORS = ("ctrl_u",)  # of every pixel
SCALES = {"visual_erm": 0.5}  # of rewards, where a composition wants [0, 1]


def iteration(name, **changes):
  """Programs with the small policy, each reward a channel of the images."""
  dotted = {key.replace("__", "."): value for key, value in changes.items()}
  config = load(name, tiny.FAST, GEOMETRY, OVERRIDES.get(name, {}), dotted)
  rewards = config.rewards or {"redness": {}}
  function = "red_errors" if name in READ_ERRORS else "redness"
  with config.unlocked():
    # no gradient of nearly zero is divided by itself
    config.optimizer.eps = 1e-3
    config.rewards = {
      reward: dict(
        fn=f"{tiny.HERE}:{function}", channel=i % 3,
        weight=section.get("weight", 1.0),
      )
      for i, (reward, section) in enumerate(rewards.items())
    }  # fmt: skip
  scale = SCALES.get(name, 4.0)
  return tiny.Iteration(config, tiny.mesh_of(1), scale=scale)


@pytest.mark.job
@pytest.mark.parametrize("name", rotated(RESUMED))
def test_geometry_compiling_and_resuming(name, compile_counter, tmp_path):
  """Padding changes nothing, a step compiles once, a resumed one is the same."""
  runs = {}
  for rows in (12, 5):
    one = iteration(name, rollout__microbatch=rows)
    state, metrics, _ = one.step(one.state)
    runs[rows] = tiny.flat(state.params), tiny.numbers(metrics)
  np.testing.assert_allclose(runs[12][0], runs[5][0], atol=2e-5)
  assert runs[12][1].keys() == runs[5][1].keys()
  assert runs[12][1]["skipped_updates"] == 0
  assert runs[12][1].get("log_prob_gap", 0.0) == 0.0  # the ratio is exactly 1
  start = tiny.flat(one.state.params)
  assert not np.array_equal(runs[5][0], start)  # it learned something

  compile_counter.reset()
  saved = one.copy(state)
  with jax.set_mesh(one.mesh), checkpoint.Checkpoints(tmp_path / "a") as files:
    files.save(1, saved, {}, wait=True)
    compile_counter.reset()
    after, metrics, _ = one.step(state)
    jax.block_until_ready(after)
    assert not {"jit(update)", "jit(draw)"} & set(compile_counter.names)
    step, restored, _ = files.restore_latest(abstract(one.parts.state))
  assert step == 1
  again, same, _ = one.step(restored)
  assert tiny.same_bits(after, again)
  assert tiny.numbers(metrics) == tiny.numbers(same)


@pytest.mark.job
@pytest.mark.parametrize("name", ["dgpo", "flow_dpo", "draft_k"])
def test_devices_share_the_update(name):
  """Four of them do a good part less than one each, by the compiler's count."""
  config = load(name, tiny.FAST, GEOMETRY, {"rollout.prompts": 8})
  others = {f"rewards.{reward}": "none" for reward in config.rewards}
  redness = {"rewards.redness.fn": f"{tiny.HERE}:redness"}
  given = {"rollout.prompts": 8, "align.updates": 1, "rollout.microbatch": 32}
  config = load(name, others, redness, tiny.FAST, GEOMETRY, given)
  counts = {}
  for devices in (1, 4):
    one = tiny.Iteration(config, tiny.mesh_of(devices))
    with jax.set_mesh(one.mesh):
      trajectory, _, images = one.sample(one.state)
      scores = {"redness": tiny.redness(images, None)}
      program = one.parts.update.lower(
        one.state, one.parts.base, trajectory, scores, one.batch,
        contexts_of(one.rewards, one.batch) if one.rewards else None,
      ).compile()  # fmt: skip
    counts[devices] = program.cost_analysis()["flops"]
  assert counts[4] < 0.6 * counts[1]


@pytest.mark.job
@pytest.mark.parametrize("name", rotated())
def test_the_miniature_runs_end_to_end(name, tmp_path, monkeypatch):
  """On one device: others are compared with it by `test_devices_share_the_update`."""
  tiny.use_one_device(monkeypatch)
  config = load(name, {"mesh.data": 1}, SIGNALS.get(name, {}))
  workdir = tiny.run(config, tmp_path / "run")
  rows = tiny.rows(workdir, "align")
  assert [row["step"] for row in rows] == list(range(5))
  assert all(np.isfinite(row["loss"]) for row in rows[1:])
  assert any(row["update_norm"] > 0 for row in rows[1:])  # it taught something
  assert (pathlib.Path(workdir) / "report.html").exists()
  assert (pathlib.Path(workdir) / "policy.safetensors").exists()
