"""Functions and files of a person's own."""

import functools
import textwrap

from jaxreward import config as config_lib
from jaxreward.setup import rehearsal
from tests import tiny
from tests.bad_inputs.table import Row

HEAD = """\
import functools
import jax, jax.numpy as jnp, numpy as np
from jaxreward.rewards import declare

"""
LINE = HEAD.count("\n")  # of what stands above a body


@functools.cache
def _probe():
  return rehearsal.probe(tiny.load("align_scenes.py:smoke"))


def _asked(here):
  fn = config_lib.resolve_callable(f"{here}/my.py:score", {}, field="x.fn")
  rehearsal.validate_rewards({"mine": fn}, *_probe(), trained=("mine",))


def reward(name, body, *says):
  """A reward that is found, and fails when it is asked; says its line."""
  text = HEAD + textwrap.dedent(body).lstrip("\n")
  return Row(name, ("mine", *says), {"my.py": text}, call=_asked)


def line(number):
  """How the line of a body is told."""
  return f"my.py:{LINE + number}:"


def named(name, text, *says, fn="{here}/my.py:score", **options):
  """A file that a run refuses when it looks for the function."""
  return Row(
    name, says, {"my.py": text}, overrides={"rewards.mine.fn": fn}, **options
  )


DECORATED = """
def twice(fn):
  @functools.wraps(fn)
  def run(*args, **kwargs):
    return 2 * fn(*args, **kwargs)
  return run

@twice
def score(images, prompts):
  dark = images - 0.5
  return np.asarray(dark).mean((2, 3, 4))
"""
HOST = "@declare(is_host=True)\ndef score(images, prompts):\n"
TENSOR = """
class Tensor:
  def detach(self):
    return self
  def __array__(self, *args, **kwargs):
    raise TypeError("bfloat16")

"""
MEND = "declare(is_host=True)"

