"""The JSON that Label Studio exports: a list of tasks, one for each image.

Coordinates are percent of the width and height of the image.
"""

import dataclasses
import pathlib
import re
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tools.passes import raise_problems
from tools.prepare import image_files, label_studio_brush, polygons
from tools.prepare.polygons import Rle
from tools.prepare.polygons_regions import Region
from uvim import files, schema
from uvim.registry import ConfigError

OPTION = "--annotations"
# What Label Studio puts before the name of an uploaded file.
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-")

_Number = Annotated[float, Meta(description="a number")]
_Point = Annotated[
    Annotated[list[_Number], Meta(min_length=2, max_length=2)],
    Meta(description="x and y, a list of two numbers")]
_Labels = Annotated[list[schema.TEXT], Meta(min_length=1, max_length=1)]
_Byte = Annotated[int, Meta(
    ge=0, le=255, description="a whole number from 0 to 255")]
_Size = Annotated[Annotated[int, Meta(ge=1)] | None, Meta(
    description="a whole number of pixels")]
_Flag = Annotated[bool | None, Meta(description="true, false or null")]
_Angle = Annotated[float | None, Meta(description="a number of degrees")]
_Text = Annotated[str | None, Meta(description="a text or null")]
_Object = Annotated[dict[str, Any], Meta(description="an object")]


class Result(msgspec.Struct):
  """What was drawn, or answered."""
  type: schema.TEXT
  value: _Object = {}
  original_width: _Size = None
  original_height: _Size = None
  image_rotation: _Angle = None


class Annotation(msgspec.Struct):
  """The work of one person on a task."""
  result: list[Result]
  was_cancelled: _Flag = None
  ground_truth: _Flag = None


class Task(msgspec.Struct):
  """A task."""
  id: schema.ID
  data: _Object
  annotations: list[Annotation]
  file_upload: _Text = None


class _Polygon(msgspec.Struct):
  points: list[_Point]


class _Rectangle(msgspec.Struct):
  x: _Number
  y: _Number
  width: _Number
  height: _Number
  rotation: _Angle = None


class _Ellipse(msgspec.Struct, rename="camel"):
  x: _Number
  y: _Number
  radius_x: _Number
  radius_y: _Number
  rotation: _Angle = None


class _Brush(msgspec.Struct):
  rle: list[_Byte]


def read(path: pathlib.Path) -> list[Task]:
  """Reads the tasks.

  Raises:
    ConfigError: it cannot be read, is not JSON, or lists what is wrong in it.
  """
  content = files.load_json(path, OPTION)
  title = f"{OPTION}: {str(path)!r}"
  if not isinstance(content, list) or not content:
    raise ConfigError(f"{title} is {schema.shown(content)}; Label Studio's "
                      "export is a list of tasks.")
  first = content[0]
  if isinstance(first, dict) and "annotations" not in first:
    raise ConfigError(f"{title}: tasks[0] has no 'annotations'. Export as "
                      "JSON, not as JSON-MIN or CSV.")
  tasks, problems = schema.read_list(content, Task, "tasks")
  problems += schema.repeats([task.id for task in tasks], "tasks", ".id")
  raise_problems(problems, title)
  return tasks


def choose_annotation(task: Task, place: str) -> tuple[int, Annotation] | None:
  """The place and content of the annotation that counts; None: there is none.

  Raises:
    ConfigError: there are several, and not one of them is the ground truth.
  """
  kept = [(number, annotation)
          for number, annotation in enumerate(task.annotations)
          if not annotation.was_cancelled]
  if len(kept) > 1:
    truths = [pair for pair in kept if pair[1].ground_truth]
    if len(truths) != 1:
      raise ConfigError(
          f"{place}.annotations: {len(kept)} of them; mark one as ground "
          "truth, or leave one for each task.")
    kept = truths
  return kept[0] if kept else None


def image_names(task: Task, place: str) -> list[str]:
  """The names that the image file of a task may have, the best first.

  Raises:
    ConfigError: the task names no image, or several.
  """
  named = []
  for value in task.data.values():
    if isinstance(value, str):
      name = _name_in(value)
      if name.lower().endswith(image_files.SUFFIXES):
        named.append(name)
  if len(named) > 1:
    raise ConfigError(f"{place}.data: {len(named)} images ({', '.join(named)});"
                      " a task has one.")
  if not named and task.file_upload:
    named.append(_name_in(task.file_upload))
  if not named:
    raise ConfigError(f"{place}.data: it names no image.")
  [name] = named
  return [name, _UPLOAD_PREFIX.sub("", name, count=1)]


