"""Options, classes and drawings, as the page gets them: values of JSON.

S samples per image · H W pixels of an image
"""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from uvim import fields, palette, pixels
from uvim.inference import legend, segments
from uvim.tasks.base import AbstractTask, Categories

_BAR_WIDTH = 256
_PER_UNIT = 1000
_MOST = 16_000  # More thousandths than this do not fit into three bytes.


def describe_option(option: fields.Field) -> dict[str, Any]:
  """What the page needs to make a control of an option."""
  allowed = ""
  choices = []
  if option.check is not None:
    allowed = option.check.allowed
    choices = list(option.check.names)
  return {"name": option.name, "default": option.default, "doc": option.doc,
          "allowed": allowed, "choices": choices}


def describe_classes(task: AbstractTask, categories: Categories
                     ) -> list[dict[str, str]]:
  """Name and color of class 1, 2, …."""
  classes = []
  for number in range(1, (task.num_categories or 0) + 1):
    digits = palette.class_color(number).tobytes().hex()
    classes.append({"name": segments.class_name(number, categories),
                    "color": f"#{digits}"})
  return classes


def describe_scale(task: AbstractTask) -> dict[str, Any] | None:
  """The range of the numbers that the task draws, and a bar of its colors."""
  scale = task.scale
  if scale is None:
    return None
  bar = data_url(legend.bar_colors(task, _BAR_WIDTH))
  return {**scale._asdict(), "per_unit": _PER_UNIT, "bar": bar}


def describe_output(task: AbstractTask, outputs: Mapping[str, np.ndarray],
                    sample: int = 0) -> dict[str, Any]:
  """One sample of outputs [S, H, W, …]: its drawing, and what it stands for."""
  # A slice keeps the axis of the samples.
  alone = {key: output[sample:sample + 1] for key, output in outputs.items()}
  drawing, = task.render(alone)
  return {"output": data_url(drawing), **_describe_values(task, alone)}


def _describe_values(task: AbstractTask, outputs: Mapping[str, np.ndarray]
                     ) -> dict[str, Any]:
  """What the pixels of an output [1, H, W, …] stand for.

  `values` is an image with a whole number for each pixel, R + 256 G + 65536 B:
  the class, or thousandths of the unit. 0 is nothing. `present` lists the
  classes.
  """
  pairs = segments.pairs_of(task, outputs)
  if pairs is not None:
    classes_HW = pairs[0][..., 0]
    present = np.unique(classes_HW)
    # Class 0 is void.
    present = present[present > 0]
    return {"values": _numbers_url(classes_HW), "present": present.tolist()}
  if task.scale is None:
    return {}
  key = task.output_keys[0]
  numbers = np.asarray(outputs[key])[0]
  # A hole may be NaN or infinite.
  known = np.nan_to_num(numbers, nan=0, posinf=0, neginf=0)
  known = np.clip(known, 0, _MOST)
  thousandths = np.rint(known * _PER_UNIT)
  return {"values": _numbers_url(thousandths.astype(np.int32))}


def _numbers_url(numbers_HW: np.ndarray) -> str:
  """Whole numbers from 0 as a PNG: R + 256 G + 65536 B."""
  return data_url(pixels.rgb_from_ids(numbers_HW))


def data_url(image_HWC: np.ndarray) -> str:
  """A PNG as a data URL.

  It is encoded anew: no byte of an uploaded file is ever sent back.
  """
  from PIL import Image
  buffer = io.BytesIO()
  image = Image.fromarray(image_HWC)
  # Level 1 compresses the least and the fastest.
  image.save(buffer, "PNG", compress_level=1)
  encoded = base64.b64encode(buffer.getvalue()).decode()
  return f"data:image/png;base64,{encoded}"
