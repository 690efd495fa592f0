"""Configs: loading, overrides, binding, identity; every mistake is one line."""

import math
import pathlib

import pytest
from ml_collections import ConfigDict, config_dict

from jaxreward import config as config_lib
from jaxreward.errors import UserError, nearest

CONFIG = """
from ml_collections import ConfigDict, config_dict


def get_config(arg=None):
  return ConfigDict(dict(
    job="align",
    size=arg or "full",
    seed=0,
    verbose=False,
    jobs=("pretrain", "align"),
    note=None,
    limit=config_dict.placeholder(int),
    optimizer=dict(name="adamw", learning_rate=1e-3, betas=(0.9, 0.99)),
    objective=dict(name="grpo", clip=0.1, kl_weight=0.0),
    rewards=dict(detector=dict(fn="detector", weight=1.0)),
    heldout_rewards=dict(),
  ))
"""


@pytest.fixture
def file(tmp_path) -> str:
  path = tmp_path / "base.py"
  path.write_text(CONFIG)
  return str(path)


def write(tmp_path: pathlib.Path, name: str, text: str) -> str:
  (tmp_path / name).write_text(text)
  return str(tmp_path / name)


def failure(action, *args, **kwargs) -> str:
  with pytest.raises(UserError) as caught:
    action(*args, **kwargs)
  text = str(caught.value)
  assert "\n" not in text
  return text


# loading


def test_argument_reaches_get_config_and_the_result_is_locked(file):
  assert config_lib.load(file).size == "full"
  config = config_lib.load(f"{file}:smoke")
  assert config.size == "smoke"
  with pytest.raises(AttributeError):
    config.typo = 1
  with pytest.raises(AttributeError):
    config.optimizer.typo = 1


def test_plain_dicts_and_functions_without_argument_are_taken(tmp_path):
  path = write(tmp_path, "a.py", "def get_config():\n  return {'a': {'b': 1}}")
  assert config_lib.load(path).a.b == 1
  assert "takes no argument" in failure(config_lib.load, f"{path}:x")


def test_a_config_builds_on_its_sibling_wherever_it_is_called(
  tmp_path, file, monkeypatch
):
  recipe = write(
    tmp_path,
    "recipe.py",
    "from jaxreward import config\n"
    "def get_config(arg=None):\n"
    "  c = config.load_sibling(f'base.py:{arg}', __file__)\n"
    "  c.optimizer.learning_rate = 7.0\n"
    "  c.extra = 1\n"
    "  return c\n",
  )
  monkeypatch.chdir("/")
  config = config_lib.load(f"{recipe}:tiny")
  assert (config.size, config.optimizer.learning_rate) == ("tiny", 7.0)
  assert config.extra == 1


