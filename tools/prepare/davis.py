"""The reader of DAVIS and of all clips in its layout.

A clip is a folder of images and a folder of palette PNGs: 0 is the background,
255 is void, and each other number is an object of the clip.

H W pixels of an image
"""

import argparse
import dataclasses
import pathlib
from typing import Self

import numpy as np

from tools.passes import raise_problems
from tools.prepare import mask_files, reader
from tools.prepare.class_list import ClassList
from tools.prepare.clips import ClipsReader
from tools.prepare.mask_files import Folder, MaskedImage
from tools.prepare.mask_mistakes import Mistake
from tools.prepare.mask_pixels import MaskFile
from tools.prepare.mask_segments import Maps
from uvim import files
from uvim.categories import Category
from uvim.registry import ConfigError

_BACKGROUND = 0
_OBJECT = 1
_VOID = 255


def make_classes() -> ClassList:
  """Background, which is stuff, and objects, which have no other class."""
  categories = (
      Category(_BACKGROUND, "background", False),
      Category(_OBJECT, "object", True),
  )
  return ClassList(categories, frozenset([_VOID]), data_set="DAVIS")


@dataclasses.dataclass
class DavisReader(ClipsReader):
  """Clips in the layout of DAVIS, as one split.

  Attributes:
    clip_list: a text with the name of a clip in each line; None: all clips.
  """
  clip_list: pathlib.Path | None = None

  command = "davis"
  summary = "clips in the layout of DAVIS: frames, and PNGs of their objects"

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", required=True, type=pathlib.Path,
        help="folder with a folder of frames for each clip, such as "
        "JPEGImages/480p")
    parser.add_argument(
        "--masks", required=True, type=pathlib.Path,
        help="folder with a folder of PNGs for each clip, such as "
        "Annotations_unsupervised/480p")
    parser.add_argument(
        "--list", type=pathlib.Path, metavar="FILE",
        help="names of the clips to take, one a line, such as "
        "ImageSets/2017/val.txt (default: all)")
    reader.add_name_option(parser, default="davis")
    reader.add_split_option(parser)
    reader.FileReader.add_options(parser)

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    return cls(options.images, options.masks, make_classes, options.split,
               min_area=0, clip_list=options.list)

  def match(self) -> list[MaskedImage]:
    # Frames of clips that are not asked for may have no masks.
    found = mask_files.match(
        self.images, Folder(self.masks, "--masks", ("",)), skips_images=True)
    if self.clip_list is None:
      return found
    return _pick(found, self.clip_list)

  def read_maps(self, item: MaskedImage, file: MaskFile) -> Maps:
    if file.mode not in ("P", "L"):
      raise Mistake(item.mask, f"its mode is {file.mode}, not P or L",
                    "A mask of DAVIS has the number of an object in each "
                    "pixel.")
    number_HW = file.values.astype(np.int32)
    class_HW = np.full_like(number_HW, _OBJECT)
    class_HW[number_HW == _BACKGROUND] = _BACKGROUND
    class_HW[number_HW == _VOID] = _VOID
    return Maps(class_HW=class_HW, instance_HW=number_HW)


def _pick(frames: list[MaskedImage], path: pathlib.Path) -> list[MaskedImage]:
  """The frames of the clips that a list names.

  Raises:
    ConfigError: it names none, or one that has no frame with a mask.
  """
  text = files.load_text(path, "--list")
  names = {line.strip() for line in text.splitlines()} - {""}
  if not names:
    raise ConfigError(f"--list: {str(path)!r} names no clip.")
  clip_of = {}
  for frame in frames:
    clip_of[frame] = pathlib.PurePath(frame.name).parent.as_posix()
  missing = sorted(names - set(clip_of.values()))
  raise_problems([f"{name}: no frame of this clip has a mask."
                  for name in missing], f"--list {str(path)!r}")
  return [frame for frame in frames if clip_of[frame] in names]
