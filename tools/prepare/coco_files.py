"""Panoptic files in COCO's format: found, checked, as examples.

Beside the JSON (`coco_json`) there is one image and one PNG for each entry. The
color of a pixel of the PNG is its segment id: R + 256 G + 65536 B, and 0 for
void.

H W pixels of an image · S segments
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import ExifTags

from tools.passes import raise_problems
from tools.prepare import image_files, panoptic
from tools.prepare.coco_json import (
  AnnotationEntry,
  Annotations,
  ImageEntry,
  SegmentEntry,
)
from tools.prepare.file_folder import FileFolder
from uvim import opener, pixels
from uvim.registry import ConfigError

# TFDS decodes no other formats.
_FORMATS = ("JPEG", "PNG", "BMP")
_UPRIGHT = 1  # The EXIF orientation of an image that needs no rotation.


@dataclasses.dataclass
class Record:
  """One image with its annotation.

  Attributes:
    image_path: the image file.
    panoptic_path: the panoptic PNG.
    image: its entry in the JSON's list `images`.
    annotation: its entry in the JSON's list `annotations`.
    size_HW: height and width in pixels; known after `check_record`.
    extents_S5: int32 (area, left, top, width, height) of each segment in
      pixels, in the order of the annotation; known after `check_record`.
  """
  image_path: pathlib.Path
  panoptic_path: pathlib.Path
  image: ImageEntry
  annotation: AnnotationEntry
  size_HW: tuple[int, int] | None = None
  extents_S5: np.ndarray | None = None

  @property
  def name(self) -> str:
    """Its name in messages."""
    return self.image.name


def file_name_of(record: Record) -> str:
  """The name of the image file in the JSON."""
  return record.image.file_name


# ── Files ───────────────────────────────────────────────────────────────────


def match_records(annotations: Annotations, images: FileFolder,
                  panoptic: FileFolder) -> list[Record]:
  """Pairs images with annotations by id, and finds their files.

  Args:
    annotations: from `coco_json.read`.
    images: the images.
    panoptic: the panoptic PNGs.

  Returns:
    One record for each image, sorted by id.

  Raises:
    ConfigError: lists the files that are absent, elsewhere or named twice.
  """
  images.check()
  panoptic.check()
  image_paths, problems = images.locate(annotations.images, "images")
  panoptic_paths, more_problems = panoptic.locate(
      annotations.annotations, "annotations")
  raise_problems(problems + more_problems, "The files do not fit together")
  annotation_of = {}
  for annotation, path in zip(annotations.annotations, panoptic_paths,
                              strict=True):
    annotation_of[annotation.image_id] = (annotation, path)
  records = []
  for image, image_path in zip(annotations.images, image_paths, strict=True):
    annotation, panoptic_path = annotation_of[image.id]
    records.append(Record(image_path, panoptic_path, image, annotation))
  # By id, so that the order does not depend on the file.
  return sorted(records, key=lambda record: record.image.id)


def num_bytes(records: Sequence[Record]) -> int:
  """The size of all files."""
  total = 0
  for record in records:
    total += record.image_path.stat().st_size
    total += record.panoptic_path.stat().st_size
  return total


# ── Checks of one image ─────────────────────────────────────────────────────


def check_record(record: Record) -> list[str]:
  """Problems of one image: unreadable files, sizes, segment ids.

  If there are none, `size_HW` and `extents_S5` of the record are filled in.
  """
  try:
    ids_HW = read_ids(record.panoptic_path, f"{record.name}, panoptic PNG")
    problems = _check_image(record, ids_HW.shape)
  except ConfigError as error:
    return [str(error)]
  except OSError as error:
    return [f"{record.name}: cannot be read: {error}."]
  present_ids, extents = panoptic.measure(ids_HW)
  segments = record.annotation.segments_info
  # Each id of the PNG must be in the JSON, and the reverse: one that is not
  # would silently become void.
  problems += _check_ids(record.name, segments, present_ids)
  if not problems:
    listed_ids = np.array([segment.id for segment in segments], np.int32)
    record.size_HW = ids_HW.shape
    record.extents_S5 = extents[np.searchsorted(present_ids, listed_ids)]
  return problems


def read_ids(path: pathlib.Path, name: str) -> np.ndarray:
  """Segment ids of a panoptic PNG: int32 [H, W], 0 is void.

  Args:
    path: the file.
    name: starts each message.

  Raises:
    ConfigError: the file is not a PNG with RGB colors, or is damaged.
  """
  with opener.open_image(path, name, formats=("PNG",)) as image:
    if image.mode not in ("RGB", "RGBA"):
      raise ConfigError(
          f"its pixels are of mode {image.mode}; allowed: RGB, whose colors "
          "are segment ids.")
    colors = np.asarray(image)
  # Without the fourth channel of RGBA.
  return pixels.ids_from_rgb(colors[..., :3])


def _check_image(record: Record, size_HW: tuple[int, int]) -> list[str]:
  """Decodes the image; compares its size and the JSON's with the PNG's.

  Args:
    record: the image.
    size_HW: height and width of the panoptic PNG.

  Raises:
    ConfigError: it is no image, damaged, or cut short.
    OSError: it cannot be read.
  """
  height, width = size_HW
  problems = []
  # The JSON need not tell a size. If it does, that must fit too.
  listed = record.image
  for key, value, expected in (("height", listed.height, height),
                               ("width", listed.width, width)):
    if value not in (None, expected):
      problems.append(f"{record.name}: {key} is {value} in the JSON, but "
                      f"{expected} in its panoptic PNG.")
  with opener.open_image(record.image_path, record.name,
                         formats=_FORMATS) as image:
    if (image.height, image.width) != size_HW:
      problems.append(
          f"{record.name}: the image has height x width {image.height}x"
          f"{image.width}, its panoptic PNG {height}x{width}."
          f"{_rotation_hint(image)}")
  image_files.check_training_decodes(record.image_path, record.name)
  return problems


def _rotation_hint(image: Any) -> str:
  """A sentence about the EXIF of an image that does not fit, or ""."""
  orientation = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
  if orientation == _UPRIGHT:
    return ""
  return (" EXIF says to turn the image; ids belong to the pixels as they are "
          "stored.")


def _check_ids(name: str, segments: Sequence[SegmentEntry],
               present_ids: np.ndarray) -> list[str]:
  """Compares the ids of the PNG with those of the JSON."""
  listed = {segment.id for segment in segments}
  present = set(present_ids.tolist())
  problems = []
  for number in sorted(present - listed):
    problems.append(f"{name}: segment {number} is in the PNG but not in the "
                    "JSON.")
  for number in sorted(listed - present):
    problems.append(f"{name}: segment {number} is in the JSON but has no pixel "
                    "in the PNG.")
  return problems


# ── Examples ────────────────────────────────────────────────────────────────


def make_example(record: Record, label_of: Mapping[int, int]
                 ) -> dict[str, Any]:
  """What `panoptic.make_features` encodes; files go in byte for byte.

  Args:
    record: that `check_record` found no problem with.
    label_of: id of a category → its label. Ids have gaps, labels have none.
  """
  segments = []
  for entry in record.annotation.segments_info:
    segments.append(panoptic.Segment(
        entry.id, label_of[entry.category_id], bool(entry.iscrowd)))
  objects = panoptic.make_objects(
      segments, record.extents_S5, record.size_HW)
  return {
      "image": str(record.image_path),
      "image/filename": record.image.file_name,
      "image/id": record.image.id,
      "panoptic_image": str(record.panoptic_path),
      "panoptic_image/filename": record.annotation.file_name,
      "panoptic_objects": objects,
  }
