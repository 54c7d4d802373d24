"""What a run's workdir says, for its report and its alarms.

Two of the files exist for the report alone: `sessions.json` says when and with
what a run was started, `code_usage.json` how often each word was used.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from uvim import files

CONFIG = "config.json"
METRICS = "metrics.jsonl"
IMAGES = "pictures"  # The folder.
SESSIONS = "sessions.json"
USAGE = "code_usage.json"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy",
             "tensorflow-cpu", "tensorflow-datasets")
_MAX_SESSIONS = 20


class Line(NamedTuple):
  """A line of metrics.jsonl.

  Attributes:
    step: training steps done.
    values: name → number.
    settings: what the scores were made with (temperature, seed, …); None
      unless the line comes from an evaluator.
  """
  step: int
  values: dict[str, float]
  settings: dict[str, Any] | None

  def to_json(self) -> str:
    content = {"step": self.step, **self.values}
    if self.settings is not None:
      content["settings"] = self.settings
    return json.dumps(content)


def parse_line(text: str) -> Line:
  """A line of metrics.jsonl; a ValueError or KeyError if it is damaged."""
  values = json.loads(text)
  # What is left are the numbers.
  step = values.pop("step")
  settings = values.pop("settings", None)
  return Line(step, values, settings)


def read_lines(workdir: pathlib.Path) -> Iterator[Line]:
  """The lines of metrics.jsonl; none if there is no such file yet."""
  path = workdir / METRICS
  if not path.exists():
    return
  for text in path.read_text().splitlines():
    yield parse_line(text)


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
  """config.json; an empty dict if there is none yet."""
  return _read_json(workdir / CONFIG, {})


Evaluator = dict[str, Any]  # An entry of "evals" in config.json.


class EvaluatorGroup(NamedTuple):
  """Evaluators whose scores can be compared: same measure, same data.

  Attributes:
    kind: the evaluators' "type".
    dataset: name of the data set.
    split: of the data set.
    evaluators: all of the run that have these three.
  """
  kind: str
  dataset: str
  split: str
  evaluators: list[Evaluator]


@dataclasses.dataclass(frozen=True)
class Run:
  """What a workdir says.

  Attributes:
    workdir: the folder.
    config: config.json.
    metrics: name → [(step, value), …].
    settings: name of a score → what it was made with.
    sessions: one dict for each time the run was started.
    usage: {"step", "uses"}: how often each word was used; or {}.
  """
  workdir: pathlib.Path
  config: dict[str, Any]
  metrics: dict[str, list[tuple[int, float]]]
  settings: dict[str, dict[str, Any]]
  sessions: list[dict[str, Any]]
  usage: dict[str, Any]

  @property
  def evaluators(self) -> list[Evaluator]:
    return list(self.config.get("evals", ()))

  def evaluator_groups(self) -> list[EvaluatorGroup]:
    """The evaluators by measure and data; losses ("mean") come last."""
    groups = {}
    for evaluator in self.evaluators:
      key = (evaluator["type"], evaluator["dataset"], evaluator["split"])
      if key not in groups:
        groups[key] = EvaluatorGroup(*key, evaluators=[])
      groups[key].evaluators.append(evaluator)
    # `sorted` is stable, so the measures keep the order of the config.
    return sorted(groups.values(), key=lambda group: group.kind == "mean")

  def score_names(self, *evaluators: Evaluator) -> list[str]:
    """What evaluators have reported, without their prefixes; each once."""
    names = {}  # Keeps the order, unlike a set.
    for evaluator in evaluators:
      for metric in self._metrics_of(evaluator["prefix"]):
        names[metric.removeprefix(evaluator["prefix"])] = None
    return list(names)

  def _metrics_of(self, prefix: str) -> Iterator[str]:
    """The scores that begin with `prefix` and with no longer one."""
    # An empty prefix is the beginning of every name.
    others = ["alarm/"]
    for evaluator in self.evaluators:
      # If "val/" and "val/fid/" both fit, the longer one owns the metric.
      if len(evaluator["prefix"]) > len(prefix):
        others.append(evaluator["prefix"])
    for metric in self.settings:
      if metric.startswith(prefix) and not metric.startswith(tuple(others)):
        yield metric


def read_run(workdir: str | os.PathLike) -> Run:
  """Reads a workdir; what is not there yet is empty."""
  workdir = pathlib.Path(workdir)
  metrics = {}
  settings = {}
  for line in read_lines(workdir):
    for name, value in line.values.items():
      # The lines are in order of step, so these points are too.
      metrics.setdefault(name, []).append((line.step, value))
      if line.settings is not None:
        # The newest line counts.
        settings[name] = line.settings
  return Run(
      workdir=workdir, config=read_config(workdir), metrics=metrics,
      settings=settings, sessions=_read_json(workdir / SESSIONS, []),
      usage=_read_json(workdir / USAGE, {}))


def note_session(workdir: pathlib.Path, start_step: int,
                 total_steps: int) -> None:
  """Adds to sessions.json when, where and with what the run is started."""
  now = datetime.datetime.now(datetime.UTC)
  program = os.path.basename(sys.argv[0])
  device_kind = jax.devices()[0].device_kind
  session = {
      "started": now.isoformat(" ", "seconds"),
      "step": start_step,
      "total_steps": total_steps,
      "command": " ".join([program, *sys.argv[1:]]),
      "devices": f"{jax.device_count()} × {device_kind}",
      "processes": jax.process_count(),
      "python": platform.python_version(),
      "platform": platform.platform(),
      "versions": _versions(),
  }
  # A run may be restarted for weeks: only the newest starts are kept.
  path = workdir / SESSIONS
  sessions = [*_read_json(path, []), session]
  files.write_json(path, sessions[-_MAX_SESSIONS:], indent=None)


def note_usage(workdir: pathlib.Path, step: int, usage_Q: np.ndarray) -> None:
  """Keeps how often each word was used, for the newest step only."""
  content = {"step": step, "uses": np.asarray(usage_Q).tolist()}
  files.write_json(workdir / USAGE, content, indent=None)


def _versions() -> dict[str, str]:
  """Package → version, of those that are installed."""
  versions = {}
  # Names of distributions: several differ from what is imported.
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return versions


def _read_json(path: pathlib.Path, absent: Any) -> Any:
  """The file's content, or `absent`. A damaged file is an error here."""
  if not path.exists():
    return absent
  return json.loads(path.read_text())
