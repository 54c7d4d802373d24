"""The model card of a pack: a README.md as the Hugging Face hub reads it.

At its top stand facts for programs, in YAML: task, data, license, scores. The
rest is for people. Everything comes from the run's own files; what nobody has
said, such as a license, is left out.
"""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from uvim import fields, files
from uvim.categories import Category
from uvim.config import EvalConfig, TrainConfig
from uvim.registry import ConfigError
from uvim.store import pack

# In the workdir of a run.
_METRICS = "metrics.jsonl"
_SESSIONS = "sessions.json"
# Before names in it that no evaluator has measured.
_ALARM = "alarm/"
_FAILED = "failed/"

# How the hub calls a task; what it has no word for is left out.
_HUB_TASKS = {
    "panoptic_segmentation": "image-segmentation",
    "semantic_segmentation": "image-segmentation",
    "depth": "depth-estimation",
    "colorization": "image-to-image",
    "normals": "image-to-image",
}
# What the data sets of this repository hold.
_DATA_SETS = {
    "rooms": "indoor scenes that a program draws, no photographs",
}
_BY_PRIOR = ("The language model writes the code from the image. This is what "
             "a prediction is worth.")
_BY_ORACLE = ("The oracle, which sees the truth, writes the code. This is no "
              "prediction, but what the code can carry.")
_BY_NOBODY = "There is no code. This is what the base model can do without."
# Kind of the run → predictor → what its scores mean.
_MEANINGS = {
    "lm": {"predict": _BY_PRIOR, "oracle": _BY_ORACLE, "zero_code": _BY_NOBODY},
    "vqvae": {"predict": _BY_ORACLE, "zero_code": _BY_NOBODY},
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


@dataclasses.dataclass(frozen=True)
class Facts:
  """What a card says.

  Attributes:
    kind: of the run, "lm" or "vqvae".
    task: its name.
    dataset: what the run learned from; "" where nobody knows.
    split: of the data set.
    input_size: height and width in pixels at which the model sees an image.
    categories: what the classes stand for; () where there are none.
    parameters: stage → how many.
    style: of the prior, such as "ar" or "masked"; "" where there is none.
    version: of the package that trained it.
    commit: of its code; "" where nobody knows.
    scores: of the run.
    name: of the pack.
    packed_with: the program that made the pack.
    num_bytes: of all weights.
    precision: of the parameters in the files.
    rounding: what half precision changes; "" for full precision.
    license: an identifier; None: not said.
  """
  kind: str
  task: str
  dataset: str
  split: str
  input_size: Sequence[int]
  categories: Sequence[Category]
  parameters: Mapping[str, int]
  version: str
  scores: Sequence[Scores]
  style: str = ""
  commit: str = ""
  name: str = ""
  packed_with: str = ""
  num_bytes: int = 0
  precision: str = ""
  rounding: str = ""
  license: str | None = None


def check_license(license_id: str | None) -> None:
  """Raises a ConfigError for what cannot be an identifier of a license."""
  if license_id is None:
    return
  if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license_id):
    raise ConfigError(
        f"--license {license_id!r}; allowed: an identifier of the hub in small "
        "letters, such as apache-2.0, cc-by-4.0 or other.")


# ── What a run has measured ─────────────────────────────────────────────────


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


# ── The text ────────────────────────────────────────────────────────────────


def write(facts: Facts) -> str:
  """The card as Markdown."""
  parts = [
      _front_matter(facts),
      f"# {facts.name}",
      _introduction(facts),
      "## What it can and cannot do",
      _limits(facts),
      "## Use",
      _usage(facts),
      "## Scores",
      *_score_parts(facts.scores),
      "## Facts",
      _table_of_facts(facts),
  ]
  return "\n\n".join(parts) + "\n"


def _front_matter(facts: Facts) -> str:
  """The facts for programs, between two lines of dashes."""
  content = {}
  if facts.license:
    content["license"] = facts.license
  content["library_name"] = "uvim"
  hub_task = _HUB_TASKS.get(facts.task)
  if hub_task:
    content["pipeline_tag"] = hub_task
  content["tags"] = ["uvim", "jax", facts.task.replace("_", "-")]
  if facts.dataset:
    content["datasets"] = [facts.dataset]
  # The hub compares these numbers with those of other models. So only those of
  # predictions stand here: the oracle has seen the truth.
  results = [_result(scores, facts.task, hub_task) for scores in facts.scores
             if scores.meaning == _BY_PRIOR]
  if results:
    content["model-index"] = [{"name": facts.name, "results": results}]
  text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True,
                        default_flow_style=None, width=math.inf)
  return f"---\n{text}---"


