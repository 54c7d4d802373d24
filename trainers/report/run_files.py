"""What a run's workdir says, for its report and its alarms.

Two of the files exist for the report alone: `sessions.json` says when and with
what a run was started, `code_usage.json` how often each word was used.

Any of the files may be damaged: a full disk, a kill, a disk error, an editor.
What cannot be read is left out and named in a warning; it never ends a run or
a report.
"""

import dataclasses
import json
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from trainers.report import session
from uvim import fields, files

CONFIG = "config.json"
METRICS = "metrics.jsonl"
IMAGES = "pictures"  # The folder.
SESSIONS = "sessions.json"
USAGE = "code_usage.json"
_MAX_SESSIONS = 20
# Before the names of what no evaluator has measured: an alarm's figure, and
# that an evaluator could not score.
ALARM = "alarm/"
FAILED = "failed/"
# How many different words the codes of an evaluator hold, on average.
WORDS_PER_CODE = "words_per_code"
# How many of their words one pass of the language model drew, on average.
WORDS_PER_PASS = "words_per_pass"
MAX_POINTS = 4000  # Of one curve; even.

log = logging.getLogger(__name__)
Point = tuple[int, float]


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


def parse_line(text: bytes) -> Line | None:
  """A line of metrics.jsonl; None if it is damaged."""
  try:
    content = json.loads(text)
    # What is left are the numbers.
    step = content.pop("step")
    settings = content.pop("settings", None)
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    return None
  line = Line(step, content, settings)
  return line if _is_sound(line) else None


def _is_sound(line: Line) -> bool:
  if not fields.is_integer(line.step):
    return False
  if not isinstance(line.settings, dict | None):
    return False
  # NaN is a number here: older files may hold it.
  return all(isinstance(value, fields.REALS) for value in line.values.values())


class Lines(NamedTuple):
  """The lines of metrics.jsonl.

  Attributes:
    sound: those that can be read.
    num_damaged: how many cannot, but for a last one that a kill cut short.
  """
  sound: list[Line]
  num_damaged: int


def read_lines(workdir: pathlib.Path) -> Lines:
  """Reads metrics.jsonl; no line if there is no such file yet."""
  try:
    content = (workdir / METRICS).read_bytes()
  except FileNotFoundError:
    return Lines([], 0)
  except OSError as error:
    log.warning("%s cannot be read: %s.", workdir / METRICS, error)
    return Lines([], 0)
  *texts, last_text = content.split(b"\n")
  sound = []
  num_damaged = 0
  for text in texts:
    line = parse_line(text)
    if line is None:
      num_damaged += 1
    else:
      sound.append(line)
  # A complete file ends with a line break. What comes after it was cut short,
  # or somebody has saved the file without the break.
  last = parse_line(last_text)
  if last is not None:
    sound.append(last)
  if num_damaged:
    log.warning("%s: %d damaged line(s) are left out.", workdir / METRICS,
                num_damaged)
  return Lines(sound, num_damaged)


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
  """config.json; an empty dict if there is none that can be read."""
  path = workdir / CONFIG
  config = files.read_json(path) or {}
  return config if has_shape(config, _ConfigShape, path) else {}


def kind_of(config: dict[str, Any]) -> str:
  """The family of a run, by its config.json."""
  # The config of an older run does not name its kind.
  kind_of_old_run = "lm" if config.get("oracle") else "vqvae"
  return config.get("kind") or kind_of_old_run


def quantizer(config: dict[str, Any]) -> str | None:
  """The quantizer of a stage I run; None: its config has no model."""
  model = config.get("model")
  if not model:
    return None
  # The config of an older run does not name it.
  return model.get("quantizer") or "vq"


def code_len(config: dict[str, Any]) -> int | None:
  """Places of the code that stage II learns; None if its config has none."""
  oracle = config.get("oracle") or {}
  model = oracle.get("model") or {}
  return model.get("code_len")


def has_shape(content: Any, shape: Any, path: pathlib.Path) -> bool:
  """Whether a file holds what the report asks for; else a warning."""
  try:
    msgspec.convert(content, shape)
  except msgspec.ValidationError as error:
    log.warning("%s is left out: %s.", path, error)
    return False
  return True


# ── What the report asks of each file ───────────────────────────────────────


class _EvaluatorShape(msgspec.Struct):
  name: str
  type: str
  dataset: str
  split: str
  options: dict[str, Any]
  pred: str
  prefix: str


class _ModelShape(msgspec.Struct):
  dict_size: int | None = None
  quantizer: str | None = None


class _OracleModelShape(msgspec.Struct):
  code_len: int | None = None


class _OracleShape(msgspec.Struct):
  task: str | None = None
  model: _OracleModelShape | None = None


class _ConfigShape(msgspec.Struct):
  kind: str | None = None
  task: str | None = None
  model: _ModelShape | None = None
  oracle: _OracleShape | None = None
  evals: list[_EvaluatorShape] = []


