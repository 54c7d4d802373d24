"""One image of a data set: examples with their segments and their depth.

H W pixels of an image · M some of these pixels
"""

import colorsys
import io
import os
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pp.sources import Source
from uvim import files, pixels
from uvim.categories import Category
from uvim.inference.sheet import draw_sheet

_WIDTH = 320  # Pixels of one image on the sheet.
_GAP = 6
_BACKGROUND = (24, 26, 30)
_BORDER = 255
# Steps through the circle of hues that stay far from all earlier ones: the
# golden ratio and what it lacks to 1.
_HUE_STEP_OF_LABEL = 0.618034
_HUE_STEP_OF_THING = 0.381966
# Segments below this share of the image are too small for a name.
_NAMED_SHARE = 0.04


class _Text(NamedTuple):
  """A text and the pixel of its middle, before the image is resized."""
  x: float
  y: float
  text: str


def write(source: Source, path: str | os.PathLike, *, max_examples: int = 12,
          num_columns: int = 3) -> None:
  """Writes a PNG with examples that are spread over the split.

  They are read back from the data set on disk.
  """
  count = min(max_examples, source.num_examples)
  last = source.num_examples - 1
  positions = np.linspace(0, last, count).round().astype(int)
  panels = [_draw_example(source, index) for index in positions.tolist()]
  columns = _fill_columns(panels, min(num_columns, count))
  column_sheets = []
  for column in columns:
    rows = [[panel] for panel in column]
    column_sheets.append(draw_sheet(rows, gap=_GAP, background=_BACKGROUND))
  sheet = draw_sheet([column_sheets], gap=_GAP, margin=_GAP,
                     background=_BACKGROUND)
  files.replace_file(path, lambda file: sheet.save(file, "PNG"))


def _fill_columns(panels: list[Image.Image], num_columns: int
                  ) -> list[list[Image.Image]]:
  """Puts each panel below the shortest column, so tall ones leave no holes."""
  columns = [[] for _ in range(num_columns)]
  heights = [0] * num_columns
  for panel in panels:
    shortest = int(np.argmin(heights))
    columns[shortest].append(panel)
    heights[shortest] += panel.height + _GAP
  return columns


def _draw_example(source: Source, index: int) -> Image.Image:
  """The image of one example, its segments and its depth, side by side."""
  example = source.example(index)
  image = Image.open(io.BytesIO(example["image"])).convert("RGB")
  tiles = [_fit(image)]
  if "panoptic_image" in example:
    tiles.append(_draw_segments(np.asarray(image, np.float32), example,
                                source))
  if "depth" in example:
    depth = example["depth"].astype(np.float32)
    # It comes as [H, W] or [H, W, 1].
    tiles.append(_draw_depth(depth.reshape(depth.shape[:2])))
  return draw_sheet([tiles], gap=0, background=_BACKGROUND)


def _draw_segments(image_HW3: np.ndarray, example: dict[str, Any],
                   source: Source) -> Image.Image:
  """The segments over a faded image. Void is dark, borders are white."""
  ids_HW = pixels.ids_from_rgb(example["panoptic_image"][..., :3])
  gray_HW1 = image_HW3.mean(-1, keepdims=True)
  canvas_HW3 = np.broadcast_to(0.25 * gray_HW1, image_HW3.shape).copy()
  objects = example["panoptic_objects"]
  numbers = objects["id"].tolist()
  labels = objects["label"].tolist()
  names = []
  for order, (number, label) in enumerate(zip(numbers, labels, strict=True)):
    category = _category(source, label)
    mask_HW = ids_HW == number
    color_3 = _color(label, order, category.isthing)
    canvas_HW3[mask_HW] = 0.35 * gray_HW1[mask_HW] + 0.65 * color_3
    if mask_HW.mean() > _NAMED_SHARE:
      y_M, x_M = np.nonzero(mask_HW)
      names.append(_Text(float(x_M.mean()), float(y_M.mean()), category.name))
  canvas_HW3[_borders(ids_HW)] = _BORDER
  canvas = Image.fromarray(canvas_HW3.astype(np.uint8))
  return _fit_and_write(canvas, names)


def _category(source: Source, label: int) -> Category:
  """The category of a label; one with the label as its name if unknown."""
  if label < len(source.categories):
    return source.categories[label]
  return Category(label, str(label), True)


def _color(label: int, order: int, isthing: bool) -> np.ndarray:
  """RGB in 0..255, float64 [3], of one segment.

  Things are bright, and each has its own color. Stuff is muted, with one color
  for each category.
  """
  hue = label * _HUE_STEP_OF_LABEL
  saturation = 0.4
  brightness = 0.7
  if isthing:
    hue += order * _HUE_STEP_OF_THING
    saturation = 0.85
    brightness = 1.0
  return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, brightness))


def _borders(ids_HW: np.ndarray) -> np.ndarray:
  """Where the left or the upper neighbor has another id: bool [H, W]."""
  borders_HW = np.zeros(ids_HW.shape, bool)
  borders_HW[:, 1:] |= ids_HW[:, 1:] != ids_HW[:, :-1]
  borders_HW[1:] |= ids_HW[1:] != ids_HW[:-1]
  return borders_HW


def _draw_depth(depth_HW: np.ndarray) -> Image.Image:
  """Depth from near (yellow) to far (blue), with its range; dark if none."""
  import matplotlib
  height, width = depth_HW.shape
  canvas_HW3 = np.full((height, width, 3), _BACKGROUND, np.uint8)
  known_HW = depth_HW > 0
  text = "no depth"
  if known_HW.any():
    depth_M = depth_HW[known_HW]
    nearest = float(depth_M.min())
    farthest = float(depth_M.max())
    nearness_M = (farthest - depth_M) / max(farthest - nearest, 1e-6)
    colors_M4 = matplotlib.colormaps["viridis"](nearness_M, bytes=True)
    canvas_HW3[known_HW] = colors_M4[:, :3]
    percent_known = 100 * known_HW.mean()
    text = f"{nearest:.3g} to {farthest:.3g} m in {percent_known:.0f} %"
  canvas = Image.fromarray(canvas_HW3)
  return _fit_and_write(canvas, [_Text(width / 2, 0.95 * height, text)])


def _fit(image: Image.Image) -> Image.Image:
  """The image at the width of the sheet's images."""
  height = max(1, round(image.height * _WIDTH / image.width))
  return image.resize((_WIDTH, height))


def _fit_and_write(image: Image.Image, texts: list[_Text]) -> Image.Image:
  """The image at that width, with texts on it."""
  scale = _WIDTH / image.width
  resized = _fit(image)
  pen = ImageDraw.Draw(resized)
  font = ImageFont.load_default(size=13)
  for text in texts:
    pen.text((text.x * scale, text.y * scale), text.text, font=font,
             anchor="mm", fill="white", stroke_width=2,
             stroke_fill=_BACKGROUND)
  return resized