def _result(scores: Scores, task: str, hub_task: str | None
            ) -> dict[str, Any]:
  """The scores of one evaluator, in the hub's form of a `model-index`."""
  metrics = []
  for name, value in scores.values.items():
    metrics.append({
        "type": name,
        "name": f"{name} ({scores.name})",
        "value": round(value, 4),
        "args": dict(scores.settings),
    })
  return {
      "task": {"type": hub_task or "other", "name": _title(task)},
      "dataset": {"type": scores.dataset, "name": scores.dataset,
                  "split": scores.split},
      "metrics": metrics,
  }


def _title(task: str) -> str:
  return task.replace("_", " ").capitalize()


def _introduction(facts: Facts) -> str:
  stages = "oracle, base model and language model"
  if facts.kind != "lm":
    stages = "oracle and base model, but no language model"
  learned = "an unknown data set"
  if facts.dataset:
    learned = f"the data set `{facts.dataset}` (split `{facts.split}`)"
  about = _DATA_SETS.get(facts.dataset.partition("/")[0])
  if about:
    learned += f": {about}"
  return (f"A UViM model of the task *{_title(facts.task).lower()}*: {stages}. "
          f"It learned from {learned}.")


def _limits(facts: Facts) -> str:
  height, width = facts.input_size
  points = []
  if facts.kind == "lm":
    points.append("It predicts any image, of any size.")
  else:
    points.append("It has no language model: it draws what a code says, but "
                  "cannot predict an image on its own.")
  points.append(f"It sees each image at {height} × {width} pixels; smaller "
                "things are lost.")
  if facts.categories:
    names = ", ".join(category.name for category in facts.categories)
    points.append(f"It knows {len(facts.categories)} classes and nothing else: "
                  f"{names}.")
  if facts.dataset:
    points.append(f"Images unlike those of `{facts.dataset}` get an answer "
                  "too, and it is most likely wrong.")
  return "\n".join(f"* {point}" for point in points)


def _usage(facts: Facts) -> str:
  name = facts.name
  lines = [f"`{name}` stands for the path of this folder.", "",
           "```python", "from uvim.inference.api import UViM", "",
           f'model = UViM.from_checkpoint("{name}")']
  if facts.kind == "lm":
    lines.append('model.predict("image.jpg").save("OUT")')
  lines.append("```")
  if facts.kind == "lm":
    lines += ["", "or", "", "```",
              f"uvim predict --checkpoint {name} --out OUT image.jpg", "```"]
  return "\n".join(lines)


def _score_parts(all_scores: Sequence[Scores]) -> list[str]:
  """A heading, a sentence and a table for each evaluator."""
  if not all_scores:
    return ["Nobody has measured this model."]
  parts = []
  for scores in all_scores:
    parts.append(f"### {scores.name}")
    parts.append(_about_scores(scores))
    names = list(scores.values)
    values = [_number(scores.values[name]) for name in names]
    parts.append(_table(names, [values]))
  return parts


def _number(value: float) -> str:
  return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def _about_scores(scores: Scores) -> str:
  settings = ", ".join(f"{name} = {value}"
                       for name, value in scores.settings.items())
  where = (f"Measure `{scores.measure}` on the split `{scores.split}` of "
           f"`{scores.dataset}`, after {scores.step:,} steps")
  if settings:
    where += f", with {settings}"
  text = f"{scores.meaning} {where}.".strip()
  if scores.alarms:
    text += f" The run raised an alarm here: {', '.join(scores.alarms)}."
  return text


def _table_of_facts(facts: Facts) -> str:
  rows = [["license", facts.license or "not stated"]]
  for stage, count in facts.parameters.items():
    rows.append([f"parameters of {stage}", f"{count:,}"])
  if facts.style:
    rows.append(["style of the prior", f"`{facts.style}`"])
  rows.append(["size of the weights", f"{facts.num_bytes / 1e6:.1f} MB"])
  rows.append(["precision", facts.precision])
  if facts.rounding:
    rows.append(["what the precision changes", facts.rounding])
  trained_with = f"uvim {facts.version}"
  if facts.commit:
    trained_with += f", commit `{facts.commit}`"
  rows.append(["trained with", trained_with])
  rows.append(["packed with", facts.packed_with])
  return _table(["fact", "value"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  lines = [head, ["---"] * len(head), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)