class _SessionShape(msgspec.Struct):
  total_steps: int
  devices: str = ""
  command: str = ""


class _UsageShape(msgspec.Struct):
  step: int
  uses: list[int]


# ── What it makes of them ───────────────────────────────────────────────────


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
    return self.config.get("evals", [])

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
    others = [ALARM, FAILED]
    for evaluator in self.evaluators:
      # If "val/" and "val/fid/" both fit, the longer one owns the metric.
      if len(evaluator["prefix"]) > len(prefix):
        others.append(evaluator["prefix"])
    for metric in self.settings:
      if metric.startswith(prefix) and not metric.startswith(tuple(others)):
        yield metric


def last_step(run: Run) -> int:
  """The newest step that a run has reported; 0: none."""
  # Metrics end at different steps.
  last_steps = [points[-1][0] for points in run.metrics.values()]
  return max(last_steps, default=0)


def total_steps(run: Run) -> int | str:
  """The length of a run; "?": nobody knows it."""
  # The config may give epochs instead: the session knows the steps.
  if run.sessions:
    return run.sessions[-1]["total_steps"]
  return run.config.get("total_steps") or "?"


class History:
  """The metrics of a run, as far as a report needs them.

  Attributes:
    metrics: name → [(step, value), …].
    settings: name of a score → what it was made with, the newest.
  """

  def __init__(self):
    """No metrics yet."""
    self._curves: dict[str, _Curve] = {}
    self.settings: dict[str, dict[str, Any]] = {}

  @property
  def metrics(self) -> dict[str, list[Point]]:
    return {name: curve.points for name, curve in self._curves.items()}

  def add(self, line: Line) -> None:
    """Adds a line of metrics.jsonl; they come in the order of step."""
    for name, value in line.values.items():
      if name not in self._curves:
        self._curves[name] = _Curve()
      self._curves[name].add(line.step, value)
      if line.settings is not None:
        self.settings[name] = line.settings


class _Curve:
  """The points of a metric; of a long curve every second, fourth, … only.

  A page is made at every evaluation. With all points, the pages of a long run
  would together take time in the square of its length.
  """

  def __init__(self):
    """No points yet."""
    self.points: list[Point] = []
    self._num_seen = 0
    self._stride = 1  # Every so many points one stays.
    self._last_stays = True

  def add(self, step: int, value: float) -> None:
    # The newest point is always there, whether it stays or not.
    if not self._last_stays:
      self.points.pop()
    self.points.append((step, value))
    self._last_stays = self._num_seen % self._stride == 0
    self._num_seen += 1
    if len(self.points) > MAX_POINTS and self._last_stays:
      # They are an odd number, so the last one is among those that stay.
      self.points = self.points[::2]
      self._stride *= 2


def read_history(workdir: pathlib.Path) -> History:
  """All of metrics.jsonl."""
  history = History()
  for line in read_lines(workdir).sound:
    history.add(line)
  return history


def read_run(workdir: str | os.PathLike, history: History | None = None
             ) -> Run:
  """Reads a workdir; what is not there yet is empty.

  Args:
    workdir: the folder.
    history: its metrics; None: those of metrics.jsonl.
  """
  workdir = pathlib.Path(workdir)
  if history is None:
    history = read_history(workdir)
  return Run(
      workdir=workdir, config=read_config(workdir), metrics=history.metrics,
      settings=history.settings, sessions=read_sessions(workdir),
      usage=_read_usage(workdir))


def read_sessions(workdir: pathlib.Path, *, sets_aside: bool = False
                  ) -> list[dict[str, Any]]:
  """sessions.json; empty if there is none that can be read.

  Args:
    workdir: of the run.
    sets_aside: see `files.read_json`.
  """
  path = workdir / SESSIONS
  sessions = files.read_json(path, list, sets_aside=sets_aside) or []
  is_sound = has_shape(sessions, list[_SessionShape], path)
  return sessions if is_sound else []


def _read_usage(workdir: pathlib.Path) -> dict[str, Any]:
  """code_usage.json; empty if there is none that can be read."""
  path = workdir / USAGE
  usage = files.read_json(path)
  if usage is None:
    return {}
  return usage if has_shape(usage, _UsageShape, path) else {}


def note_session(workdir: pathlib.Path, start_step: int,
                 total_steps: int) -> None:
  """Adds to sessions.json when, where and with what the run is started."""
  started = session.describe(start_step, total_steps)
  # A run may be restarted for weeks: only the newest starts are kept.
  path = workdir / SESSIONS
  sessions = [*read_sessions(workdir, sets_aside=True), started]
  files.write_json(path, sessions[-_MAX_SESSIONS:], indent=None)


def note_usage(workdir: pathlib.Path, step: int, usage_Q: np.ndarray) -> None:
  """Keeps how often each word was used, for the newest step only."""
  content = {"step": step, "uses": np.asarray(usage_Q).tolist()}
  files.write_json(workdir / USAGE, content, indent=None)
