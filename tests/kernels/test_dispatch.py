"""Which form runs where."""

import jax
import jax.numpy as jnp
import pytest

from jaxreward import compat
from jaxreward.errors import UserError
from pallas_kernels import dispatch
from tests.kernels import programs

TRITON = "__gpu$xla.gpu.triton"


def primitives(jaxpr) -> list:
  """All equations, of inner programs too."""
  found = []
  for equation in jaxpr.eqns:
    found.append(equation)
    for value in equation.params.values():
      for inner in value if isinstance(value, (tuple, list)) else [value]:
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns"):
          found += primitives(inner)
  return found


def kernels(program, operands) -> list:
  """Whether each Pallas call of a program is interpreted."""
  closed = jax.make_jaxpr(program)(*operands)
  calls = [
    e for e in primitives(closed.jaxpr) if e.primitive.name == "pallas_call"
  ]
  return [bool(e.params["interpret"]) for e in calls]


@pytest.mark.turns(3)
@pytest.mark.parametrize("case", list(programs.CASES))
def test_forms_are_what_they_say(case):
  program, operands = programs.CASES[case]
  assert kernels(program("xla"), operands) == []
  auto = kernels(program("auto"), operands)
  assert auto and all(auto)  # no accelerator here
  for form in ("tpu", "triton"):
    assert kernels(program(form), operands) == [False] * len(auto)


@pytest.mark.parametrize(
  ("platform", "form"),
  [("tpu", "tpu"), ("gpu", "triton"), ("cpu", "interpret")],
)
def test_the_platform_decides(platform, form, monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: platform)
  assert dispatch.choose("auto") == form
  assert dispatch.choose("xla") == "xla"


def test_the_mesh_comes_before_the_default_backend(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  assert dispatch.choose("auto") == "tpu"
  with jax.set_mesh(jax.make_mesh((8,), ("data",))):
    assert dispatch.choose("auto") == "interpret"


def test_an_unknown_form_is_one_line():
  with pytest.raises(UserError, match='did you mean "triton"') as error:
    dispatch.choose("tritn")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", list(programs.CASES))
@pytest.mark.turns(3)
def test_triton_lowers_for_cuda_on_any_machine(case):
  program, operands = programs.CASES[case]
  with compat.absent_gpu():
    traced = jax.jit(program("triton")).trace(*operands)
    lowered = traced.lower(lowering_platforms=("cuda",))
  expected = len(kernels(program("triton"), operands))
  assert lowered.as_text().count(f"@{TRITON}(") == expected > 0


def test_no_matrix_of_pairs_is_an_array_of_the_program():
  """4,096 candidates: nothing outside the kernel is longer than the inputs."""
  program, operands = programs.CASES["pairs_4096"]

  def largest(form):
    closed = jax.make_jaxpr(program(form))(*operands)
    equations = [
      e for e in primitives(closed.jaxpr) if e.primitive.name != "pallas_call"
    ]
    sizes = [v.aval.size for e in equations for v in e.outvars]
    return max(sizes)

  assert largest("xla") >= 4096**2
  outer = jax.make_jaxpr(program("tpu"))(*operands)
  for equation in primitives_outside(outer.jaxpr):
    for variable in equation.outvars:
      assert variable.aval.size <= 4 * 2 * 4096


def primitives_outside(jaxpr) -> list:
  """Equations that are not inside a Pallas kernel."""
  found = []
  for equation in jaxpr.eqns:
    found.append(equation)
    if equation.primitive.name == "pallas_call":
      continue
    for value in equation.params.values():
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        found += primitives_outside(inner)
  return found


def test_a_second_call_compiles_nothing(compile_counter):
  program, _ = programs.CASES["replay"]
  run = jax.jit(program("interpret"))
  operands = [jnp.ones((2, 5))] * 3
  run(*operands)
  compile_counter.reset()
  run(*(2 * x for x in operands))
  assert "loss" not in " ".join(compile_counter.names)
