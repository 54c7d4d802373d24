"""What stands behind the newest scores of an evaluator: a file in the workdir.

Metrics are numbers over steps, so they stand in metrics.jsonl. Categories,
confusions and single images are not.
"""

import pathlib
from typing import Any

import msgspec

from trainers.report import run_files
from uvim import files

FOLDER = "details"
# Begins the name of an image of the worst and best examples.
EXAMPLES = "examples_"


def write(workdir: pathlib.Path, step: int, name: str,
          content: dict[str, Any]) -> None:
  """Keeps the details of an evaluator, the newest only.

  Args:
    workdir: of the run.
    step: training steps done.
    name: of the evaluator.
    content: plain JSON, see `evaluators.base.Details`.
  """
  path = workdir / FOLDER / f"{name}.json"
  files.write_json(path, {"step": step, **content}, indent=None)


def read(workdir: pathlib.Path, name: str) -> dict[str, Any]:
  """What `write` kept of an evaluator; {} if nothing that can be read."""
  path = workdir / FOLDER / f"{name}.json"
  details = files.read_json(path)
  if details is None:
    return {}
  return details if run_files.has_shape(details, _Shape, path) else {}


def newest_examples(workdir: pathlib.Path, name: str) -> pathlib.Path | None:
  """The image of the worst and best examples of an evaluator, if any."""
  folder = workdir / run_files.IMAGES
  # Their names end with the step, so the order of names is that of steps.
  paths = sorted(folder.glob(f"{EXAMPLES}{name}_[0-9]*.png"))
  return paths[-1] if paths else None


# What a report asks of the file, see evaluators/panoptic_details.py.


class _Category(msgspec.Struct):
  name: str
  isthing: bool
  pq: float
  sq: float
  rq: float
  tp: int
  fp: int
  fn: int
  pieces: float


class _Confusion(msgspec.Struct):
  truth: str
  prediction: str | None
  share: float


class _Image(msgspec.Struct):
  id: int
  pq: float
  kind: str


class _Shape(msgspec.Struct):
  step: int
  num_images: int = 0
  categories: list[_Category] = []
  confusions: list[_Confusion] = []
  images: list[_Image] = []
  thing_share: float | None = None
