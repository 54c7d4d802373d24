"""From maps of classes and instances to segments.

H W pixels of an image · M those of one class · S segments
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from tools.prepare.panoptic import Segment
from uvim.categories import Category


@dataclasses.dataclass(frozen=True)
class Maps:
  """What the masks of an image say.

  Attributes:
    class_HW: id of the class, int32 [H, W].
    instance_HW: id of the instance, int32 [H, W]; 0 is none. None: there are
      no masks of instances, and each connected part is one.
  """
  class_HW: np.ndarray
  instance_HW: np.ndarray | None = None


def make_segments(maps: Maps, categories: Sequence[Category], min_area: int
                  ) -> tuple[np.ndarray, list[Segment]]:
  """The segments of an image.

  Stuff is one segment for each class. A thing is one instance or, without
  masks of instances, one connected part (neighbors share an edge). Pixels of
  a thing class that belong to no instance are one crowd. What is void, of no
  category, or a thing smaller than `min_area` is in no segment.

  Args:
    maps: of the image.
    categories: the classes.
    min_area: pixels of the smallest thing.

  Returns:
    (int32 [H, W] ids of segments, 0 where there is none; the segments, with
    ids 1, 2, 3, …)
  """
  ids_HW = np.zeros(maps.class_HW.shape, np.int32)
  segments = []
  present = set(present_ids(maps.class_HW))
  for label, category in enumerate(categories):
    if category.id not in present:
      continue
    mask_HW = maps.class_HW == category.id
    part_M = _parts(mask_HW, category, maps.instance_HW)
    part_S, place_M, area_S = np.unique(
        part_M, return_inverse=True, return_counts=True)
    number_S = np.zeros(len(part_S), np.int32)
    for place, (part, area) in enumerate(zip(part_S, area_S, strict=True)):
      if category.isthing and area < min_area:
        continue
      # Other parts count from 1.
      is_crowd = bool(part == 0)
      number = len(segments) + 1
      number_S[place] = number
      segments.append(Segment(number, label, is_crowd))
    ids_HW[mask_HW] = number_S[place_M]
  return ids_HW, segments


def classes_without_instances(maps: Maps, categories: Sequence[Category]
                              ) -> list[str]:
  """Names of classes of things with pixels that belong to no instance."""
  if maps.instance_HW is None:
    return []
  ids = present_ids(maps.class_HW[maps.instance_HW == 0])
  names = []
  for category in categories:
    if category.isthing and category.id in ids:
      names.append(category.name)
  return names


def present_ids(class_HW: np.ndarray) -> list[int]:
  """The ids of a map of classes, rising."""
  # Faster than np.unique, which sorts all pixels.
  counts = np.bincount(class_HW.ravel())
  return np.flatnonzero(counts).tolist()


def _parts(mask_HW: np.ndarray, category: Category,
           instance_HW: np.ndarray | None) -> np.ndarray:
  """Which part of its class each pixel belongs to: int [M]; 0 is a crowd."""
  if not category.isthing:
    return np.ones(np.count_nonzero(mask_HW), np.int32)
  if instance_HW is not None:
    return instance_HW[mask_HW]
  part_HW, _ = ndimage.label(mask_HW)
  return part_HW[mask_HW]
