"""The model card of a pack: a README.md as the Hugging Face hub reads it.

At its top stand facts for programs, in YAML: task, data, license, scores. The
rest is for people. Everything comes from the run's own files; what nobody has
said, such as a license, is left out.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from uvim.categories import Category
from uvim.registry import ConfigError
from uvim.store.run_scores import OF_PREDICTIONS, Scores

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


class _Kind(NamedTuple):
  """How a card speaks of a kind of run.

  Attributes:
    system: what the method is called.
    parts: what a pack of it has.
    ability: what it can do, a sentence.
    predicts: whether it can predict an image on its own.
    module: where the class is that opens it.
    opener: that class.
  """
  system: str
  parts: str
  ability: str
  predicts: bool = True
  module: str = "uvim.inference.api"
  opener: str = "UViM"


_PREDICTS = "It predicts any image, of any size."
_KINDS = {
    "lm": _Kind("UViM", "oracle, base model and language model", _PREDICTS),
    "vqvae": _Kind(
        "UViM", "oracle and base model, but no language model",
        "It has no language model: it draws what a code says, but cannot "
        "predict an image on its own.", predicts=False),
    "pix2seq_d": _Kind(
        "Pix2Seq-D", "one network, which takes the noise out of a mask in "
        "steps", _PREDICTS, module="uvim.inference.pix2seq_d",
        opener="Pix2SeqDPredictor"),
}


@dataclasses.dataclass(frozen=True)
class Facts:
  """What a card says.

  Attributes:
    kind: of the run, a key of _KINDS.
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
             if scores.meaning in OF_PREDICTIONS]
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
  kind = _KINDS[facts.kind]
  learned = "an unknown data set"
  if facts.dataset:
    learned = f"the data set `{facts.dataset}` (split `{facts.split}`)"
  about = _DATA_SETS.get(facts.dataset.partition("/")[0])
  if about:
    learned += f": {about}"
  return (f"A {kind.system} model of the task *{_title(facts.task).lower()}*: "
          f"{kind.parts}. It learned from {learned}.")


def _limits(facts: Facts) -> str:
  height, width = facts.input_size
  points = [_KINDS[facts.kind].ability]
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
  kind = _KINDS[facts.kind]
  lines = [f"`{name}` stands for the path of this folder.", "",
           "```python", f"from {kind.module} import {kind.opener}", "",
           f'model = {kind.opener}.from_checkpoint("{name}")']
  if kind.predicts:
    lines.append('model.predict("image.jpg").save("OUT")')
  lines.append("```")
  if kind.predicts:
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
