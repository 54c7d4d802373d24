"""The tasks by name. Loaded when asked for; greppable, no string imports."""

import inspect
from collections.abc import Mapping
from typing import Any

from uvim import registry
from uvim.tasks.base import AbstractTask


def _panoptic():
  from uvim.tasks import panoptic
  return panoptic.PanopticTask


def _depth():
  from uvim.tasks import depth
  return depth.DepthTask


def _normals():
  from uvim.tasks import normals
  return normals.NormalsTask


def _colorization():
  from uvim.tasks import colorization
  return colorization.ColorizationTask


# The second spelling of each is the released code's own.
TASKS = {
    "panoptic_segmentation": _panoptic,
    "proj.uvim.panoptic_task": _panoptic,
    "depth": _depth,
    "proj.uvim.depth_task": _depth,
    "colorization": _colorization,
    "proj.uvim.colorization_task": _colorization,
    "normals": _normals,
}


def make_task(name: str, model_fields: Mapping[str, Any],
              **options) -> AbstractTask:
  """Builds a task.

  Args:
    name: a key of TASKS, as `config.task` gives it.
    model_fields: `config.model`; inputs, outputs, input_size and patch_size
      are read, the rest is the model's business.
    **options: fields only this task has (depth: its range).

  Raises:
    ConfigError: an unknown task or option, or fields that do not fit.
  """
  cls = registry.lookup(TASKS, name, "task")()
  fields = dict(
      inputs_spec={k: tuple(v) for k, v in model_fields["inputs"].items()},
      outputs_spec={k: tuple(v) for k, v in model_fields["outputs"].items()},
      input_size=tuple(model_fields["input_size"]),
      patch_size=tuple(model_fields["patch_size"]))
  allowed = set(inspect.signature(cls).parameters) - set(fields)
  for option in options:
    if option not in allowed:
      raise registry.unknown(f"option of task {name!r}", option, allowed)
  return cls(**fields, **options)
