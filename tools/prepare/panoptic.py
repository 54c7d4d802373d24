"""Panoptic data sets: their features, examples and list of categories.

What every reader of segments shares, whatever files the segments come from. The
features are those of TFDS's coco/2017_panoptic, so that ops, evaluators and
contact sheets read all of these data sets alike.

H W pixels of an image · R runs of equal ids in a row · S segments
"""

import functools
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tools.prepare.writer import Found, Target
from uvim import categories as categories_lib
from uvim import pixels
from uvim.categories import Category
from uvim.registry import ConfigError

COCO_NAME = "coco/2017_panoptic"


class Segment(NamedTuple):
  """A segment of an image.

  Attributes:
    id: its number in the map of ids, 1 to 2**24 - 1.
    label: place of its category in the list of categories.
    iscrowd: whether it is a group whose members nobody told apart.
  """
  id: int
  label: int
  iscrowd: bool = False


# ── The data set ────────────────────────────────────────────────────────────


def make_found(target: Target, split: str, items: Sequence[Any],
               categories: tuple[Category, ...]) -> Found:
  """What a reader of segments found, as one split.

  Raises:
    ConfigError: the data set that is there has other categories, or the name
      is that of COCO and the categories are not.
  """
  _check_name(target.name, categories)
  # Splits of one data set share its list of categories.
  existing = existing_categories(target)
  if existing is not None and existing != categories:
    raise ConfigError(
        f"--name: {str(target.folder)!r} has other categories than "
        "these files. Choose another --name, or delete that folder.")
  # Written with the data, because TFDS keeps names of labels only.
  write_categories = functools.partial(
      categories_lib.save, categories=categories)
  return Found({split: items}, make_features(categories),
               {categories_lib.FILE_NAME: write_categories})


def existing_categories(target: Target) -> tuple[Category, ...] | None:
  """The categories of the data set that is there, or None.

  Raises:
    ConfigError: its list is damaged.
  """
  path = target.folder / categories_lib.FILE_NAME
  if not path.is_file():
    return None
  return categories_lib.load(path, "--name")


def _check_name(name: str, categories: tuple[Category, ...]) -> None:
  # Labels are places in this list. Under the name of COCO another order would
  # be read as wrong classes.
  if name == COCO_NAME and categories != categories_lib.coco_panoptic():
    raise ConfigError(
        f"--name: {COCO_NAME!r} has COCO's 133 categories in their order; "
        f"these files have {len(categories)} that differ. Choose another "
        "--name, like 'mydata'.")


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


# ── One example ─────────────────────────────────────────────────────────────


def make_example(image: bytes | str, file_name: str, image_id: int,
                 ids_HW: np.ndarray, segments: Sequence[Segment]
                 ) -> dict[str, Any]:
  """What `make_features` encodes, from a map of ids.

  Args:
    image: an encoded image, or the path of one.
    file_name: its name in the data set.
    image_id: its number.
    ids_HW: the segment of each pixel, whole numbers, 0 is void.
    segments: those of the map; one without a pixel is left out.
  """
  present_ids_S, extents_S5 = measure(ids_HW)
  extent_of = dict(zip(present_ids_S.tolist(), extents_S5, strict=True))
  present = [segment for segment in segments if segment.id in extent_of]
  extents = [extent_of[segment.id] for segment in present]
  png = io.BytesIO()
  Image.fromarray(pixels.rgb_from_ids(ids_HW)).save(png, "PNG")
  return {
      "image": image,
      "image/filename": file_name,
      "image/id": image_id,
      "panoptic_image": png.getvalue(),
      "panoptic_image/filename": "",
      "panoptic_objects": make_objects(present, extents, ids_HW.shape),
  }


def make_objects(segments: Sequence[Segment], extents: Sequence[np.ndarray],
                 size_HW: tuple[int, int]) -> list[dict[str, Any]]:
  """The feature `panoptic_objects`.

  Args:
    segments: in the order of the list to make.
    extents: (area, left, top, width, height) of each in pixels, as `measure`
      gives them.
    size_HW: height and width of the image.
  """
  objects = []
  for segment, extent_5 in zip(segments, extents, strict=True):
    area, *box = extent_5.tolist()
    objects.append({
        "id": segment.id,
        "area": area,
        "bbox": _relative_box(box, size_HW),
        "label": segment.label,
        "is_crowd": segment.iscrowd,
    })
  return objects


def _relative_box(box: Sequence[int], size_HW: tuple[int, int]) -> Any:
  """[left, top, width, height] as TFDS's box of shares of the image."""
  import tensorflow_datasets as tfds
  left, top, width, height = box
  image_height, image_width = size_HW
  return tfds.features.BBox(
      ymin=top / image_height, xmin=left / image_width,
      ymax=(top + height) / image_height, xmax=(left + width) / image_width)


def measure(ids_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The segments of a map of ids, without void.

  Returns:
    (int32 [S] ids in rising order, int32 [S, 5] of area, left, top, width and
    height in pixels).
  """
  # Ids come in long runs. A pass over the runs of all rows is many times
  # faster than one over all pixels for each segment.
  y_R, x_R, length_R = _runs(ids_HW)
  ids_S, place_R = np.unique(ids_HW[y_R, x_R], return_inverse=True)
  num_segments = len(ids_S)
  area_S = np.bincount(place_R, length_R, num_segments)
  left_S = _extreme_of(np.minimum, place_R, x_R, num_segments)
  top_S = _extreme_of(np.minimum, place_R, y_R, num_segments)
  right_S = _extreme_of(np.maximum, place_R, x_R + length_R, num_segments)
  bottom_S = _extreme_of(np.maximum, place_R, y_R + 1, num_segments)
  extents_S5 = np.stack(
      [area_S, left_S, top_S, right_S - left_S, bottom_S - top_S], -1)
  is_segment = ids_S > 0
  return ids_S[is_segment], extents_S5[is_segment].astype(np.int32)


def _runs(ids_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The runs of equal ids in the rows of a map.

  Returns:
    (row, first column, number of pixels) of each run, int [R] each.
  """
  is_start_HW = np.ones(ids_HW.shape, bool)
  is_start_HW[:, 1:] = ids_HW[:, 1:] != ids_HW[:, :-1]
  y_R, x_R = np.nonzero(is_start_HW)
  start_R = np.flatnonzero(is_start_HW)
  # Each row begins with a run of its own, so a run ends where the next begins.
  length_R = np.diff(start_R, append=ids_HW.size)
  return y_R, x_R, length_R


def _extreme_of(extreme: np.ufunc, place_R: np.ndarray, value_R: np.ndarray,
                num_segments: int) -> np.ndarray:
  """The smallest or largest of the values of each segment: int [S]."""
  # Where each segment starts does not matter, as long as it is one of its own.
  extreme_S = np.empty(num_segments, value_R.dtype)
  extreme_S[place_R] = value_R
  extreme.at(extreme_S, place_R, value_R)
  return extreme_S
