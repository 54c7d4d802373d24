"""Raw panoptic files in COCO's format: read, checked, as TFDS examples.

The format: a JSON with `images`, `annotations` (one per image, with
`segments_info`) and `categories`, and one PNG per image in which the colour is
the segment id: R + 256 G + 65536 B, 0 for void.
"""

import contextlib
import dataclasses
import io
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from tools.passes import check_each, progress, raise_problems
from uvim.registry import ConfigError


@dataclasses.dataclass(frozen=True)
class Record:
  """One image with its annotation, as paths and JSON dicts."""
  image_path: pathlib.Path
  panoptic_path: pathlib.Path
  image: dict[str, Any]
  annotation: dict[str, Any]

  @property
  def name(self) -> str:
    """How messages call it."""
    return f"image {self.image['id']} ({self.image['file_name']})"


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The annotation file, with its three lists.

  Raises:
    ConfigError: when it is absent, not JSON, or lacks a list.
  """
  try:
    data = json.loads(path.read_text())
  except OSError as error:
    raise ConfigError(f"--annotations: cannot read {str(path)!r}: "
                      f"{error.strerror}.") from error
  except ValueError as error:
    raise ConfigError(
        f"--annotations: {str(path)!r} is not JSON: {error}.") from error
  keys = ("images", "annotations", "categories")
  absent = [key for key in keys if not isinstance(data, dict)
            or not isinstance(data.get(key), list)]
  if absent:
    raise ConfigError(
        f"--annotations: {str(path)!r} has no list {', '.join(absent)}; a "
        f"COCO panoptic file has {', '.join(keys)}.")
  return data


def match_records(data: dict[str, Any], images: pathlib.Path,
                  panoptic: pathlib.Path) -> list[Record]:
  """Pairs images with annotations by id; looks whether the files exist.

  Raises:
    ConfigError: listing what does not pair or is not there.
  """
  for flag, folder in (("--images", images), ("--panoptic", panoptic)):
    if not folder.is_dir():
      raise ConfigError(f"{flag}: {str(folder)!r} is not a folder.")
  problems = _missing_keys(data)
  raise_problems(problems, "--annotations")
  problems += _repeated("image id", (x["id"] for x in data["images"]))
  problems += _repeated("file name", (x["file_name"] for x in data["images"]))
  problems += _repeated("annotation of image",
                        (x["image_id"] for x in data["annotations"]))
  by_id = {x["image_id"]: x for x in data["annotations"]}
  records = []
  for image in sorted(data["images"], key=lambda x: x["id"]):
    annotation = by_id.pop(image["id"], None)
    if annotation is None:
      problems.append(f"image {image['id']} ({image['file_name']}): no "
                      "annotation has this image_id.")
      continue
    record = Record(images / image["file_name"],
                    panoptic / annotation["file_name"], image, annotation)
    problems += [f"{record.name}: no file {str(path)!r}."
                 for path in (record.image_path, record.panoptic_path)
                 if not path.is_file()]
    records.append(record)
  problems += [f"annotation {x.get('file_name')}: no image has the id "
               f"{x['image_id']}." for x in by_id.values()]
  raise_problems(problems, "The files do not fit together")
  if not records:
    raise ConfigError("--annotations: the list of images is empty.")
  return records


def _missing_keys(data: dict[str, Any]) -> list[str]:
  needs = {"images": ("id", "file_name"),
           "annotations": ("image_id", "file_name", "segments_info")}
  return [f"{kind}[{i}] has no {key!r}."
          for kind, keys in needs.items() for i, item in enumerate(data[kind])
          for key in keys if key not in item]


def _repeated(what: str, values: Iterable[Any]) -> list[str]:
  seen, twice = set(), []
  for value in values:
    if value in seen:
      twice.append(f"{what} {value} appears twice.")
    seen.add(value)
  return twice


def read_ids(path: pathlib.Path) -> np.ndarray:
  """Segment ids of a panoptic PNG: int32 [H, W], 0 is void.

  Raises:
    ValueError: when the file is no RGB picture.
  """
  with Image.open(path) as picture:
    if picture.mode not in ("RGB", "RGBA"):
      raise ValueError(f"its mode is {picture.mode}, not RGB")
    rgb_HW3 = np.asarray(picture, np.int32)[..., :3]
  return rgb_HW3 @ np.array([1, 256, 65536], np.int32)


def _present(ids_HW: np.ndarray) -> set[int]:
  """The ids in a picture. Sorting run starts, not pixels, is 20x faster."""
  flat = ids_HW.ravel()
  starts = np.flatnonzero(np.diff(flat, prepend=-1))
  return set(np.unique(flat[starts]).tolist()) - {0}


def _check_sizes(record: Record, size_HW: tuple[int, int]) -> list[str]:
  """Compares the PNG with the photograph and with the JSON."""
  with Image.open(record.image_path) as picture:
    sizes = {"the image": picture.size[::-1]}
    kind = picture.format
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
  out = []
  if kind not in ("JPEG", "PNG", "BMP"):
    out.append(f"{record.name}: is {kind}; allowed: JPEG, PNG, BMP.")
  if "height" in record.image and "width" in record.image:
    sizes["the JSON"] = (record.image["height"], record.image["width"])
  return out + [
      f"{record.name}: {what} has height x width {size[0]}x{size[1]}, its "
      f"panoptic PNG {size_HW[0]}x{size_HW[1]}." + turned * (
          " EXIF says to turn the image; ids belong to the pixels as they are "
          "stored.")
      for what, size in sizes.items() if tuple(size) != size_HW]


def check_record(record: Record, category_ids: set[int]) -> list[str]:
  """Problems of one image: unreadable files, sizes, segment ids, categories.

  Segments without `area` or `bbox` get them from the PNG.
  """
  try:
    ids_HW = read_ids(record.panoptic_path)
    problems = _check_sizes(record, ids_HW.shape)
  # Pillow reports broken files with many types: OSError, ValueError,
  # SyntaxError, DecompressionBombError, struct.error, ….
  except Exception as error:  # noqa: BLE001
    return [f"{record.name}: cannot be read: {error}."]
  record.image.update(height=ids_HW.shape[0], width=ids_HW.shape[1])
  segments = record.annotation["segments_info"]
  if any("id" not in x or "category_id" not in x for x in segments):
    return problems + [f"{record.name}: a segment has no id or category_id."]
  present, listed = _present(ids_HW), {x["id"] for x in segments}
  problems += _repeated(f"{record.name}: segment",
                        (x["id"] for x in segments))
  problems += [f"{record.name}: segment {i} is in the PNG but not in the JSON."
               for i in sorted(present - listed)]
  problems += [f"{record.name}: segment {i} is in the JSON but has no pixel in "
               "the PNG." for i in sorted(listed - present)]
  problems += [f"{record.name}: segment {x['id']} has category_id "
               f"{x['category_id']}, which the JSON's categories lack."
               for x in segments if x["category_id"] not in category_ids]
  if not problems:
    _complete(segments, ids_HW)
  return problems


def _complete(segments: Sequence[dict[str, Any]], ids_HW: np.ndarray) -> None:
  """Fills in what a segment may leave out: area, bbox [x, y, w, h], crowd."""
  for segment in segments:
    segment.setdefault("iscrowd", 0)
    if "area" in segment and "bbox" in segment:
      continue
    y_M, x_M = np.nonzero(ids_HW == segment["id"])
    segment.setdefault("area", len(y_M))
    x, y = int(x_M.min()), int(y_M.min())
    segment.setdefault("bbox", [x, y, int(x_M.max()) + 1 - x,
                                int(y_M.max()) + 1 - y])


def check_records(records: Sequence[Record], category_ids: set[int]) -> None:
  """Opens every file once; see `check_record`.

  Raises:
    ConfigError: listing the first problems and how many there are.
  """
  check_each(lambda record: check_record(record, category_ids), records)


def num_bytes(records: Sequence[Record]) -> int:
  """The size of all files."""
  return sum(path.stat().st_size for record in records
             for path in (record.image_path, record.panoptic_path))


def _features(categories: Sequence[Any]) -> Any:
  """The features of TFDS's coco/2017_panoptic, name by name."""
  import tensorflow_datasets as tfds
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
          "label": tfds.features.ClassLabel(
              names=[category.name for category in categories]),
          "is_crowd": np.bool_,
      }),
  })


