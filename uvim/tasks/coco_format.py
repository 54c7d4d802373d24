"""Panoptic predictions in COCO's format: a PNG per image, one JSON for all.

A segment is a (class, instance) pair of more than zero pixels; class 0 is
void. In the PNG, its id is R + 256 G + 65536 B, and void is 0.

H W pixels of an image
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from uvim import categories as categories_lib
from uvim import pixels, resize
from uvim.registry import ConfigError
from uvim.tasks import output_files
from uvim.tasks.base import Categories, Record


def write_panoptic(path: Any, panoptic_HW2: np.ndarray,
                   categories: Categories) -> Record:
  """Writes the PNG of an image.

  Args:
    path: of the PNG.
    panoptic_HW2: int (semantics, instance).
    categories: class c is categories[c - 1]; None: c itself is COCO's id.

  Returns:
    The image's record for the JSON, without its image_id.

  Raises:
    ConfigError: a class has no category, or the file cannot be written.
  """
  classes_HW = panoptic_HW2[..., 0]
  highest_class = classes_HW.max()
  if categories is not None and highest_class > len(categories):
    raise ConfigError(f"Class {highest_class} was predicted, but there are "
                      f"{len(categories)} categories.")
  ids_HW, classes = number_segments(panoptic_HW2)
  segments = []
  for segment_id, label in enumerate(classes, start=1):
    category_id = label
    if categories is not None:
      # COCO's ids of categories have gaps; the model's classes have none.
      category_id = categories[label - 1].id
    segment = {"id": segment_id, "category_id": category_id, "iscrowd": 0}
    mask_HW = ids_HW == segment_id
    segment.update(_extent(mask_HW))
    segments.append(segment)
  rgb_HWC = pixels.rgb_from_ids(ids_HW)
  output_files.write_png(path, rgb_HWC)
  file_name = pathlib.Path(path).name
  return {"file_name": file_name, "segments_info": segments}


def write_panoptic_list(path: Any, images: Iterator[Record],
                        records: Iterator[Record],
                        categories: Categories) -> None:
  """Writes the JSON of all images; arguments as in `AbstractTask`."""
  content = {
      "images": images,
      "annotations": records,
      "categories": categories_lib.to_records(categories or ()),
  }
  output_files.write_json(path, content)


def number_segments(panoptic_HW2: np.ndarray) -> tuple[np.ndarray, list[int]]:
  """Numbers the segments of an image 1, 2, … by class, then by instance.

  Returns:
    (int [H, W] of the numbers, 0 is void; the class of each segment).
  """
  # One integer for each pair, so that it sorts by class, then by instance.
  stride = int(panoptic_HW2[..., 1].max()) + 1
  strips = resize.strips(panoptic_HW2.shape)
  pairs = np.zeros(0, np.int64)
  for strip in strips:
    pairs = np.union1d(pairs, _pairs(panoptic_HW2[strip], stride))
  # Void is 0.
  pairs = pairs[pairs > 0]
  ids_HW = np.empty(panoptic_HW2.shape[:2], np.int32)
  for strip in strips:
    pairs_HW = _pairs(panoptic_HW2[strip], stride)
    # Void is below all pairs; the first pair gets number 1.
    ids_HW[strip] = np.searchsorted(pairs, pairs_HW, side="right")
  classes = pairs // stride
  return ids_HW, classes.tolist()


def _pairs(panoptic_HW2: np.ndarray, stride: int) -> np.ndarray:
  """int64 [H, W]: class * stride + instance; 0 where there is no class."""
  # 64 bits: the product could overflow fewer.
  classes_HW = panoptic_HW2[..., 0].astype(np.int64)
  pairs_HW = classes_HW * stride + panoptic_HW2[..., 1]
  return np.where(classes_HW > 0, pairs_HW, 0)


def _extent(mask_HW: np.ndarray) -> dict[str, Any]:
  """COCO's area and bbox (left, top, width, height)."""
  # A segment has at least one pixel, so both masks have a true place.
  top, height = _range_of_true(mask_HW.any(axis=1))
  left, width = _range_of_true(mask_HW.any(axis=0))
  area = int(mask_HW.sum())
  return {"area": area, "bbox": [left, top, width, height]}


def _range_of_true(mask: np.ndarray) -> tuple[int, int]:
  """(first true place, number of places up to the last true one)."""
  places = np.flatnonzero(mask)
  first = int(places[0])
  last = int(places[-1])
  return first, last - first + 1
