"""The readers of KITTI-STEP: images of KITTI's tracking data, panoptic maps.

H W pixels of an image
"""

import argparse
import dataclasses
import pathlib
from typing import Self

import numpy as np

from tools.prepare import mask_files, reader
from tools.prepare.class_list import ClassList
from tools.prepare.clips import ClipsReader
from tools.prepare.mask_files import Folder, MaskedImage
from tools.prepare.mask_mistakes import Mistake
from tools.prepare.mask_pixels import MaskFile
from tools.prepare.mask_segments import Maps
from tools.prepare.masks import MasksReader
from uvim.categories import Category

# In the order of their ids, 0, 1, 2, …
_NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light",
    "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car",
    "truck", "bus", "train", "motorcycle", "bicycle")
# The others have no instances, though they are objects.
_THINGS = ("person", "car")
_VOID = 255


def make_classes() -> ClassList:
  """The 19 classes, of which two are things."""
  categories = []
  for number, name in enumerate(_NAMES):
    categories.append(Category(number, name, name in _THINGS))
  return ClassList(
      tuple(categories), frozenset([_VOID]), data_set="KITTI-STEP")


@dataclasses.dataclass
class KittiStepReader(MasksReader):
  """KITTI-STEP as still images, as one split."""

  command = "kitti_step"
  summary = "KITTI-STEP: images of KITTI and its panoptic maps"

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", required=True, type=pathlib.Path,
        help="folder with a folder of images for each sequence, such as "
        "training/image_02")
    parser.add_argument(
        "--masks", required=True, type=pathlib.Path,
        help="folder with a folder of maps for each sequence, such as "
        "panoptic_maps/train")
    reader.add_name_option(parser, default=cls.command)
    reader.add_split_option(parser)
    reader.FileReader.add_options(parser)

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    return cls(options.images, options.masks, make_classes, options.split,
               min_area=0)

  def match(self) -> list[MaskedImage]:
    # One folder of images serves training and validation.
    return mask_files.match(
        self.images, Folder(self.masks, "--masks", ("",)), skips_images=True)

  def read_maps(self, item: MaskedImage, file: MaskFile) -> Maps:
    if file.mode != "RGB":
      raise Mistake(item.mask, f"its mode is {file.mode}, not RGB",
                    "A map of KITTI-STEP has the class in red and the instance "
                    "in green and blue.")
    red_HW, green_HW, blue_HW = np.moveaxis(file.values.astype(np.int32), -1, 0)
    # Instances count within each class; 0 is none.
    return Maps(class_HW=red_HW, instance_HW=256 * green_HW + blue_HW)


# What a mask is comes from the one, what becomes of clips from the other.
class KittiStepClipsReader(ClipsReader, KittiStepReader):
  """KITTI-STEP as clips, as one split."""

  command = "kitti_step_clips"
  summary = "KITTI-STEP as clips: frames in order, tracks keep their ids"
