"""Evaluation metrics: functions that request arrays by argument name.

    def sharpness(images, mask, *, scale=1.0):
      return {"sharpness": ...}  # [P, G], or one number

The names of its positional arguments are the arrays it reads; its keyword-only
arguments are its options. An evaluator that reads only images, pixels, mask,
measures and the batch runs in the program that samples the images; the others
run on the host, on NumPy arrays. Returned arrays are averaged over their finite
entries. `align`, `pretrain` and `evaluate` run the same evaluators.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np

from jaxreward import user_code
from jaxreward.errors import UserError, nearest
from jaxreward.evaluation import accuracy as accuracy_lib
from jaxreward.evaluation import diversity, hacking
from jaxreward.methods import asks
from jaxreward.numerics import masked_mean
from jaxreward.types import Array, ArrayLike

F = TypeVar("F", bound=Callable[..., Any])
Results = Mapping[str, Any]  # metric -> number, [P, G], or a nested dict

# In the program that samples.
DRAWN = {
  "images": "[P, G, H, W, C] in [0, 1]",
  "pixels": "[P, G, H, W, C], the same unclipped",
  "mask": "bool [P, G]",
  "measures": "{name: [P, G]}, what the task measures",
  "batch": "`PromptBatch` of P prompts",
}
# On the host, after sampling and scoring.
SCORED = {
  "scores": "{reward: [P, G]}",
  "applicable": "{reward: bool [P, G]}, where it applies",
  "category": "int [P, G], of the prompts",
  "categories": "{number: name}",
  "meaning": "str [P, G]; images of one meaning succeed together",
}
OFFERS = DRAWN | SCORED


def on_host(fn: Callable[..., Any]) -> bool:
  """Whether an evaluator runs on the host."""
  return getattr(fn, "is_host", False) or not set(asks(fn)) <= set(DRAWN)


def declare(
  *, is_host: bool = False, row: Callable[[Results], Results] | None = None
) -> Callable[[F], F]:
  """Marks an evaluator.

  Args:
    is_host: it gets NumPy arrays, outside jit, whatever it reads.
    row: results -> the numbers to log during training, as eval/NAME; all
      numbers if None.
  """

  def mark(fn: F) -> F:
    vars(fn).update(is_host=is_host, row=row)
    return fn

  return mark


def require(fn: Callable[..., Any], field: str) -> None:
  """Rejects an evaluator that reads an unknown array.

  Raises:
    UserError: the name, and the available ones.
  """
  for name in asks(fn):
    if name not in OFFERS:
      raise UserError(
        f'config.{field}: it reads "{name}", which no evaluation'
        f" offers{nearest(name, OFFERS)}; there are {', '.join(OFFERS)}"
      )


def _ask(
  name: str, fn: Callable[..., Any], offers: Mapping[str, Any]
) -> Results:
  """Results of an evaluator; its errors become one line.

  Raises:
    UserError: its exception, or invalid results.
  """
  field = f"config.eval.evaluators.{name}"
  with user_code.blamed(field, fn, host=on_host(fn)):
    results = fn(**{k: offers[k] for k in asks(fn)})
  if not isinstance(results, Mapping):
    raise UserError(
      f"{field}: it returned {type(results).__name__}; expected"
      " {metric: number or [P, G]}"
    )
  p, g = offers["mask"].shape
  for metric, value in results.items():
    shape = value.shape if hasattr(value, "dtype") else ()
    if shape not in ((), (p,), (p, g)):
      raise UserError(
        f'{field}: its "{metric}" has the shape {shape}; expected a number,'
        f" [P] or [P, G], here {(p, g)}"
      )
  return {str(k): v for k, v in results.items()}


@dataclasses.dataclass(frozen=True)
class Evaluators:
  """The evaluators of a run.

  Attributes:
    functions: name -> evaluator, its options bound.
  """

  functions: Mapping[str, Callable[..., Any]]

  def drawn(self, **offers: Any) -> dict[str, Results]:
    """Results of those that run in the sampling program; call it in jit."""
    return {
      name: _ask(name, fn, offers)
      for name, fn in self.functions.items()
      if not on_host(fn)
    }

  def finish(
    self, device_results: Mapping[str, Results], **offers: Any
  ) -> dict[str, dict[str, Any]]:
    """Results of all evaluators, arrays averaged.

    Args:
      device_results: results of `drawn`, on the host; may include others'.
      **offers: all arrays, on the host.
    """
    results = dict(device_results)
    for name, fn in self.functions.items():
      if name not in results:
        results[name] = _ask(name, fn, offers)
    return {
      name: {k: _average(v) for k, v in metrics.items()}
      for name, metrics in results.items()
    }

  def row(self, results: Mapping[str, Results]) -> dict[str, float]:
    """Numbers to log during training, without "eval/"."""
    row: dict[str, float] = {}
    for name, fn in self.functions.items():
      pick = getattr(fn, "row", None) or _numbers
      row |= pick(results[name])
    return row

  def merged(self, results: Mapping[str, Results]) -> dict[str, Any]:
    """One dict for evaluation.json: host metrics first, the others by name.

    Raises:
      UserError: two evaluators return the same metric.
    """
    host: dict[str, Any] = {}
    device: dict[str, Any] = {}
    for name, metrics in results.items():
      fn = self.functions.get(name)
      is_host = fn is not None and on_host(fn)
      for metric, value in metrics.items():
        if metric in host or metric in device:
          raise UserError(
            f"config.eval.evaluators.{name}: another evaluator gives"
            f' "{metric}" too; leave one of the two out'
          )
        (host if is_host else device)[metric] = value
    return host | {name: device[name] for name in sorted(device)}


def _average(value: Any) -> Any:
  """Arrays as the mean of their finite entries; other values unchanged."""
  if not hasattr(value, "dtype"):
    return value
  array = np.asarray(value)
  mean = np.mean if np.isfinite(array).all() else np.nanmean
  return float(mean(array))


def _numbers(results: Results) -> dict[str, float]:
  return {
    k: float(v)
    for k, v in results.items()
    if isinstance(v, int | float) and not isinstance(v, bool)
  }


def _measures_row(results: Results) -> Results:
  return {k: results[k] for k in ("texture",) if k in results}


@declare(row=_measures_row)
def measures(measures: Mapping[str, ArrayLike]) -> dict[str, ArrayLike]:
  """Measures of the task except the verdict; see `accuracy`."""
  return {k: v for k, v in measures.items() if k != "strict"}


def _accuracy_row(results: Results) -> dict[str, float]:
  if "strict" not in results:
    return {}
  categories = {
    f"accuracy/{k}": v["accuracy"] for k, v in results["kinds"].items()
  }
  return {"accuracy": results["strict"]} | categories


@declare(is_host=True, row=_accuracy_row)
def accuracy(
  measures: Mapping[str, np.ndarray],
  category: np.ndarray,
  categories: Mapping[int, str],
  meaning: np.ndarray,
) -> dict[str, Any]:
  """Share of correct images, see `accuracy.summarise`; empty without judge."""
  if "strict" not in measures:
    return {}
  return accuracy_lib.summarise(
    np.asarray(measures["strict"]).reshape(-1), category.reshape(-1),
    names=categories, clusters=meaning.reshape(-1),
  )  # fmt: skip


def _rewards_row(results: Results) -> dict[str, float]:
  means = results["rewards"].items()
  return {f"reward/{k}": v for k, v in means if v is not None}


@declare(is_host=True, row=_rewards_row)
def rewards(
  scores: Mapping[str, ArrayLike], applicable: Mapping[str, ArrayLike]
) -> dict[str, dict[str, float | None]]:
  """Means of the scores that are applicable and finite; None without any."""
  means: dict[str, float | None] = {}
  for name, values in scores.items():
    valid = jnp.isfinite(values) & applicable[name]
    mean = masked_mean(values, valid) if bool(valid.any()) else None
    means[name] = None if mean is None else float(mean)
  return {"rewards": means}


def group_diversity(images: Array, mask: Array) -> dict[str, Array]:
  """Diversity of the images of a prompt; see `diversity`."""
  return {"diversity": diversity.group_diversity(images, mask)}


@declare(row=lambda results: {})
def image_statistics(images: Array) -> dict[str, Array]:
  """Edges, colours and brightness; see `hacking`."""
  return {
    "edge_density": hacking.edge_density(images),
    "colour_entropy": hacking.colour_entropy(images),
    "brightness": hacking.brightness(images),
  }


REGISTRY: dict[str, Callable[..., Any]] = {
  "measures": measures,
  "accuracy": accuracy,
  "rewards": rewards,
  "diversity": group_diversity,
  "image_statistics": image_statistics,
}
