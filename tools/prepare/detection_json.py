"""The JSON of COCO's detection format, read and checked as a whole.

It is an object with three lists: `images`, `annotations` (one for each object,
with a `segmentation`) and `categories`. A segmentation is a list of polygons,
or an object with run lengths: a list of numbers, or COCO's compressed text.
`area` and `bbox` are ignored: they are counted in the pixels.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tools.passes import raise_problems
from tools.prepare import coco_json, polygons
from tools.prepare.coco_json import ImageEntry
from tools.prepare.polygons import Rle
from uvim import categories as categories_lib
from uvim import schema
from uvim.categories import Category
from uvim.registry import ConfigError

_SEGMENTATION = ("a list of polygons, or an object with 'size' and 'counts'")

_Pixels = Annotated[int, Meta(ge=1)]
_Size = Annotated[
    Annotated[list[_Pixels], Meta(min_length=2, max_length=2)],
    Meta(description="a list of height and width in pixels")]
_Counts = Annotated[list[int] | str, Meta(
    description="a list of whole numbers, or a text")]


class ObjectEntry(msgspec.Struct, gc=False):
  """An entry of `annotations`. In what `read` gives, `image_id` is a number."""
  image_id: coco_json.ImageId
  category_id: schema.ID
  segmentation: Any = None
  iscrowd: coco_json.CrowdFlag = None


class _Runs(msgspec.Struct):
  """A segmentation by run lengths."""
  size: _Size
  counts: _Counts


@dataclasses.dataclass(frozen=True)
class Annotations:
  """The content of the JSON.

  Attributes:
    images: in the order of the JSON; no id twice.
    objects: in the order of the JSON.
    categories: all that objects name, as things.
    texts: each image id that is a text, with its number.
  """
  images: list[ImageEntry]
  objects: list[ObjectEntry]
  categories: tuple[Category, ...]
  texts: dict[str, int]


def read(path: pathlib.Path) -> Annotations:
  """Reads and checks the JSON, except for the segmentations.

  Raises:
    ConfigError: it cannot be read, is not JSON, or lists what is wrong in it.
  """
  data = coco_json.load_lists(path, "detection")
  coco_json.refuse_other(
      data, path, key="segments_info", kind="panoptic", command="coco")
  title = f"--annotations: {str(path)!r}"
  images, problems = schema.read_list(data["images"], ImageEntry, "images")
  objects, more_problems = schema.read_list(
      data["annotations"], ObjectEntry, "annotations")
  problems += more_problems
  used_ids = list({entry.category_id for entry in objects})
  categories, more_problems = _read_categories(data["categories"], used_ids)
  problems += more_problems
  # What follows needs complete lists.
  raise_problems(problems, title)
  texts = coco_json.number_ids(images, objects)
  image_ids = [image.id for image in images]
  problems = schema.repeats(image_ids, "images", ".id")
  problems += _unknown_ids(objects, set(image_ids), categories)
  if not images:
    problems.append("images is empty.")
  raise_problems(problems, title)
  return Annotations(images, objects, categories, texts)


def _read_categories(records: Sequence[Any], used_ids: Sequence[int]
                     ) -> tuple[tuple[Category, ...], list[str]]:
  """See `categories_lib.read_records`; in these files all are things.

  Roboflow puts the name of the project first, often that of a class too. Of two
  categories of one name, one that no object uses is left out.
  """
  objects = [record for record in records if isinstance(record, dict)]
  counts = collections.Counter(str(record.get("name")) for record in objects)
  things = []
  for record in records:
    if isinstance(record, dict):
      is_repeated = counts[str(record.get("name"))] > 1
      if is_repeated and record.get("id") not in used_ids:
        continue
      record = {**record, "isthing": 1}
    things.append(record)
  return categories_lib.read_records(things)


def _unknown_ids(objects: Sequence[ObjectEntry], image_ids: set[int],
                 categories: Sequence[Category]) -> list[str]:
  """Problems with ids that name nothing."""
  category_ids = {category.id for category in categories}
  problems = []
  for position, entry in enumerate(objects):
    place = f"annotations[{position}]"
    if entry.image_id not in image_ids:
      problems.append(
          f"{place}.image_id: no image has the id {entry.image_id}.")
    if entry.category_id not in category_ids:
      problems.append(f"{place}.category_id: {entry.category_id} is the id of "
                      "no category.")
  return problems


def read_segmentation(value: Any, place: str, size_HW: tuple[int, int]
                      ) -> Rle | None:
  """The pixels of a segmentation; None if there is no polygon.

  Args:
    value: as `json` gives it.
    place: where it stands, for the message.
    size_HW: height and width of the image.

  Raises:
    ConfigError: names the place, what came and what is allowed.
  """
  # Boxes alone have an empty list, or none.
  if value is None or value == []:
    return None
  if isinstance(value, Mapping):
    return _read_runs(value, place, size_HW)
  if not isinstance(value, list):
    raise ConfigError(
        f"{place}: {schema.shown(value)}; allowed: {_SEGMENTATION}.")
  parts = []
  for number, part in enumerate(value):
    parts.append(_read_polygon(part, f"{place}[{number}]", size_HW))
  return polygons.union(parts)


def _read_polygon(part: Any, place: str, size_HW: tuple[int, int]) -> Rle:
  if not isinstance(part, list):
    raise ConfigError(f"{place}: {schema.shown(part)}; allowed: a polygon, a "
                      "list of x and y in turn.")
  try:
    points = msgspec.convert(part, list[float])
  # The second one comes from half a letter.
  except (msgspec.ValidationError, UnicodeEncodeError):
    raise ConfigError(f"{place}{_not_a_number(part)}") from None
  try:
    return polygons.from_polygon(points, size_HW)
  except ConfigError as error:
    raise ConfigError(f"{place}: {error}") from None


def _not_a_number(part: Sequence[Any]) -> str:
  """The place and the value of what is no number in a polygon."""
  for number, value in enumerate(part):
    if isinstance(value, bool) or not isinstance(value, int | float):
      return f"[{number}]: {schema.shown(value)}; allowed: a number."
  return ": it holds a number that is too large."


def _read_runs(value: Mapping[str, Any], place: str, size_HW: tuple[int, int]
               ) -> Rle:
  runs = schema.read_object(value, _Runs, place)
  if tuple(runs.size) != size_HW:
    height, width = size_HW
    raise ConfigError(f"{place}.size: {runs.size}; the image has "
                      f"[{height}, {width}].")
  try:
    counts = runs.counts
    if isinstance(counts, str):
      counts = polygons.runs_of(counts)
    return polygons.from_runs(counts, size_HW)
  except ConfigError as error:
    raise ConfigError(f"{place}.counts: {error}") from None