def _examples(records: Sequence[Record], categories: Sequence[Any]
              ) -> Iterator[tuple[str, dict[str, Any]]]:
  """Keys and examples; files go in byte for byte."""
  import tensorflow_datasets as tfds
  label_of = {category.id: i for i, category in enumerate(categories)}

  def box(segment, image):
    x, y, width, height = segment["bbox"]
    # Some annotators' boxes end a pixel outside, which TFDS refuses.
    ends = (y / image["height"], x / image["width"],
            (y + height) / image["height"], (x + width) / image["width"])
    return tfds.features.BBox(*(min(1.0, max(0.0, end)) for end in ends))

  for record in progress(records, total=len(records), desc="Writing",
                         unit="examples"):
    yield record.image["file_name"], {
        "image": str(record.image_path),
        "image/filename": record.image["file_name"],
        "image/id": record.image["id"],
        "panoptic_image": str(record.panoptic_path),
        "panoptic_image/filename": record.annotation["file_name"],
        "panoptic_objects": [{
            "id": segment["id"],
            "area": int(segment["area"]),
            "bbox": box(segment, record.image),
            "label": label_of[segment["category_id"]],
            "is_crowd": bool(segment["iscrowd"]),
        } for segment in record.annotation["segments_info"]],
    }


def make_builder(name: str, version: str, split: str, data_dir: str, *,
                 records: Sequence[Record], categories: Sequence[Any]) -> Any:
  """A TFDS builder of one split.

  TFDS's own, not `tfds_folder.write`: its order of the examples decides which
  of COCO's images 'train[:4096]' holds out.
  """
  import tensorflow_datasets as tfds
  dataset, _, config = name.partition("/")

  class Panoptic(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Panoptic segmentation in COCO's format."""
    VERSION = tfds.core.Version(version)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(
        name=config, version=version)] if config else []

    def _info(self):
      return tfds.core.DatasetInfo(builder=self,
                                   features=_features(categories))

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples()}

    def _generate_examples(self):
      return _examples(records, categories)

  Panoptic.name = dataset
  return Panoptic(data_dir=data_dir, **({"config": config} if config else {}))


def run_builder(builder: Any) -> None:
  """`download_and_prepare` without TFDS's announcements and nested bars."""
  import tensorflow_datasets as tfds
  tfds.display_progress_bar(False)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare()
  finally:
    tfds.display_progress_bar(True)
