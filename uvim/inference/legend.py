"""What the colors of a drawing mean: names of classes, or a bar of numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from uvim import palette
from uvim.inference import segments
from uvim.inference.sheet import BLACK, WHITE, Color
from uvim.tasks.base import AbstractTask, Categories

_NUM_TICKS = 5  # Numbers below a bar.


def draw_legend(task: AbstractTask, samples: Sequence[Mapping[str, Any]], *,
                categories: Categories = None, width: int,
                font_size: int = 12) -> Any:
  """The legend of drawings of one task.

  Args:
    task: draws the samples.
    samples: outputs of any leading axes; their classes get an entry.
    categories: see `segments.class_name`.
    width: in pixels; entries that do not fit go to the next line.
    font_size: in pixels.

  Returns:
    A PIL image in RGB; None if there is nothing to explain.
  """
  if task.scale is not None:
    return draw_bar(task, width=width, font_size=font_size)
  if task.num_categories is None:
    return None
  classes = set()
  for outputs in samples:
    pairs = segments.pairs_of(task, outputs)
    classes |= set(np.unique(pairs[..., 0]).tolist())
  classes.discard(0)
  return draw_names(sorted(classes), categories, width=width,
                    font_size=font_size)


class _Entry(NamedTuple):
  """A class of a legend, and the left upper corner of its patch in pixels."""
  left: int
  top: int
  number: int
  name: str


def draw_names(classes: Sequence[int], categories: Categories = None, *,
               width: int, font_size: int = 12, background: Color = WHITE,
               text_color: Color = BLACK) -> Any:
  """A patch of color and a name for each class.

  Returns:
    A PIL image in RGB; None without a class.
  """
  from PIL import Image, ImageDraw, ImageFont
  if not classes:
    return None
  font = ImageFont.load_default(font_size)
  line_height = round(1.5 * font_size)
  entries = []
  left = 0
  top = 0
  for number in classes:
    name = segments.class_name(number, categories)
    # The patch, a gap, the text, and a gap to the next entry.
    entry_width = round(font.getlength(name) + 2.5 * font_size)
    if left > 0 and left + entry_width > width:
      left = 0
      top += line_height
    entries.append(_Entry(left, top, number, name))
    left += entry_width
  legend = Image.new("RGB", (width, top + line_height), background)
  pen = ImageDraw.Draw(legend)
  for entry in entries:
    _draw_entry(pen, entry, font, text_color)
  return legend


def _draw_entry(pen: Any, entry: _Entry, font: Any, text_color: Color) -> None:
  color = tuple(palette.class_color(entry.number).tolist())
  corner = (entry.left, entry.top)
  opposite = (entry.left + font.size, entry.top + font.size)
  pen.rectangle([corner, opposite], fill=color, outline=text_color)
  start = (entry.left + 1.5 * font.size, entry.top + font.size / 2)
  pen.text(start, entry.name, font=font, fill=text_color, anchor="lm")


def draw_bar(task: AbstractTask, *, width: int, font_size: int = 12) -> Any:
  """The colors of a task with a scale, and the numbers they stand for.

  Returns:
    A PIL image in RGB.
  """
  from PIL import Image, ImageDraw, ImageFont
  scale = task.scale
  bar_height = font_size
  legend = Image.new("RGB", (width, 3 * bar_height), WHITE)
  colors = bar_colors(task, width, bar_height)
  legend.paste(Image.fromarray(colors), (0, 0))
  pen = ImageDraw.Draw(legend)
  font = ImageFont.load_default(font_size)
  for tick in range(_NUM_TICKS):
    share = tick / (_NUM_TICKS - 1)
    value = scale.lowest + share * (scale.highest - scale.lowest)
    # The outer numbers stay within the image.
    anchor = {0.0: "l", 1.0: "r"}.get(share, "m")
    pen.text((share * (width - 1), 1.3 * bar_height),
             f"{value:.3g} {scale.unit}", font=font, fill=BLACK,
             anchor=anchor + "a")
  return legend


def bar_colors(task: AbstractTask, width: int, height: int = 1) -> np.ndarray:
  """The colors of a task with a scale, from its lowest number to its highest.

  Returns:
    uint8 [height, width, 3].
  """
  lowest, highest, _ = task.scale
  values = np.linspace(lowest, highest, width, dtype=np.float32)
  values_1HW = np.broadcast_to(values, (1, height, width))
  return task.render({task.output_keys[0]: values_1HW})[0]
