"""Panoptic files in COCO's format: read, matched, checked, as examples.

The format: a JSON with `images`, `annotations` (one for each image, with
`segments_info`) and `categories`, and one PNG for each image. The color of a
pixel is its segment id: R + 256 G + 65536 B, and 0 for void.

H W pixels of an image · M pixels of one segment
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from tools.passes import raise_problems
from uvim import pixels
from uvim.categories import Category
from uvim.registry import ConfigError

_LISTS = ("images", "annotations", "categories")
_NEEDED_KEYS = {"images": ("id", "file_name"),
                "annotations": ("image_id", "file_name", "segments_info")}
# TFDS decodes no other formats.
_FORMATS = ("JPEG", "PNG", "BMP")
_UPRIGHT = 1  # The EXIF orientation of an image that needs no rotation.


@dataclasses.dataclass(frozen=True)
class Record:
  """One image with its annotation.

  Attributes:
    image_path: the image file.
    panoptic_path: the panoptic PNG.
    image: its dict in the JSON's list `images`.
    annotation: its dict in the JSON's list `annotations`.
  """
  image_path: pathlib.Path
  panoptic_path: pathlib.Path
  image: dict[str, Any]
  annotation: dict[str, Any]

  @property
  def name(self) -> str:
    """Its name in messages."""
    return _name_in_messages(self.image)


def _name_in_messages(image: dict[str, Any]) -> str:
  return f"image {image['id']} ({image['file_name']})"


def file_name_of(record: Record) -> str:
  """The name of the image file in the JSON."""
  return record.image["file_name"]


def read_annotations(path: pathlib.Path) -> dict[str, Any]:
  """The annotation file, a dict with three lists.

  Raises:
    ConfigError: it is absent, not JSON, or lacks a list.
  """
  try:
    data = json.loads(path.read_text())
  except OSError as error:
    raise ConfigError(f"--annotations: cannot read {str(path)!r}: "
                      f"{error.strerror}.") from error
  except ValueError as error:
    raise ConfigError(
        f"--annotations: {str(path)!r} is not JSON: {error}.") from error
  # JSON may also be a list or a number at its top.
  lists = data if isinstance(data, dict) else {}
  absent = [key for key in _LISTS if not isinstance(lists.get(key), list)]
  if absent:
    raise ConfigError(
        f"--annotations: {str(path)!r} has no list {', '.join(absent)}; a "
        f"COCO panoptic file has {', '.join(_LISTS)}.")
  return data


def match_records(data: dict[str, Any], images: pathlib.Path,
                  panoptic: pathlib.Path) -> list[Record]:
  """Pairs images with annotations by id, and checks that the files exist.

  Args:
    data: from `read_annotations`.
    images: folder of the images.
    panoptic: folder of the panoptic PNGs.

  Returns:
    One record for each image, sorted by id.

  Raises:
    ConfigError: lists what has no partner and which files are absent.
  """
  for flag, folder in (("--images", images), ("--panoptic", panoptic)):
    if not folder.is_dir():
      raise ConfigError(f"{flag}: {str(folder)!r} is not a folder.")
  raise_problems(_missing_keys(data), "--annotations")
  problems = _repeated_names(data)
  # An annotation leaves this dict when its image is found.
  unused = {item["image_id"]: item for item in data["annotations"]}
  records = []
  # By id, so that the order does not depend on the file.
  for image in sorted(data["images"], key=lambda image: image["id"]):
    annotation = unused.pop(image["id"], None)
    if annotation is None:
      problems.append(f"{_name_in_messages(image)}: no annotation has this "
                      "image_id.")
      continue
    record = Record(images / image["file_name"],
                    panoptic / annotation["file_name"], image, annotation)
    problems += _absent_files(record)
    records.append(record)
  for annotation in unused.values():
    problems.append(f"annotation {annotation.get('file_name')}: no image has "
                    f"the id {annotation['image_id']}.")
  raise_problems(problems, "The files do not fit together")
  if not records:
    raise ConfigError("--annotations: the list of images is empty.")
  return records


def _missing_keys(data: dict[str, Any]) -> list[str]:
  """A problem for each entry that lacks a key which is needed below."""
  problems = []
  for list_name, keys in _NEEDED_KEYS.items():
    for position, item in enumerate(data[list_name]):
      for key in keys:
        if key not in item:
          problems.append(f"{list_name}[{position}] has no {key!r}.")
  return problems


def _repeated_names(data: dict[str, Any]) -> list[str]:
  """Problems with ids and file names that must be unique."""
  image_ids = [image["id"] for image in data["images"]]
  file_names = [image["file_name"] for image in data["images"]]
  annotated_ids = [item["image_id"] for item in data["annotations"]]
  problems = _repeated("image id", image_ids)
  problems += _repeated("file name", file_names)
  problems += _repeated("annotation of image", annotated_ids)
  return problems


def _repeated(what: str, values: Iterable[Any]) -> list[str]:
  """A problem for each time that a value comes again."""
  seen = set()
  problems = []
  for value in values:
    if value in seen:
      problems.append(f"{what} {value} appears twice.")
    seen.add(value)
  return problems


def _absent_files(record: Record) -> list[str]:
  """Problems with the two files of an image."""
  problems = []
  for path in (record.image_path, record.panoptic_path):
    if not path.is_file():
      problems.append(f"{record.name}: no file {str(path)!r}.")
  return problems


def check_record(record: Record, category_ids: set[int]) -> list[str]:
  """Problems of one image: unreadable files, sizes, segment ids, categories.

  If there are none, `height` and `width` of the image, and `area`, `bbox` and
  `iscrowd` of a segment, are filled in from the PNG where the JSON lacks them.
  """
  try:
    ids_HW = read_ids(record.panoptic_path)
    problems = _check_image(record, ids_HW.shape)
  # Pillow reports broken files with many types: OSError, ValueError,
  # SyntaxError, DecompressionBombError, struct.error, ….
  except Exception as error:  # noqa: BLE001
    return [f"{record.name}: cannot be read: {error}."]
  record.image.update(height=ids_HW.shape[0], width=ids_HW.shape[1])
  segments = record.annotation["segments_info"]
  if not all("id" in segment and "category_id" in segment
             for segment in segments):
    problems.append(f"{record.name}: a segment has no id or category_id.")
    return problems
  # Each id of the PNG must be in the JSON, and the reverse: one that is not
  # would silently become void.
  problems += _check_ids(record.name, segments, ids_HW)
  for segment in segments:
    if segment["category_id"] not in category_ids:
      problems.append(
          f"{record.name}: segment {segment['id']} has category_id "
          f"{segment['category_id']}, which the JSON's categories lack.")
  if not problems:
    for segment in segments:
      _complete(segment, ids_HW)
  return problems


def read_ids(path: pathlib.Path) -> np.ndarray:
  """Segment ids of a panoptic PNG: int32 [H, W], 0 is void.

  Raises:
    ValueError: the file is not an RGB image.
  """
  with Image.open(path) as image:
    if image.mode not in ("RGB", "RGBA"):
      raise ValueError(f"its mode is {image.mode}, not RGB")
    colors = np.asarray(image)
  # Without the fourth channel of RGBA.
  return pixels.ids_from_rgb(colors[..., :3])


def _check_image(record: Record, size_HW: tuple[int, int]) -> list[str]:
  """Checks the image's format; compares its size and the JSON's with the PNG's.

  Args:
    record: the image.
    size_HW: height and width of the panoptic PNG.
  """
  with Image.open(record.image_path) as image:
    file_format = image.format
    image_HW = (image.height, image.width)
    orientation = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
  problems = []
  if file_format not in _FORMATS:
    problems.append(f"{record.name}: is {file_format}; allowed: "
                    f"{', '.join(_FORMATS)}.")
  # The JSON need not tell a size. If it does, that must fit too.
  sizes = {"the image": image_HW}
  listed = record.image
  if "height" in listed and "width" in listed:
    sizes["the JSON"] = (listed["height"], listed["width"])
  hint = ""
  if orientation != _UPRIGHT:
    hint = (" EXIF says to turn the image; ids belong to the pixels as they "
            "are stored.")
  for source, (height, width) in sizes.items():
    if (height, width) != size_HW:
      problems.append(
          f"{record.name}: {source} has height x width {height}x{width}, its "
          f"panoptic PNG {size_HW[0]}x{size_HW[1]}.{hint}")
  return problems


def _check_ids(name: str, segments: Sequence[dict[str, Any]],
               ids_HW: np.ndarray) -> list[str]:
  """Compares the ids of the PNG with those of the JSON."""
  listed_ids = [segment["id"] for segment in segments]
  # A set below would hide an id that comes twice.
  problems = _repeated(f"{name}: segment", listed_ids)
  listed = set(listed_ids)
  present = _present_ids(ids_HW)
  for number in sorted(present - listed):
    problems.append(f"{name}: segment {number} is in the PNG but not in the "
                    "JSON.")
  for number in sorted(listed - present):
    problems.append(f"{name}: segment {number} is in the JSON but has no pixel "
                    "in the PNG.")
  return problems


def _present_ids(ids_HW: np.ndarray) -> set[int]:
  """The ids in an image, without 0."""
  # Ids come in long runs. It is 20 times faster to sort the starts of the runs
  # than all pixels.
  flat_ids = ids_HW.ravel()
  run_starts = np.flatnonzero(np.diff(flat_ids, prepend=-1))
  present = np.unique(flat_ids[run_starts])
  return set(present.tolist()) - {0}


def _complete(segment: dict[str, Any], ids_HW: np.ndarray) -> None:
  """Fills in what a segment may leave out: area, bbox [x, y, w, h], crowd."""
  segment.setdefault("iscrowd", 0)
  if "area" in segment and "bbox" in segment:
    return
  # A pass over the whole map, but only for a segment that lacks something.
  y_M, x_M = np.nonzero(ids_HW == segment["id"])
  x, width = _start_and_length(x_M)
  y, height = _start_and_length(y_M)
  segment.setdefault("area", len(y_M))
  segment.setdefault("bbox", [x, y, width, height])


def _start_and_length(positions_M: np.ndarray) -> tuple[int, int]:
  """The first position, and how far it is to the end of the last."""
  start = int(positions_M.min())
  last = int(positions_M.max())
  return start, last + 1 - start


def num_bytes(records: Sequence[Record]) -> int:
  """The size of all files."""
  total = 0
  for record in records:
    total += record.image_path.stat().st_size
    total += record.panoptic_path.stat().st_size
  return total


def make_features(categories: Sequence[Category]) -> Any:
  """The features of TFDS's coco/2017_panoptic, name by name."""
  import tensorflow_datasets as tfds
  category_names = [category.name for category in categories]
  return tfds.features.FeaturesDict({
      "image": tfds.features.Image(encoding_format="jpeg"),
      "image/filename": tfds.features.Text(),
      "image/id": np.int64,
      "panoptic_image": tfds.features.Image(encoding_format="png"),
      "panoptic_image/filename": tfds.features.Text(),
      "panoptic_objects": tfds.features.Sequence({
          "id": np.int64,
          "area": np.int64,
          "bbox": tfds.features.BBoxFeature(),
          "label": tfds.features.ClassLabel(names=category_names),
          "is_crowd": np.bool_,
      }),
  })


