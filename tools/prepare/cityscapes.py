"""The reader of Cityscapes as it is distributed, with leftImg8bit and gtFine.

H W pixels of an image
"""

import argparse
import dataclasses
from typing import Self

from tools.prepare import mask_files, reader
from tools.prepare.class_list import ClassList
from tools.prepare.instances import InstancesReader
from tools.prepare.mask_files import MaskedImage
from tools.prepare.mask_pixels import MaskFile
from tools.prepare.mask_segments import Maps
from uvim.categories import Category

# The 19 classes that are evaluated, with their ids in *_labelIds.png.
_STUFF = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence",
    17: "pole", 19: "traffic light", 20: "traffic sign", 21: "vegetation",
    22: "terrain", 23: "sky"}
_THINGS = {
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train",
    32: "motorcycle", 33: "bicycle"}
# All ids are lower than this; those that are not evaluated are void.
_NUM_IDS = 34
# In *_instanceIds.png, an instance has the id class * 1000 + number. A lower
# id is that of a class: of stuff, or of a group of things.
_FIRST_INSTANCE = 1000
# Split → the name of its folder.
_FOLDERS = {"train": "train", "validation": "val"}


def make_classes() -> ClassList:
  """The 19 classes in the order of their train ids; all else is void."""
  categories = []
  for number, name in _STUFF.items():
    categories.append(Category(number, name, False))
  for number, name in _THINGS.items():
    categories.append(Category(number, name, True))
  evaluated = {*_STUFF, *_THINGS}
  return ClassList(
      tuple(categories),
      frozenset(range(_NUM_IDS)) - evaluated,
      data_set="Cityscapes")


@dataclasses.dataclass
class CityscapesReader(InstancesReader):
  """Cityscapes, as one split."""

  root_option = "--root"
  command = "cityscapes"
  summary = "Cityscapes: leftImg8bit and gtFine, its 19 evaluated classes"

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    reader.add_layout_options(parser, "leftImg8bit and gtFine", _FOLDERS)
    reader.add_name_option(parser, default="cityscapes_panoptic")
    reader.FileReader.add_options(parser)

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    folder = _FOLDERS[options.split]
    labels = options.root / "gtFine" / folder
    return cls(options.root / "leftImg8bit" / folder, labels, make_classes,
               options.split, mask_suffix="_gtFine_labelIds", instances=labels)

  def match(self) -> list[MaskedImage]:
    mask_files.check_layout(self.images, self.masks)
    return super().match()

  def read_maps(self, item: MaskedImage, file: MaskFile) -> Maps:
    maps = super().read_maps(item, file)
    # What is left are groups, which are no instances.
    maps.instance_HW[maps.instance_HW < _FIRST_INSTANCE] = 0
    return maps
