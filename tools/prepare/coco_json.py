"""The JSON of panoptic files in COCO's format, read and checked as a whole.

It is an object with three lists: `images`, `annotations` (one for each image,
with `segments_info`) and `categories`. All that the JSON alone can tell is
checked here, before any image is opened. `area` and `bbox` of a segment are
ignored: they are counted in the PNG, which is the truth.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tools.passes import raise_problems
from uvim import categories as categories_lib
from uvim import files, schema
from uvim.categories import Category
from uvim.registry import ConfigError

_LISTS = ("images", "annotations", "categories")
_HIGHEST_ID = 2**63 - 1
# So many digits are 52 bits, which every reader of JSON keeps exactly.
_HASH_DIGITS = 13

ImageId = Annotated[schema.ID | schema.TEXT, Meta(
    description=f"a whole number from 0 to {_HIGHEST_ID:,}, or a text")]
_SegmentId = Annotated[int, Meta(
    ge=1, le=2**24 - 1,
    description="a whole number from 1 to 16,777,215 (0 is void)")]
_Size = Annotated[Annotated[int, Meta(ge=1)] | None, Meta(
    description="a whole number of pixels, not as a text")]
CrowdFlag = Annotated[schema.FLAG | None, Meta(
    description="0, 1, false or true, not as a text")]


class ImageEntry(msgspec.Struct, gc=False):
  """An entry of `images`. In what `read` gives, `id` is a number."""
  id: ImageId
  file_name: schema.TEXT
  height: _Size = None
  width: _Size = None

  @property
  def name(self) -> str:
    """Its name in messages."""
    return f"image {self.id} ({self.file_name})"


class SegmentEntry(msgspec.Struct, gc=False):
  """An entry of `segments_info`."""
  id: _SegmentId
  category_id: schema.ID
  iscrowd: CrowdFlag = None


class AnnotationEntry(msgspec.Struct):
  """An entry of `annotations`. In what `read` gives, `image_id` is a number."""
  image_id: ImageId
  file_name: schema.TEXT
  segments_info: list[SegmentEntry]


@dataclasses.dataclass(frozen=True)
class Annotations:
  """The content of the JSON.

  Attributes:
    images: in the order of the JSON; no id twice.
    annotations: in the order of the JSON; one for each image.
    categories: all that segments name.
    texts: each image id that is a text, with its number.
  """
  images: list[ImageEntry]
  annotations: list[AnnotationEntry]
  categories: tuple[Category, ...]
  texts: dict[str, int]


def read(path: pathlib.Path) -> Annotations:
  """Reads and checks the JSON.

  Raises:
    ConfigError: it cannot be read, is not JSON, or lists what is wrong in it.
  """
  data = load_lists(path, "panoptic")
  refuse_other(data, path, key="segmentation", kind="detection",
               command="detection")
  title = f"--annotations: {str(path)!r}"
  images, problems = schema.read_list(data["images"], ImageEntry, "images")
  annotations, more_problems = schema.read_list(
      data["annotations"], AnnotationEntry, "annotations")
  problems += more_problems
  categories, more_problems = categories_lib.read_records(data["categories"])
  problems += more_problems
  # What follows needs complete lists.
  raise_problems(problems, title)
  texts = number_ids(images, annotations)
  problems = _repeated_ids(images, annotations)
  problems += _unknown_categories(annotations, categories)
  problems += _without_partner(images, annotations)
  if not images:
    problems.append("images is empty.")
  raise_problems(problems, title)
  return Annotations(images, annotations, categories, texts)


def load_lists(path: pathlib.Path, kind: str) -> dict[str, Any]:
  """The JSON of a COCO file: an object with three lists.

  Args:
    path: of the file.
    kind: what such a file is called, for the message.

  Raises:
    ConfigError: it cannot be read, or lacks a list.
  """
  data = files.load_json(path, "--annotations")
  # JSON may also be a list or a number at its top.
  lists = data if isinstance(data, dict) else {}
  absent = [key for key in _LISTS if not isinstance(lists.get(key), list)]
  if absent:
    raise ConfigError(
        f"--annotations: {str(path)!r} has no list {', '.join(absent)}; a "
        f"COCO {kind} file has {', '.join(_LISTS)}.")
  return data


def refuse_other(data: Mapping[str, Any], path: pathlib.Path, *, key: str,
                 kind: str, command: str) -> None:
  """Raises a ConfigError for a file that another command reads.

  Args:
    data: of `load_lists`.
    path: of the file.
    key: what only the annotations of the other kind have.
    kind: what the other file is called.
    command: that reads it.
  """
  first = data["annotations"][:1]
  if first and isinstance(first[0], dict) and key in first[0]:
    raise ConfigError(
        f"--annotations: {str(path)!r} is a {kind} file (it has {key!r}); the "
        f"command `{command}` reads it.")


def number_of(image_id: int | str) -> int:
  """The number of an image id, the same in every file and on every machine.

  A text of digits is the number that it shows. Any other text becomes a number
  of 52 bits, from its SHA-256.
  """
  if isinstance(image_id, int):
    return image_id
  # Longer texts of digits may not fit into 64 bits.
  if image_id.isascii() and image_id.isdecimal() and len(image_id) <= 18:
    return int(image_id)
  digest = hashlib.sha256(image_id.encode()).hexdigest()
  return int(digest[:_HASH_DIGITS], 16)


def number_ids(images: Sequence[ImageEntry], annotations: Sequence[Any]
               ) -> dict[str, int]:
  """Replaces ids that are texts by numbers; returns those of the images.

  Args:
    images: their `id` is replaced.
    annotations: their `image_id` is replaced.
  """
  texts = {}
  for image in images:
    number = number_of(image.id)
    if isinstance(image.id, str):
      texts[image.id] = number
    image.id = number
  for annotation in annotations:
    annotation.image_id = number_of(annotation.image_id)
  return texts


def tell_texts(texts: Mapping[str, int]) -> None:
  """Says which numbers stand for image ids that are texts."""
  if not texts:
    return
  text, number = next(iter(texts.items()))
  print(f"--annotations: {len(texts):,} image ids are texts. A text of digits "
        "becomes that number, any other a number of its SHA-256; the first is "
        f"{text!r} → {number}.")


def _repeated_ids(images: Sequence[ImageEntry],
                  annotations: Sequence[AnnotationEntry]) -> list[str]:
  """Problems with ids that must be unique."""
  image_ids = [image.id for image in images]
  problems = schema.repeats(image_ids, "images", ".id")
  annotated_ids = [annotation.image_id for annotation in annotations]
  problems += schema.repeats(annotated_ids, "annotations", ".image_id")
  for position, annotation in enumerate(annotations):
    segment_ids = [segment.id for segment in annotation.segments_info]
    list_name = f"annotations[{position}].segments_info"
    problems += schema.repeats(segment_ids, list_name, ".id")
  return problems


def _unknown_categories(annotations: Sequence[AnnotationEntry],
                        categories: Sequence[Category]) -> list[str]:
  """A problem for each segment whose category is not in the list."""
  known_ids = {category.id for category in categories}
  problems = []
  for position, annotation in enumerate(annotations):
    for number, segment in enumerate(annotation.segments_info):
      if segment.category_id not in known_ids:
        problems.append(
            f"annotations[{position}].segments_info[{number}].category_id: "
            f"{segment.category_id} is the id of no category.")
  return problems


def _without_partner(images: Sequence[ImageEntry],
                     annotations: Sequence[AnnotationEntry]) -> list[str]:
  """Problems with images without annotation, and the reverse."""
  image_ids = {image.id for image in images}
  annotated_ids = {annotation.image_id for annotation in annotations}
  problems = []
  for image in images:
    if image.id not in annotated_ids:
      problems.append(f"{image.name}: no annotation has this image_id.")
  for position, annotation in enumerate(annotations):
    if annotation.image_id not in image_ids:
      problems.append(f"annotations[{position}].image_id: no image has the id "
                      f"{annotation.image_id}.")
  return problems