def make_example(record: Record, categories: Sequence[Category]
                 ) -> dict[str, Any]:
  """What `make_features` encodes. The files go in byte for byte."""
  # Ids of categories have gaps; labels are 0, 1, 2, …
  label_of = {category.id: label for label, category in enumerate(categories)}
  objects = []
  for segment in record.annotation["segments_info"]:
    objects.append({
        "id": segment["id"],
        "area": int(segment["area"]),
        "bbox": _relative_box(segment["bbox"], record.image),
        "label": label_of[segment["category_id"]],
        "is_crowd": bool(segment["iscrowd"]),
    })
  return {
      "image": str(record.image_path),
      "image/filename": record.image["file_name"],
      "image/id": record.image["id"],
      "panoptic_image": str(record.panoptic_path),
      "panoptic_image/filename": record.annotation["file_name"],
      "panoptic_objects": objects,
  }


def _relative_box(box: Sequence[float], image: dict[str, Any]) -> Any:
  """COCO's [x, y, width, height] as TFDS's box of shares of the image."""
  import tensorflow_datasets as tfds
  x, y, width, height = box
  image_height = image["height"]
  image_width = image["width"]
  # The order of TFDS: ymin, xmin, ymax, xmax.
  edges = [y / image_height, x / image_width,
           (y + height) / image_height, (x + width) / image_width]
  # Some annotators' boxes end a pixel outside, and TFDS refuses them.
  inside = np.clip(edges, 0.0, 1.0)
  return tfds.features.BBox(*inside.tolist())