@pytest.mark.parametrize(
  ("source", "expected"),
  [
    ("x = 1", "defines no function get_config"),
    ("def get_config():\n  return 3", "returned int, not a ConfigDict"),
    ("import nonsuch_module", "bad.py:1: ModuleNotFoundError"),
    ("def get_config():\n  raise ValueError('why')", "bad.py:2: ValueError"),
    ("def get_config(:\n", "bad.py:1: SyntaxError"),
    ("def get_config():\n  return 1 / 0", "bad.py:2: ZeroDivisionError"),
  ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, source, expected):
  path = write(tmp_path, "bad.py", source)
  assert expected in failure(config_lib.load, path)


def test_a_missing_file_names_the_nearest(tmp_path, file):
  text = failure(config_lib.load, str(tmp_path / "bsae.py"))
  assert "no such file" in text and "base.py" in text


def test_parse_arg_types_its_values():
  parse = lambda arg: config_lib.parse_arg(arg, size="full", fast=False, n=3)
  assert parse(None) == {"size": "full", "fast": False, "n": 3}
  assert parse("smoke,fast") == {"size": "smoke", "fast": True, "n": 3}
  assert parse("n=5,fast=false") == {"size": "full", "fast": False, "n": 5}
  assert '(did you mean "fast"?)' in failure(parse, "fats=1")
  assert "expected an integer" in failure(parse, "n=x")


def test_parse_arg_knows_the_choices():
  kinds = ("text", "class")
  parse = lambda arg: config_lib.parse_arg(arg, kind=kinds, smoke=False)
  assert parse("") == {"kind": "text", "smoke": False}
  assert parse("smoke,kind=class") == {"kind": "class", "smoke": True}
  assert parse("class,smoke=false") == {"kind": "class", "smoke": False}
  known = "known: text, class, smoke"
  assert f'"smok" is not known (did you mean "smoke"?); {known}' in failure(
    parse, "smok"
  )
  text = failure(parse, "smoke,kind=clas")
  assert text.endswith('(did you mean "class"?); known: text, class')
  flags = lambda arg: config_lib.parse_arg(arg, smoke=False)
  assert '(did you mean "smoke"?)' in failure(flags, "smok")


# overrides


@pytest.mark.parametrize(
  ("key", "text", "expected"),
  [
    ("seed", "7", 7),
    ("seed", "-1", -1),
    ("optimizer.learning_rate", "3", 3.0),
    ("optimizer.learning_rate", "1e-4", 1e-4),
    ("optimizer.name", "muon", "muon"),
    ("verbose", "true", True),
    ("verbose", "0", False),
    ("jobs", "align", ("align",)),
    ("jobs", "align, evaluate", ("align", "evaluate")),
    ("jobs", "('a', 'b')", ("a", "b")),
    ("jobs", "()", ()),
    ("optimizer.betas", "0,1", (0.0, 1.0)),
    ("note", "3", 3),
    ("note", "a text", "a text"),
    ("note", "none", None),
    ("limit", "5", 5),
    ("limit", "none", None),
    ("rewards.detector.weight", "2", 2.0),
    ("objective.new_argument", "0.5", 0.5),
  ],
)
def test_an_override_takes_the_type_of_its_field(file, key, text, expected):
  value = config_lib.load(file, [(key, text)])
  for part in key.split("."):
    value = value[part]
  assert value == expected and type(value) is type(expected)
  if isinstance(expected, tuple):
    assert [type(v) for v in value] == [type(v) for v in expected]


@pytest.mark.parametrize(
  ("key", "text", "expected"),
  [
    ("optimzer.name", "x", 'did you mean "optimizer.name"'),
    ("learning_rate", "1", 'did you mean "optimizer.learning_rate"'),
    ("optimizer.lerning_rate", "1", 'did you mean "optimizer.learning_rate"'),
    ("zzz", "1", "the fields there are heldout_rewards, job"),
    ("seed", "1.5", "config.seed=1.5: expected an integer"),
    ("seed", "x", "config.seed=x: expected an integer"),
    ("limit", "x", "config.limit=x: expected an integer"),
    ("verbose", "2", "config.verbose=2: expected true or false"),
    ("optimizer.learning_rate", "fast", "expected a number"),
    ("optimizer.betas", "a,b", "expected a number in each place"),
    ("optimizer", "3", "this is a section"),
    ("optimizer", "{'name': 'x'}", "this is a section"),
    ("seed.x", "3", "config.seed is 0, not a section"),
    ("optimizer.new", "3", "config.optimizer.new: no such field"),
  ],
)
def test_a_wrong_override_says_what_is_meant(file, key, text, expected):
  assert expected in failure(config_lib.load, file, [(key, text)])


def test_rewards_are_added_changed_and_removed(file):
  config = config_lib.load(
    file,
    [
      ("rewards.mine.fn", "my.py:sharpness"),
      ("rewards.mine.weight", "0.5"),
      ("rewards.mine.sizes", "(1, 2)"),
      ("rewards.mine.flag", "true"),
      ("rewards.detector", "none"),
      ("heldout_rewards.other.fn", "detector"),
      ("heldout_rewards.third", "{'fn': 'detector', 'k': 2}"),
    ],
  )
  assert config.rewards.to_dict() == {
    "mine": {
      "fn": "my.py:sharpness",
      "weight": 0.5,
      "sizes": (1, 2),
      "flag": True,
    }
  }
  assert config.heldout_rewards.other.fn == "detector"
  assert config.heldout_rewards.third.k == 2
  assert config.rewards.is_locked


def test_another_method_drops_the_arguments_of_the_old_one(file):
  pairs = [("objective.beta", "2.0"), ("objective.name", "nft")]
  config = config_lib.load(file, pairs)
  assert config.objective.to_dict() == {"name": "nft", "beta": 2.0}
  same = config_lib.load(file, [("objective.name", "grpo")])
  assert same.objective.clip == 0.1


@pytest.mark.parametrize(
  ("section", "old", "argument"),
  [
    ("composition", "weighted_sum", "epsilon"),
    ("rollout.sampler", "ode", "noise_level"),
    ("train_reward.loss", "bradley_terry", "threshold"),
  ],
)
def test_a_method_takes_arguments_wherever_it_stands(section, old, argument):
  outer, _, last = section.rpartition(".")
  method = {last: {"name": old, "margin": 0.5}, "other": 1}
  config = ConfigDict({outer: method} if outer else method)
  pairs = [(f"{section}.{argument}", "0.25"), (f"{section}.name", "new")]
  config_lib.override(config, pairs)
  found = config[outer][last] if outer else config[last]
  assert found.to_dict() == {"name": "new", argument: 0.25}
  assert (config[outer] if outer else config).other == 1


def test_a_method_of_a_section_that_is_not_there(file):
  text = failure(config_lib.load, file, [("train_reward.loss.name", "hinge")])
  assert "config.train_reward.loss.name: no such field" in text


def test_references_follow_an_override():
  config = ConfigDict({"n": 2})
  config.twice = config.get_ref("n") * 2
  config_lib.override(config, [("n", "5")])
  assert config.twice == 10


# binding


def grpo(latents, *, clip: float = 0.1, steps: int = 3, name_of="x"):
  return latents, clip, steps, name_of


def needy(x, *, scale):
  return x * scale


grpo.is_host = True
REGISTRY = {"grpo": grpo, "needy": needy}


def section(**fields) -> ConfigDict:
  return ConfigDict(fields).lock()


def test_bind_fills_in_the_arguments():
  fn = config_lib.bind(
    section(name="grpo", clip=2, steps=5),
    REGISTRY,
    field="objective",
    positional=1,
  )
  assert fn("z") == ("z", 2.0, 5, "x")
  assert type(fn.keywords["clip"]) is float
  assert fn.is_host and fn.__name__ == "grpo"


def test_bind_leaves_reserved_fields_and_makes_sections_plain():
  taking = lambda images, **options: options
  entry = section(fn="taking", weight=1.0, table={"a": 1})
  fn = config_lib.bind(
    entry,
    {"taking": taking},
    field="rewards.mine",
    key="fn",
    reserved=("weight",),
    positional=1,
  )
  assert fn(None) == {"table": {"a": 1}}
  assert type(fn(None)["table"]) is dict


@pytest.mark.parametrize(
  ("fields", "options", "expected"),
  [
    (dict(name="gprp"), {}, 'did you mean "grpo"'),
    (dict(name=3), {}, "is not known"),
    (dict(clip=1.0), {}, 'lacks "name"'),
    (dict(name="grpo", clp=1.0), {}, 'did you mean "clip"'),
    (dict(name="grpo", clip="x"), {}, "expected float"),
    (dict(name="grpo", steps=1.5), {}, "expected int"),
    (dict(name="grpo", steps=True), {}, "expected int"),
    (dict(name="needy"), {}, 'lacks "scale"'),
    (dict(name="grpo", latents=1), {}, "given by the program"),
    (dict(name="grpo", clip=1.0), {"supplied": ("clip",)}, "given by"),
    (dict(name="grpo"), {"positional": 3}, "takes 1 positional arguments; 3"),
  ],
)
def test_bind_refuses_what_does_not_fit(fields, options, expected):
  options = {"positional": 1, **options}
  text = failure(
    config_lib.bind, section(**fields), REGISTRY, field="objective", **options
  )
  assert expected in text and "config.objective" in text


def test_supplied_arguments_need_not_be_in_the_config():
  fn = config_lib.bind(
    section(name="needy"),
    REGISTRY,
    field="objective",
    positional=1,
    supplied=("scale",),
  )
  assert fn(2, scale=3) == 6


def test_callables_by_name_dotted_path_and_file(tmp_path):
  path = write(
    tmp_path,
    "my.py",
    "import dataclasses\n"
    "@dataclasses.dataclass\nclass Point:\n  x: int = 1\n"
    "def sharpness(images): return images\nvalue = 3\n",
  )
  resolve = lambda spec: config_lib.resolve_callable(
    spec, REGISTRY, field="rewards.mine.fn"
  )
  assert resolve("grpo") is grpo
  assert resolve("math.hypot") is math.hypot
  assert resolve(f"{path}:sharpness")(4) == 4
  assert resolve(f"{path}:sharpness") is resolve(f"{path}:sharpness")
  for spec, expected in [
    ("grop", 'did you mean "grpo"'),
    ("math.hypo", 'did you mean "hypot"'),
    ("nonsuch_pkg.fn", "No module named 'nonsuch_pkg'"),
    (f"{path}:sharpnes", 'did you mean "sharpness"'),
    (f"{path}:value", 'no function "value"'),
    (path, "name the function too"),
    (f"{tmp_path}/mu.py:f", "no such file"),
  ]:
    text = failure(resolve, spec)
    assert expected in text and "config.rewards.mine.fn" in text, spec


def test_a_file_that_raises_is_named_with_its_line(tmp_path):
  path = write(tmp_path, "broken.py", "x = 1\nraise RuntimeError('no')\n")
  text = failure(
    config_lib.resolve_callable, f"{path}:f", {}, field="rewards.mine.fn"
  )
  assert "broken.py:2: RuntimeError: no" in text


# identity


def test_json_round_trip_keeps_every_value(file):
  config = config_lib.load(file)
  with config.unlocked():
    config.odd = (math.inf, -math.inf, (1, 2), "text", None, 0.1 + 0.2)
  back = config_lib.from_json(config_lib.to_json(config))
  assert back.to_dict() == config.copy_and_resolve_references().to_dict()
  assert back.is_locked and type(back.optimizer.learning_rate) is float
  assert "Infinity" not in config_lib.to_json(config)


def test_json_refuses_what_a_config_may_not_hold():
  config = ConfigDict({"a": {"b": len}})
  assert "config.a.b holds a builtin" in failure(config_lib.to_json, config)


@pytest.mark.parametrize(
  "value", ["a\udce9", {"k\udce9": 1}, ("a", ("\ud800",))]
)
def test_json_refuses_what_no_file_holds(value):
  """It would be written, and refused when the run is resumed."""
  config = ConfigDict({"a": {"b": value}})
  line = failure(config_lib.to_json, config)
  assert line.startswith("config.a.b") and "not UTF-8" in line


def test_differences_name_what_changes_results(file):
  old = config_lib.load(file)
  new = config_lib.load(
    file, [("seed", "1"), ("optimizer.betas", "0.8,0.99"), ("note", "x")]
  )
  assert config_lib.differences(old, old) == []
  assert config_lib.differences(old, new) == [
    "note: None -> 'x'",
    "optimizer.betas: (0.9, 0.99) -> (0.8, 0.99)",
    "seed: 0 -> 1",
  ]


def test_differences_see_added_and_removed_entries(file):
  old = config_lib.load(file)
  new = config_lib.load(file, [("heldout_rewards.a.fn", "detector")])
  lines = config_lib.differences(old, new)
  assert "heldout_rewards.a.fn: (absent) -> 'detector'" in lines
  assert config_lib.differences(new, old) != []


def test_differences_pass_over_what_does_not_change_results():
  make = lambda **kw: ConfigDict(
    dict(
      workdir="a",
      checkpoint=dict(every=1, keep=2),
      mesh=dict(data=-1),
      progress=dict(every=1),
    )
    | kw
  )
  other = make(workdir="b", checkpoint=dict(every=9), mesh=dict(data=4))
  assert config_lib.differences(make(), other) == []


def test_a_placeholder_is_null_until_it_is_set():
  config = ConfigDict({"n": config_dict.placeholder(int)})
  assert '"n": null' in config_lib.to_json(config)


def test_nearest_is_silent_about_strangers():
  assert nearest("weigth", ["weight", "fn"]) == ' (did you mean "weight"?)'
  assert nearest("xyz", ["weight", "fn"]) == ""
