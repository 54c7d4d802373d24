"""One image of a data set: examples with their segments and their depth.

H W pixels of an image
"""

import io
import os
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pp.sources import Source
from uvim import files, palette, pixels, resize
from uvim.inference import overlay
from uvim.inference.segments import class_name
from uvim.inference.sheet import draw_sheet
from uvim.opener import open_image

_WIDTH = 320  # Pixels of one image on the sheet.
_MAX_HEIGHT = 960  # A column of pixels, as wide as others, would fill memory.
_GAP = 6
_BACKGROUND = (24, 26, 30)
_BORDER = 255
_FADED = 0.6  # Brightness of the image below the segments.


def write(source: Source, path: str | os.PathLike, *, max_examples: int = 12,
          num_columns: int = 3) -> None:
  """Writes a PNG with examples that are spread over the split.

  They are read back from the data set on disk.
  """
  count = min(max_examples, source.num_examples)
  last = source.num_examples - 1
  # First and last are among them.
  positions = np.linspace(0, last, count).round()
  panels = [_draw_example(source, int(position)) for position in positions]
  num_columns = min(num_columns, count)
  columns = []
  for column in _fill_columns(panels, num_columns):
    # One panel below the other.
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
    tiles.append(_draw_segments(image, example, source))
  if "depth" in example:
    # It comes as [H, W] or [H, W, 1].
    depth = example["depth"].astype(np.float32)
    depth_HW = depth.reshape(depth.shape[:2])
    tiles.append(_draw_depth(depth_HW))
  return draw_sheet([tiles], gap=0, background=_BACKGROUND)


def _draw_segments(image: Image.Image, example: dict[str, Any],
                   source: Source) -> Image.Image:
  """The segments over a faded image, with outlines and names."""
  tile = _fit(image)
  numbers_HW = _segment_numbers(example, (tile.height, tile.width))
  # Class 1 of a model is label 0 of the data set.
  labels = example["panoptic_objects"]["label"].tolist()
  classes = [label + 1 for label in labels]
  # Segment 0 is void.
  colors = np.vstack([[palette.VOID], palette.segment_colors(classes)])
  colors = colors.astype(np.uint8)
  colors_HW3 = colors[numbers_HW]
  drawn_HW3 = overlay.blend(_fade(tile), colors_HW3)
  is_border_HW = overlay.find_borders(numbers_HW)
  drawn_HW3[is_border_HW] = _BORDER
  drawn = Image.fromarray(drawn_HW3)
  names = [class_name(number, source.categories) for number in classes]
  overlay.write_names(drawn, numbers_HW, names)
  return drawn


def _fade(image: Image.Image) -> np.ndarray:
  """The image in dark gray, uint8 [H, W, 3]."""
  gray_HW = np.asarray(image.convert("L"), np.float32)
  faded_HW = np.rint(_FADED * gray_HW).astype(np.uint8)
  return np.repeat(faded_HW[..., None], 3, axis=-1)


def _segment_numbers(example: dict[str, Any], size_HW: tuple[int, int]
                     ) -> np.ndarray:
  """The segment of each pixel: int32 [H, W].

  They are numbered 1, 2, … in the order of the example's objects; 0 is void.
  """
  ids_HW = pixels.ids_from_rgb(example["panoptic_image"][..., :3])
  ids_HW = resize.resize_nearest(ids_HW, size_HW)
  numbers_HW = np.zeros(size_HW, np.int32)
  ids = example["panoptic_objects"]["id"].tolist()
  for number, segment_id in enumerate(ids, start=1):
    numbers_HW[ids_HW == segment_id] = number
  return numbers_HW


def _draw_depth(depth_HW: np.ndarray) -> Image.Image:
  """Depth from near (bright) to far (dark), with its range."""
  is_known_HW = depth_HW > 0
  nearest = 0.0
  farthest = 1.0
  text = "no depth"
  if is_known_HW.any():
    nearest = float(depth_HW[is_known_HW].min())
    farthest = float(depth_HW[is_known_HW].max())
    percent_known = 100 * is_known_HW.mean()
    text = f"{nearest:.3g} to {farthest:.3g} m in {percent_known:.0f} %"
  drawn_HW3 = palette.depth_colors(depth_HW, nearest, farthest)
  tile = _fit(Image.fromarray(drawn_HW3))
  pen = ImageDraw.Draw(tile)
  font = ImageFont.load_default(size=13)
  lower_middle = (tile.width / 2, 0.95 * tile.height)
  pen.text(lower_middle, text, font=font, anchor="mm", fill="white",
           stroke_width=2, stroke_fill=_BACKGROUND)
  return tile


def _fit(image: Image.Image) -> Image.Image:
  """The image at the width of the sheet's images, or less if it is tall."""
  scale = min(_WIDTH / image.width, _MAX_HEIGHT / image.height)
  width = round(image.width * scale)
  height = round(image.height * scale)
  return image.resize((max(1, width), max(1, height)))
