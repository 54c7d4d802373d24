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
from uvim.opener import open_image

_WIDTH = 320  # Pixels of one image on the sheet.
_MAX_HEIGHT = 960  # A column of pixels, as wide as others, would fill memory.
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
  # First and last are among them.
  positions = np.linspace(0, last, count).round()
  panels = []
  for position in positions:
    panels.append(_draw_example(source, int(position)))
  columns = []
  for column in _fill_columns(panels, min(num_columns, count)):
    rows = [[panel] for panel in column]
    columns.append(draw_sheet(rows, gap=_GAP, background=_BACKGROUND))
  sheet = draw_sheet(
      [columns], gap=_GAP, margin=_GAP, background=_BACKGROUND)

  def write_png(file):
    sheet.save(file, "PNG")

  files.replace_file(path, write_png)


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
  file = io.BytesIO(example["image"])
  with open_image(file, f"example {index}") as stored_image:
    image = stored_image.convert("RGB")
  tiles = [_fit(image)]
  if "panoptic_image" in example:
    image_HW3 = np.asarray(image, np.float32)
    tiles.append(_draw_segments(image_HW3, example, source))
  if "depth" in example:
    # It comes as [H, W] or [H, W, 1].
    depth = example["depth"].astype(np.float32)
    depth_HW = depth.reshape(depth.shape[:2])
    tiles.append(_draw_depth(depth_HW))
  return draw_sheet([tiles], gap=0, background=_BACKGROUND)


def _draw_segments(image_HW3: np.ndarray, example: dict[str, Any],
                   source: Source) -> Image.Image:
  """The segments over a faded image. Void is dark, borders are white."""
  ids_HW = pixels.ids_from_rgb(example["panoptic_image"][..., :3])
  gray_HW1 = image_HW3.mean(-1, keepdims=True)
  canvas_HW3 = np.broadcast_to(0.25 * gray_HW1, image_HW3.shape).copy()
  objects = example["panoptic_objects"]
  ids = objects["id"].tolist()
  labels = objects["label"].tolist()
  names = []
  # The place in the list, `order`, gives two things of one class two colors.
  for order, label in enumerate(labels):
    category = _category(source, label)
    color_3 = _color(label, order, category.isthing)
    mask_HW = ids_HW == ids[order]
    gray_M1 = gray_HW1[mask_HW]
    # The gray image shines through, so that the shapes below can be seen.
    canvas_HW3[mask_HW] = 0.35 * gray_M1 + 0.65 * color_3
    if mask_HW.mean() > _NAMED_SHARE:
      y_M, x_M = np.nonzero(mask_HW)
      x = float(x_M.mean())
      y = float(y_M.mean())
      names.append(_Text(x, y, category.name))
  # Last, so that no segment covers them.
  borders_HW = _borders(ids_HW)
  canvas_HW3[borders_HW] = _BORDER
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
  shares = colorsys.hsv_to_rgb(hue % 1, saturation, brightness)
  return 255 * np.array(shares)


def _borders(ids_HW: np.ndarray) -> np.ndarray:
  """Where the left or the upper neighbor has another id: bool [H, W]."""
  # The first column and the first row have no such neighbor: no difference.
  from_left_HW = np.diff(ids_HW, axis=1, prepend=ids_HW[:, :1])
  from_above_HW = np.diff(ids_HW, axis=0, prepend=ids_HW[:1])
  return (from_left_HW != 0) | (from_above_HW != 0)


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
    # Depth may be the same everywhere.
    span = max(farthest - nearest, 1e-6)
    # The bright end of the color map is near.
    nearness_M = (farthest - depth_M) / span
    color_map = matplotlib.colormaps["viridis"]
    colors_M4 = color_map(nearness_M, bytes=True)
    canvas_HW3[known_HW] = colors_M4[:, :3]
    percent_known = 100 * known_HW.mean()
    text = f"{nearest:.3g} to {farthest:.3g} m in {percent_known:.0f} %"
  canvas = Image.fromarray(canvas_HW3)
  lower_middle = _Text(width / 2, 0.95 * height, text)
  return _fit_and_write(canvas, [lower_middle])


def _fit(image: Image.Image) -> Image.Image:
  """The image at the width of the sheet's images, or less if it is tall."""
  scale = min(_WIDTH / image.width, _MAX_HEIGHT / image.height)
  width = round(image.width * scale)
  height = round(image.height * scale)
  return image.resize((max(1, width), max(1, height)))


def _fit_and_write(image: Image.Image, texts: list[_Text]) -> Image.Image:
  """The image at that size, with texts on it."""
  resized = _fit(image)
  scale = resized.width / image.width
  pen = ImageDraw.Draw(resized)
  font = ImageFont.load_default(size=13)
  for text in texts:
    # Texts are drawn after the resize, so all have one size.
    middle = (text.x * scale, text.y * scale)
    pen.text(middle, text.text, font=font, anchor="mm", fill="white",
             stroke_width=2, stroke_fill=_BACKGROUND)
  return resized
