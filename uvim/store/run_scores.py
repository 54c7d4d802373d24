"""What a run has measured, read from the files in its workdir."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from uvim import fields, files
from uvim.config import EvalConfig, TrainConfig
from uvim.store import pack

# In the workdir of a run.
_METRICS = "metrics.jsonl"
_SESSIONS = "sessions.json"
# Before names in it that no evaluator has measured.
_ALARM = "alarm/"
_FAILED = "failed/"

BY_PRIOR = ("The language model writes the code from the image. This is what "
            "a prediction is worth.")
BY_ORACLE = ("The oracle, which sees the truth, writes the code. This is no "
             "prediction, but what the code can carry.")
BY_NOISE = ("The model makes the mask of noise, from the image alone. This is "
            "what a prediction is worth.")
BY_NOBODY = "There is no code. This is what the base model can do without."
# What tells how good predictions are: the oracle has seen the truth.
OF_PREDICTIONS = (BY_PRIOR, BY_NOISE)
# Kind of the run → predictor → what its scores mean.
_MEANINGS = {
    "lm": {"predict": BY_PRIOR, "oracle": BY_ORACLE, "zero_code": BY_NOBODY},
    "vqvae": {"predict": BY_ORACLE, "zero_code": BY_NOBODY},
    "pix2seq_d": {"predict": BY_NOISE},
}


@dataclasses.dataclass(frozen=True)
class Scores:
  """What an evaluator of a run has measured last.

  Attributes:
    name: of the evaluator, such as "uvim".
    measure: its type, such as "coco_panoptic".
    dataset: what it was measured on.
    split: of the data set.
    meaning: what made the predictions; "" for a loss.
    step: training steps done.
    values: name → number.
    settings: all that the values depend on beside the model.
    alarms: what the run has warned of at this evaluation.
  """
  name: str
  measure: str
  dataset: str
  split: str
  meaning: str
  step: int
  values: Mapping[str, float]
  settings: Mapping[str, Any]
  alarms: Sequence[str] = ()


def read_scores(workdir: str, config: TrainConfig) -> list[Scores]:
  """The last scores of each evaluator, in the order of the config; losses last.

  Args:
    workdir: of the run; whatever is no file of scores is left out.
    config: of the run.
  """
  newest = {}
  for line in _lines(pathlib.Path(workdir) / _METRICS):
    # Only the lines of evaluators have settings.
    is_of_evaluator = isinstance(line.get("settings"), dict)
    evaluator = _evaluator_of(line, config.evals)
    if is_of_evaluator and evaluator and isinstance(line.get("step"), int):
      newest[evaluator.name] = line
  scores = []
  for evaluator in config.evals:
    if evaluator.name in newest:
      scores.append(_scores(newest[evaluator.name], evaluator, config.kind))
  # Losses say least to a stranger. `sorted` keeps the order otherwise.
  return sorted(scores, key=lambda scores: scores.measure == "mean")


def read_commit(workdir: str) -> str:
  """The commit of the code that trained a run last; "" where nobody knows.

  Args:
    workdir: of the run.
  """
  path = pathlib.Path(workdir) / _SESSIONS
  sessions = files.read_json(path, list) or [{}]
  last = sessions[-1]
  commit = last.get("commit") if isinstance(last, dict) else None
  return commit if isinstance(commit, str) else ""


def _scores(line: Mapping[str, Any], evaluator: EvalConfig, kind: str
            ) -> Scores:
  values = {}
  alarms = []
  for name, value in line.items():
    if name.startswith(_ALARM):
      alarms.append(name.removeprefix(_ALARM).replace("_", " "))
    elif name.startswith(evaluator.prefix) and _is_metric(name, value):
      values[name.removeprefix(evaluator.prefix)] = value
  meanings = _MEANINGS.get(kind, {})
  return Scores(
      name=evaluator.name, measure=evaluator.type, dataset=evaluator.dataset,
      split=evaluator.split, meaning=meanings.get(evaluator.pred, ""),
      step=line["step"], values=values,
      settings=pack.without_places(line["settings"]), alarms=tuple(alarms))


def _is_metric(name: str, value: Any) -> bool:
  """Whether an entry of a line is what an evaluator has measured."""
  is_other = name in ("step", "settings") or name.startswith((_ALARM, _FAILED))
  return isinstance(value, fields.REALS) and not is_other


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """The objects of a file with one a line; damaged lines are left out."""
  try:
    texts = path.read_bytes().splitlines()
  except OSError:
    return []
  lines = []
  for text in texts:
    try:
      content = json.loads(text)
    except (ValueError, RecursionError):
      continue
    if isinstance(content, dict):
      lines.append(content)
  return lines


def _evaluator_of(line: Mapping[str, Any], evaluators: Sequence[EvalConfig]
                  ) -> EvalConfig | None:
  """Who has measured a line; None: no evaluator."""
  metrics = [name for name, value in line.items() if _is_metric(name, value)]
  found = None
  for evaluator in evaluators:
    prefix = evaluator.prefix
    fits = all(name.startswith(prefix) for name in metrics)
    # If "val/" and "val/fid/" both fit, it is the longer one's.
    is_longer = found is None or len(prefix) > len(found.prefix)
    if metrics and fits and is_longer:
      found = evaluator
  return found