ROWS = [
  # inside jit
  reward(
    "NumPy under jit", DECORATED, line(10), "use jax.numpy", MEND
  ),
  reward(
    "if under jit",
    """
    def score(images, prompts):
      if images.mean() > 0:
        return images.mean((2, 3, 4))
    """,
    line(2), "jnp.where", MEND,
  ),
  reward(
    "item under jit, in vmap",
    """
    def score(images, prompts):
      return jax.vmap(lambda x: x.mean().item())(images)
    """,
    line(2), "keep arrays", MEND,
  ),
  reward(
    "float under jit",
    """
    def score(images, prompts):
      return [[float(x.mean()) for x in row] for row in images]
    """,
    line(2), "keep arrays", MEND,
  ),
  reward(
    "boolean index",
    """
    def score(images, prompts):
      return images[images > 0.5].mean()
    """,
    line(2), "jnp.where(mask", MEND,
  ),
  reward(
    "a length from a value",
    """
    def score(images, prompts):
      return sum(images[i] for i in range(prompts.category[0]))
    """,
    line(2), MEND,
  ),
  reward(
    "a method of another library",
    """
    def score(images, prompts):
      return images.cpu().numpy().mean((2, 3, 4))
    """,
    line(2), "another library inside jit", MEND,
  ),
  reward(
    "in-place under jit",
    """
    def score(images, prompts):
      images[0] = 1.0
      return images.mean((2, 3, 4))
    """,
    line(2), "x.at[index].set(value)",
  ),
  reward(
    "an array kept from another call",
    """
    kept = []
    def score(images, prompts):
      kept.append(images.mean((2, 3, 4)))
      return kept[0]
    """,
    "compute it anew",
  ),
  reward(
    "an error of its own",
    """
    def helper(x):
      return {}["weight"] * x
    def score(images, prompts):
      return helper(images)
    """,
    line(2), "KeyError", "weight",
  ),
  reward(
    "exit under jit",
    """
    def score(images, prompts):
      raise SystemExit(0)
    """,
    line(2), "calls exit(0)",
  ),
  reward(
    "two scores",
    """
    def score(images, prompts):
      x = images.mean((2, 3, 4))
      return {"a": x, "b": -x}
    """,
    "several scores", "mine/a, mine/b",
  ),
  # what comes back
  reward("nothing", "def score(images, prompts):\n  pass", "return is missing"),
  reward(
    "a function",
    "def score(images, prompts):\n  return lambda: 0", "nobody calls",
  ),
  reward(
    "one per prompt",
    "def score(images, prompts):\n  return images.mean((1, 2, 3, 4))",
    "shape [2]", "[P, G] = [2, 4]",
  ),
  reward(
    "one number", "def score(images, prompts):\n  return 0.5", "shape []"
  ),
  reward(
    "complex",
    "def score(images, prompts):\n  return images[..., 0, 0, 0] + 1j",
    "complex",
  ),
  reward(
    "an empty dictionary", "def score(images, prompts):\n  return {}", "no score"
  ),
  reward("text", HOST + "  return 'good'", "returned a str"),
  reward(
    "None among numbers", HOST + "  return [[None] * 4] * 2", "failed is NaN"
  ),
  reward("rows of unequal length", HOST + "  return [[1, 2], [3]]", "unequal"),
  reward("objects", HOST + "  return np.full((2, 4), object())", "object"),
  reward("a generator", HOST + "  return (x for x in images)", "generator"),
  reward(
    "a coroutine",
    "async def ask():\n  return 1\n\n" + HOST + "  return ask()",
    "asyncio.run",
  ),
  reward(
    "an array that will not be NumPy",
    TENSOR + HOST + "  return Tensor()",
    "Tensor", ".detach().cpu().float().numpy()",
  ),
  # on the host
  reward("raises", HOST + "  return 1 / 0", line(3), "ZeroDivisionError"),
  reward(
    "writes into the pictures", HOST + "  images[0] = 1", line(3), "x.copy()"
  ),
  reward(
    "writes into the prompts",
    HOST + "  prompts.category[0] = 1", line(3), "x.copy()",
  ),
  reward("exit", HOST + "  exit(3)", line(3), "calls exit(3)"),
  # found and bound
  named(
    "syntax", "def score(images, prompts)\n  return 0", "my.py:1:", "expected"
  ),
  named(
    "indentation", "def score(a, b):\nreturn 0", "my.py:2:", "IndentationError"
  ),
  named(
    "two encodings", "\ufeffscore = 1\n".encode("utf-16"), "my.py", "SyntaxError"
  ),
  named(
    "a missing package", "import torchmetrics_of_mine",
    "my.py:1:", "pip install torchmetrics_of_mine",
  ),
  named(
    "a package of another name", "x = 1\nimport cv2_ as cv2, skimage.x",
    "my.py:2:", "pip install",
  ),
  Row(
    "a module beside it", ("my.py:1:", "beside", "PYTHONPATH="),
    {"my.py": "import helpers_of_mine", "helpers_of_mine.py": ""},
    overrides={"rewards.mine.fn": "{here}/my.py:score"},
  ),
  named("raises when it is read", "x = 1\n\n1 / 0", "my.py:3:", "ZeroDivision"),
  named("exits when it is read", "import sys\nsys.exit(0)", "my.py:2:", "exit"),
  named(
    "a class", "class score:\n  def __init__(self, a, b): pass",
    "it is a class",
  ),
  named("async", "async def score(a, b): pass", "async", "asyncio.run"),
  named("yields", "def score(a, b):\n  yield 0", "it yields"),
  named("no prompts", "def score(images): pass", "takes 1 positional"),
  named("needs more", "def score(a, b, c): pass", 'lacks "c"'),
  named("no function of this name", "def scor(a, b): pass", 'mean "scor"'),
  named("no function", "score = 3", 'no function "score"'),
  named("no name", "", "name the function too", fn="{here}/my.py"),
  named(
    "hides its arguments", "score = type", "class", fn="{here}/my.py:score"
  ),
  named(
    "a module that fails", "", "config.rewards.mine.fn=json.decoder.nothing",
    fn="json.decoder.nothing",
  ),
  *(
    reward(f"{where} that raises {kind}", f"""
    import asyncio
    class Odd(Exception):
      def __str__(self):
        return self.nothing
    class Base(BaseException):
      pass
    {mark}
    def score(images, prompts):
      raise {kind}
    """, line(9), says)
    for where, mark in (
      ("jit", "# in jit"), ("the host", "@declare(is_host=True)")
    )
    for kind, says in (
      ("asyncio.CancelledError", "CancelledError"),
      ("GeneratorExit", "GeneratorExit"),
      ("Base('words')", "Base: words"),
      ("Odd", "Odd: (its text cannot be had: AttributeError)"),
    )
  ),
  # jobs, configs, sweeps
  Row(
    "a job without a folder", ("config.job", "takes 1 positional"),
    {"my.py": "def run(config): pass"},
    overrides={"job": "{here}/my.py:run"},
  ),
  Row(
    "a job that is a class", ("config.job", "class"),
    {"my.py": "class run: pass"}, overrides={"job": "{here}/my.py:run"},
  ),
  Row(
    "a config that raises", ("c.py:3:", "KeyError"),
    {"c.py": "def get_config():\n  x = {}\n  return x['job']\n"},
    config="{here}/c.py",
  ),
  Row(
    "a config that exits", ("c.py:2:", "exit"),
    {"c.py": "def get_config():\n  raise SystemExit\n"}, config="{here}/c.py",
  ),
  Row(
    "a sweep that raises", ("s.py:2:", "ZeroDivisionError"),
    {"s.py": "def get_sweep():\n  return [1 / 0]\n"},
    options=("--sweep={here}/s.py",),
  ),
]  # fmt: skip
