"""Views of a run's metrics beside its record: TensorBoard, W&B, MLflow.

A tracker is a function of a `Run` and options that returns a `Tracker`. Its
failures are told in the log and stop nothing.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from etils import epath

from jaxreward import reading
from jaxreward.files import write_atomic

IDS_FILE = "trackers.json"


@dataclasses.dataclass(frozen=True)
class Run:
  """What a tracker is told.

  Attributes:
    workdir: of the run.
    job: whose metrics it shows.
    settings: fields of the config by dotted name.
    purge_step: of a resumed job, which writes again from this step on.
  """

  workdir: epath.Path
  job: str
  settings: Mapping[str, Any]
  purge_step: int | None = None

  @property
  def name(self) -> str:
    """The working directory's name and the job."""
    return f"{self.workdir.name} {self.job}"

  def id_of(self, tracker: str, make: Callable[[], str]) -> str:
    """The tracker's name of this run, kept so that a resumed job goes on."""
    path, ids = self.workdir / IDS_FILE, {}
    if path.exists():
      ids = reading.parse(path.read_text(), reading.name(path))
    key = f"{tracker}/{self.job}"
    if key not in ids:
      ids[key] = make()
      write_atomic(path, json.dumps(ids, indent=1).encode())
    return ids[key]


@runtime_checkable
class Tracker(Protocol):
  """Takes finite scalars of increasing steps, those after a resume again."""

  def write(self, step: int, scalars: Mapping[str, float]) -> None: ...

  def publish(self) -> None: ...

  def close(self) -> None: ...


def tensorboard(run: Run) -> Tracker:
  """Event files in WORKDIR/tensorboard/JOB."""
  events = importlib.import_module("jaxreward.training.events")
  return events.EventFile(run.workdir / "tensorboard" / run.job, run.purge_step)


class _WeightsAndBiases:
  def __init__(self, run: Run, project: str, entity: str, mode: str):
    library = importlib.import_module("wandb")
    self._run = library.init(
      project=project,
      entity=entity or None,
      mode=mode or None,
      id=run.id_of("wandb", lambda: uuid.uuid4().hex),
      name=run.name,
      group=run.workdir.name,
      job_type=run.job,
      resume="allow",
      dir=None if "://" in os.fspath(run.workdir) else os.fspath(run.workdir),
      config=dict(run.settings),
      settings=library.Settings(console="off"),
    )
    # W&B drops steps that it has had; as a metric they may come again.
    self._run.define_metric("*", step_metric="step")

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    self._run.log({**scalars, "step": step})

  def publish(self) -> None:
    pass

  def close(self) -> None:
    self._run.finish()


def wandb(
  run: Run, *, project: str = "jaxreward", entity: str = "", mode: str = ""
) -> Tracker:
  """Weights & Biases: one run per job, those of a working directory a group.

  Args:
    run: what it shows.
    project: where the run appears.
    entity: whose project; the account's default if empty.
    mode: "online", "offline" or "disabled"; by default as WANDB_MODE says.
  """
  return _WeightsAndBiases(run, project, entity, mode)


class _MLflow:
  def __init__(self, run: Run, experiment: str, uri: str):
    library = importlib.import_module("mlflow")
    self._metric = library.entities.Metric
    self._client = library.MlflowClient(tracking_uri=uri or None)
    self._id = run.id_of("mlflow", lambda: self._create(run, experiment))

  def _create(self, run: Run, experiment: str) -> str:
    place = self._client.get_experiment_by_name(experiment)
    place = place and place.experiment_id
    if place is None:
      place = self._client.create_experiment(experiment)
    created = self._client.create_run(place, run_name=run.name)
    for name, value in run.settings.items():
      text = str(value)[:250]  # what every server takes
      self._client.log_param(created.info.run_id, name, text)
    return created.info.run_id

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    now = time.time_ns() // 10**6
    rows = [self._metric(n, float(v), now, step) for n, v in scalars.items()]
    self._client.log_batch(self._id, metrics=rows)

  def publish(self) -> None:
    pass

  def close(self) -> None:
    self._client.set_terminated(self._id)


def mlflow(
  run: Run, *, experiment: str = "jaxreward", uri: str = ""
) -> Tracker:
  """MLflow: one run per job.

  Args:
    run: what it shows.
    experiment: where the run appears; made if absent.
    uri: of the server or store; by default as MLFLOW_TRACKING_URI says.
  """
  return _MLflow(run, experiment, uri)


REGISTRY: dict[str, Callable[..., Tracker]] = {
  "tensorboard": tensorboard,
  "wandb": wandb,
  "mlflow": mlflow,
}