def _name_in(address: str) -> str:
  """The name of a file in an address: a URL, or a path on the server."""
  parts = urllib.parse.urlsplit(address)
  # Files on the server's own disk: /data/local-files/?d=folder/name.jpg.
  query = urllib.parse.parse_qs(parts.query)
  if "d" in query:
    path = query["d"][0]
  else:
    path = urllib.parse.unquote(parts.path)
  *_, name = path.replace("\\", "/").split("/")
  return name


# ── Regions ─────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class _Canvas:
  """An image to draw on, whose coordinates are percent.

  Attributes:
    size_HW: height and width in pixels.
  """
  size_HW: tuple[int, int]

  def to_pixels(self, x: float, y: float) -> tuple[float, float]:
    """A place or a size in pixels."""
    height, width = self.size_HW
    return x * width / 100, y * height / 100

  def polygon(self, value: dict[str, Any]) -> Rle:
    """Draws a value of `polygonlabels`."""
    points = schema.read_object(value, _Polygon, "").points
    flat = []
    for x, y in points:
      flat += self.to_pixels(x, y)
    return polygons.from_polygon(flat, self.size_HW)

  def rectangle(self, value: dict[str, Any]) -> Rle:
    """Draws a value of `rectanglelabels`."""
    shape = schema.read_object(value, _Rectangle, "")
    corner = self.to_pixels(shape.x, shape.y)
    sides = self.to_pixels(shape.width, shape.height)
    return polygons.from_rectangle(
        corner, sides, self.size_HW, shape.rotation or 0)

  def ellipse(self, value: dict[str, Any]) -> Rle:
    """Draws a value of `ellipselabels`."""
    shape = schema.read_object(value, _Ellipse, "")
    center = self.to_pixels(shape.x, shape.y)
    radii = self.to_pixels(shape.radius_x, shape.radius_y)
    return polygons.from_ellipse(
        center, radii, self.size_HW, shape.rotation or 0)

  def brush(self, value: dict[str, Any]) -> Rle:
    """Draws a value of `brushlabels`."""
    runs = schema.read_object(value, _Brush, "").rle
    try:
      mask_HW = label_studio_brush.decode(runs, self.size_HW)
    except ConfigError as error:
      raise ConfigError(f".rle: {error}") from None
    return polygons.from_mask(mask_HW)


# Type of a result, which is also the key of its labels → how to draw it.
_DRAW: dict[str, Callable[[_Canvas, dict[str, Any]], Rle]] = {
    "polygonlabels": _Canvas.polygon,
    "rectanglelabels": _Canvas.rectangle,
    "ellipselabels": _Canvas.ellipse,
    "brushlabels": _Canvas.brush,
}


def read_regions(results: Sequence[Result], place: str,
                 size_HW: tuple[int, int]) -> tuple[list[Region], list[str]]:
  """The regions of an image.

  Args:
    results: of one annotation.
    place: of these in the JSON, for messages.
    size_HW: height and width of the image.

  Returns:
    (the regions, the types of results that are no region with a label).

  Raises:
    ConfigError: a result is not what its type says, or belongs to an image of
      another size.
  """
  canvas = _Canvas(size_HW)
  regions = []
  other_types = []
  for number, result in enumerate(results):
    if result.type not in _DRAW:
      other_types.append(result.type)
      continue
    result_place = f"{place}.result[{number}]"
    _check_size(result, result_place, size_HW)
    regions.append(_read_region(result, f"{result_place}.value", canvas))
  return regions, other_types


def _read_region(result: Result, place: str, canvas: _Canvas) -> Region:
  listed = result.value.get(result.type)
  try:
    [label] = msgspec.convert(listed, _Labels)
  # The second one comes from half a letter.
  except (msgspec.ValidationError, UnicodeEncodeError):
    raise ConfigError(f"{place}.{result.type}: {schema.shown(listed)}; "
                      "allowed: a list of one label.") from None
  try:
    rle = _DRAW[result.type](canvas, result.value)
  except ConfigError as error:
    problem = str(error)
    # What is wrong with a key begins with it; all else is about the whole.
    separator = "" if problem.startswith((".", " ")) else ": "
    raise ConfigError(f"{place}{separator}{problem}") from None
  return Region(label, rle)


def _check_size(result: Result, place: str, size_HW: tuple[int, int]) -> None:
  if result.image_rotation:
    raise ConfigError(f"{place}.image_rotation: {result.image_rotation}; "
                      "allowed: 0. Turn the image itself.")
  height, width = size_HW
  listed_HW = (result.original_height or height, result.original_width or width)
  if listed_HW != size_HW:
    raise ConfigError(
        f"{place}: original_height x original_width is {listed_HW[0]}x"
        f"{listed_HW[1]}, but {height}x{width} in the image file.")
