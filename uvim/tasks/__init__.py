"""The tasks by name. The module of a task is imported only on demand."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from uvim import fields
from uvim.registry import ConfigError, lookup, unknown
from uvim.tasks.base import AbstractTask


def _panoptic():
  from uvim.tasks import panoptic
  return panoptic.PanopticTask


def _semantic():
  from uvim.tasks import semantic
  return semantic.SemanticTask


def _depth():
  from uvim.tasks import depth
  return depth.DepthTask


def _normals():
  from uvim.tasks import normals
  return normals.NormalsTask


def _colorization():
  from uvim.tasks import colorization
  return colorization.ColorizationTask


# Name -> function that imports the class. The first name of a class is its
# own; a further one is the released code's.
TASKS = {
    "panoptic_segmentation": _panoptic,
    "proj.uvim.panoptic_task": _panoptic,
    "semantic_segmentation": _semantic,
    "depth": _depth,
    "proj.uvim.depth_task": _depth,
    "colorization": _colorization,
    "proj.uvim.colorization_task": _colorization,
    "normals": _normals,
}


def task_class(name: str) -> type[AbstractTask]:
  """The class of a task; two names of one task give the same class.

  Raises:
    ConfigError: an unknown name.
  """
  return lookup(TASKS, name, "task")()


def make_task(name: str, model_fields: Mapping[str, Any],
              **options) -> AbstractTask:
  """Builds a task.

  Args:
    name: a key of TASKS, as `config.task` gives it.
    model_fields: `config.model`; only inputs, outputs, input_size and
      patch_size are read.
    **options: fields that only this task has (depth: its range).

  Raises:
    ConfigError: an unknown task or option, a value that is not allowed, or
      fields that do not fit.
  """
  # Check the options before the constructor sees them: an unknown one is then a
  # ConfigError with the nearest name, not a TypeError.
  cls = task_class(name)
  fields.check_fields(task_options(cls), options, "task_options")
  return cls(
      inputs_spec=_as_spec(model_fields["inputs"]),
      outputs_spec=_as_spec(model_fields["outputs"]),
      input_size=tuple(model_fields["input_size"]),
      patch_size=tuple(model_fields["patch_size"]), **options)


def _as_spec(spec: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
  """Lists from a JSON file as tuples."""
  return {key: tuple(sizes) for key, sizes in spec.items()}


def task_options(cls: type[AbstractTask]) -> dict[str, fields.Field]:
  """The fields that a task has beyond those of every task."""
  # Those of the base class come from `config.model`, not from the user.
  shared = {field.name for field in dataclasses.fields(AbstractTask)}
  return {name: field for name, field in fields.fields_of(cls).items()
          if name not in shared}


def task_of_outputs(keys: Collection[str]) -> str:
  """Finds the task whose base model predicts these outputs.

  Args:
    keys: names of the model's outputs (heads), in any order.

  Returns:
    The task's name.

  Raises:
    ConfigError: no task predicts these.
  """
  known = []
  for name, load_class in TASKS.items():
    # The keys of a task belong to it alone. The task's own name comes first in
    # TASKS, so it is the one that is returned.
    task_keys = sorted(load_class().keys)
    if task_keys == sorted(keys):
      return name
    known.append(", ".join(task_keys))
  raise ConfigError(
      f"A model that predicts {', '.join(sorted(keys))} is of no known task; "
      f"known: {'; '.join(dict.fromkeys(known))}.")


def check_prediction_options(task: AbstractTask,
                             options: Mapping[str, Any]) -> None:
  """Checks what a user asks of a prediction, before anything is computed.

  Args:
    task: what the model was trained for.
    options: see `AbstractTask.prediction_options`.

  Raises:
    ConfigError: an option that this task does not have, or a value that is
      not allowed.
  """
  known = task.prediction_options()
  for name, value in options.items():
    if name not in known:
      # A correct option of another task deserves a better message than a typo.
      owner = _task_with_option(name)
      if owner:
        raise ConfigError(f"{name} is an option of {owner} alone.")
      raise unknown("option of this task's predictions", name, known)
    fields.check_value(known[name], value, "options")


def _task_with_option(option: str) -> str:
  """The first task that has this option of its predictions; '' if none."""
  for name, load_class in TASKS.items():
    if option in load_class().prediction_options():
      return name
  return ""
