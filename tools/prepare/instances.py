"""The reader of images with masks of classes and masks of instances.

There are two ways to give instances: one PNG of ids for each image (0 is no
instance), or a folder for each image with one PNG for each instance (what is
not 0 is the instance). Only pixels of things count.

H W pixels of an image · M those of instances
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Self

import numpy as np

from tools.prepare import class_list, mask_files, mask_pixels
from tools.prepare.class_list import ClassList
from tools.prepare.mask_files import MaskedImage
from tools.prepare.mask_mistakes import Mistake
from tools.prepare.mask_pixels import MaskFile
from tools.prepare.mask_segments import Maps
from tools.prepare.masks import MasksReader, classes_of


@dataclasses.dataclass
class InstancesReader(MasksReader):
  """Images with masks of classes and of instances, as one split.

  Attributes:
    instances: folder of the masks of instances.
    ids_per_class: whether ids count within each class, so that a car 1 and a
      person 1 are two things.
  """
  min_area: int = 0
  instances: pathlib.Path | None = None
  ids_per_class: bool = False

  command = "instances"
  summary = "images with masks of classes and of instances"

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    super().add_options(parser)
    parser.add_argument(
        "--instances", required=True, type=pathlib.Path,
        help="folder of masks of instances: a PNG of ids for each image, or a "
        "folder of PNGs for each image")
    parser.add_argument(
        "--ids_per_class", action="store_true",
        help="ids of instances count within each class")

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    return cls(options.images, options.masks, classes_of(options),
               options.split, options.min_area, options.mask_suffix,
               options.instances, options.ids_per_class)

  def source_folders(self) -> list[pathlib.Path]:
    return [*super().source_folders(), self.instances]

  def match(self) -> list[MaskedImage]:
    folder = mask_files.Folder(
        self.instances, self.option("--instances"),
        mask_files.INSTANCE_ENDINGS)
    return mask_files.add_instances(super().match(), folder)

  def read_maps(self, item: MaskedImage, file: MaskFile) -> Maps:
    class_HW = mask_pixels.class_ids(file, self.classes)
    instance_HW = read_instances(item, file)
    # Elsewhere, ids have no meaning.
    is_thing_HW = np.isin(class_HW, self.classes.thing_ids())
    instance_HW[~is_thing_HW] = 0
    return Maps(class_HW, instance_HW)

  def mistakes_of(self, item: MaskedImage, maps: Maps) -> list[Mistake]:
    mistakes = _without_masks(item, maps, self.classes)
    if not self.ids_per_class:
      mistakes += _repeated(item, maps, self.classes.names_of())
    return mistakes


def read_instances(item: MaskedImage, file: MaskFile) -> np.ndarray:
  """The instance of each pixel: int32 [H, W]; 0 is none.

  Args:
    item: an image.
    file: its mask of classes.

  Raises:
    Mistake: a mask is no PNG, or not of the size of the mask of classes.
  """
  if item.instance_ids is not None:
    return _read_ids(item.instance_ids, item, file)
  instance_HW = np.zeros(file.size_HW, np.int32)
  # Of two that overlap, the later name is in front.
  for number, path in enumerate(item.instance_masks, start=1):
    is_here_HW = _read_ids(path, item, file) != 0
    instance_HW[is_here_HW] = number
  return instance_HW


def _read_ids(path: pathlib.Path, item: MaskedImage, file: MaskFile
              ) -> np.ndarray:
  """The ids of one PNG: int32 [H, W]; see `read_instances`."""
  instance_file = mask_pixels.read_file(path)
  mask_pixels.check_size(
      instance_file, file.size_HW, f"the mask {item.mask_name}")
  return mask_pixels.raw_ids(instance_file)


def _without_masks(item: MaskedImage, maps: Maps, classes: ClassList
                   ) -> list[Mistake]:
  """An image with things, but without a file of instances."""
  if item.instance_ids or item.instance_masks:
    return []
  for category in classes.categories:
    if category.isthing and np.any(maps.class_HW == category.id):
      return [Mistake(
          item.mask, f"has pixels of {category.name!r}, but --instances has "
          f"no folder for {item.name}",
          "Each image with things needs its masks of instances.")]
  return []


def _repeated(item: MaskedImage, maps: Maps, name_of: Mapping[int, str]
              ) -> list[Mistake]:
  """The first instance that lies in two classes of things."""
  is_instance_HW = maps.instance_HW > 0
  instance_M = maps.instance_HW[is_instance_HW].astype(np.int64)
  class_M = maps.class_HW[is_instance_HW]
  # One number for both: pairs would take long to sort.
  num_ids = class_list.HIGHEST_ID + 1
  pairs, areas = np.unique(num_ids * instance_M + class_M, return_counts=True)
  text_of = {}
  for pair, area in zip(pairs.tolist(), areas, strict=True):
    number, class_id = divmod(pair, num_ids)
    text = f"{name_of[class_id]!r} ({area:,} pixels)"
    if number in text_of:
      path = item.instance_ids or item.instance_masks[number - 1]
      return [Mistake(
          path, f"instance {number} lies in {text_of[number]} and in {text}",
          "Give each instance an id of its own; if ids count within each "
          "class, add --ids_per_class.")]
    text_of[number] = text
  return []
