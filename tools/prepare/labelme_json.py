"""The JSON files of labelme: one for each image, with its shapes.

H W pixels of an image
"""

import base64
import collections
import dataclasses
import io
import itertools
import math
import pathlib
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from tools.prepare import polygons
from tools.prepare.polygons import Rle
from tools.prepare.polygons_regions import Region
from uvim import files, opener, schema
from uvim.registry import ConfigError

OPTION = "--annotations"
# Labels that labelme itself takes as no class.
VOID_LABELS = ("__ignore__", "_background_")
# Two programs have two names for a rectangle that is turned.
_POLYGONS = ("polygon", "oriented_rectangle", "rotation")
_WITH_AREA = (*_POLYGONS, "rectangle", "circle", "mask")
_WITHOUT_AREA = ("point", "points", "line", "linestrip")

_Number = Annotated[float, Meta(description="a number")]
_Point = Annotated[
    Annotated[list[_Number], Meta(min_length=2, max_length=2)],
    Meta(description="x and y, a list of two numbers")]
_Size = Annotated[Annotated[int, Meta(ge=1)] | None, Meta(
    description="a whole number of pixels")]
_Group = Annotated[int | str | None, Meta(
    description="a whole number, a text or null")]
_Text = Annotated[str | None, Meta(description="a text or null")]


class Shape(msgspec.Struct, gc=False):
  """An entry of `shapes`."""
  label: schema.TEXT
  points: list[_Point]
  shape_type: _Text = None
  group_id: _Group = None
  # A PNG in base64, if the shape is a mask.
  mask: _Text = None


class LabelmeFile(msgspec.Struct, rename="camel"):
  """The content of a file."""
  shapes: list[Shape]
  image_path: schema.TEXT
  image_data: _Text = None
  image_height: _Size = None
  image_width: _Size = None


@dataclasses.dataclass(frozen=True)
class EmbeddedImage:
  """The image that a file has in itself.

  Attributes:
    path: the JSON file.
  """
  path: pathlib.Path

  def read_bytes(self) -> bytes:
    """The encoded image.

    Raises:
      ConfigError: the text is no base64.
    """
    content = read(self.path)
    return _from_base64(content.image_data, f"{self.path}: imageData")


def read(path: pathlib.Path) -> LabelmeFile:
  """Reads a file.

  Raises:
    ConfigError: it cannot be read, is not JSON, or not of labelme; the place
      in the file, what came and what is allowed.
  """
  content = files.load_json(path, OPTION)
  try:
    return schema.read_object(content, LabelmeFile, "")
  except ConfigError as error:
    # Without a name before it, the place begins with a dot.
    problem = str(error).lstrip(".: ")
    raise ConfigError(f"{path}: {problem}") from None


def read_regions(content: LabelmeFile, path: pathlib.Path,
                 size_HW: tuple[int, int]) -> tuple[list[Region], int]:
  """The regions of an image.

  Shapes of one label and one group are one region.

  Args:
    content: of a file.
    path: of the file, for messages.
    size_HW: height and width of the image.

  Returns:
    (the regions, how many shapes have no area, such as points).

  Raises:
    ConfigError: a shape is not what its type says.
  """
  parts = collections.defaultdict(list)
  num_without_area = 0
  for position, shape in enumerate(content.shapes):
    if shape.shape_type in _WITHOUT_AREA:
      num_without_area += 1
      continue
    try:
      rle = _draw(shape, size_HW)
    except ConfigError as error:
      raise ConfigError(f"{path}: shapes[{position}].{error}") from None
    group = ("group", shape.group_id)
    if shape.group_id is None:
      # Such a shape is a region of its own.
      group = ("shape", position)
    parts[shape.label, group].append(rle)
  regions = []
  for (label, _), rles in parts.items():
    name = None if label in VOID_LABELS else label
    regions.append(Region(name, polygons.union(rles)))
  return regions, num_without_area


def _draw(shape: Shape, size_HW: tuple[int, int]) -> Rle:
  """The pixels of a shape.

  Raises:
    ConfigError: the key of the shape, what came and what is allowed.
  """
  kind = shape.shape_type or _POLYGONS[0]
  if kind not in _WITH_AREA:
    allowed = ", ".join((*_WITH_AREA, *_WITHOUT_AREA))
    raise ConfigError(
        f"shape_type: {schema.shown(kind)}; allowed: {allowed}.")
  if kind == "mask":
    return _draw_mask(shape, size_HW)
  num_points = len(shape.points)
  if kind == "circle" and num_points != 2:
    raise ConfigError(f"points: {num_points} of them; a circle has two, its "
                      "middle and one on the line.")
  try:
    if kind == "circle":
      middle, on_line = shape.points
      radius = math.dist(middle, on_line)
      return polygons.from_ellipse(middle, (radius, radius), size_HW)
    if kind == "rectangle" and num_points == 2:
      (left, top), (right, bottom) = shape.points
      sides = (right - left, bottom - top)
      return polygons.from_rectangle((left, top), sides, size_HW)
    flat = list(itertools.chain.from_iterable(shape.points))
    return polygons.from_polygon(flat, size_HW)
  except ConfigError as error:
    raise ConfigError(f"points: {error}") from None


def _first_pixel(shape: Shape) -> tuple[int, int]:
  """Column and row at which the PNG of a mask begins."""
  if not shape.points:
    raise ConfigError("points: none; a mask has two corners.")
  corner = shape.points[0]
  for value in corner:
    # It is a whole number that may be written as a fraction.
    if not value.is_integer() or value < 0:
      raise ConfigError(f"points[0]: {corner}; a mask begins at a pixel: two "
                        "whole numbers from 0.")
  left, top = corner
  return int(left), int(top)


def _draw_mask(shape: Shape, size_HW: tuple[int, int]) -> Rle:
  """The pixels of a mask: a PNG that begins at the first of two points."""
  png = io.BytesIO(_from_base64(shape.mask, "mask"))
  with opener.open_image(png, "mask", formats=("PNG",)) as image:
    part_HW = np.asarray(image.convert("L")) > 0
  left, top = _first_pixel(shape)
  bottom = top + part_HW.shape[0]
  right = left + part_HW.shape[1]
  height, width = size_HW
  if bottom > height or right > width:
    raise ConfigError(f"mask: it reaches to row {bottom}, column {right}; the "
                      f"image has {height} and {width}.")
  mask_HW = np.zeros(size_HW, bool)
  mask_HW[top:bottom, left:right] = part_HW
  return polygons.from_mask(mask_HW)


def _from_base64(text: str | None, name: str) -> bytes:
  try:
    return base64.b64decode(text or "")
  except ValueError:
    raise ConfigError(f"{name}: it is not text in base64.") from None
