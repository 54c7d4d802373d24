"""The reader of images with depth maps; see `pairing` and `depth_files`."""

import argparse
import dataclasses
import pathlib
from typing import Self

from tools.prepare import (
    depth_files,
    depth_reader,
    depth_unit,
    pairing,
    reader,
    tfds_folder,
    tum,
)
from tools.prepare.depth_unit import Unit
from tools.prepare.writer import Found, Target
from uvim.registry import ConfigError


@dataclasses.dataclass(frozen=True)
class RgbdReader(depth_reader.DepthReader):
  """Images with depth maps, as one split.

  Attributes:
    images: folder of images.
    depth: folder of their depth maps; None: the same.
    split: the split to write.
    unit: of the numbers in the depth maps; None: that of the layout, or the
      usual one.
    image_pattern: which files are images, see `pairing.Layout`; None: the
      usual names.
    depth_pattern: the same of depth maps; given together with `image_pattern`.
  """
  images: pathlib.Path
  depth: pathlib.Path | None
  split: str
  unit: Unit | None = None
  image_pattern: str | None = None
  depth_pattern: str | None = None

  command = "rgbd"
  summary = "images with depth maps"

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", required=True, type=pathlib.Path,
                        help="folder of images")
    parser.add_argument("--depth", type=pathlib.Path,
                        help="folder of depth maps (default: that of images)")
    units = parser.add_mutually_exclusive_group()
    units.add_argument(
        "--unit", metavar="UNIT",
        help=f"of all numbers in the depth maps: {depth_unit.ALLOWED} (default:"
        " whole numbers in PNG and TIFF are mm, floats are m)")
    units.add_argument(
        "--depth_scale", metavar="NUMBER",
        help="older form of --unit: steps per metre of whole numbers; floats "
        "stay metres")
    parser.add_argument(
        "--image_pattern", metavar="PATTERN",
        help="which files are images, such as '*_left.png'; what * stands for "
        "must be the same in the path of the depth map")
    parser.add_argument("--depth_pattern", metavar="PATTERN",
                        help="which files are depth maps, such as '*_range.*'")
    reader.add_name_option(parser)
    reader.add_split_option(parser)
    super().add_options(parser)

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    unit = None
    if options.unit is not None:
      unit = depth_unit.from_unit(options.unit)
    elif options.depth_scale is not None:
      unit = depth_unit.from_depth_scale(options.depth_scale)
    return cls(options.images, options.depth, options.split, unit,
               options.image_pattern, options.depth_pattern,
               max_depth=options.max_depth)

  def source_folders(self) -> list[pathlib.Path]:
    return [self.images, self._depth_folder()]

  def split_names(self) -> list[str]:
    return [self.split]

  def find(self, target: Target) -> Found:
    depth_reader.check_limit(self.max_depth)
    matched = self._match()
    unit = self.unit or matched.unit or Unit()
    print(f"Found pairs: {matched.text}; {unit}")
    pairs = []
    for image, depth in matched.pairs:
      pairs.append(depth_files.make_pair(
          matched.folder, image, depth, unit, self.max_depth))
    features = depth_files.make_features()
    # The splits of a data set share their features.
    tfds_folder.check_features(target.folder, features)
    # Frames of a recording follow each other, so they are shuffled by a hash.
    mixed = tfds_folder.in_hash_order(pairs, depth_files.name_of)
    return Found({self.split: mixed}, features)

  def _depth_folder(self) -> pathlib.Path:
    return self.images if self.depth is None else self.depth

  def _match(self) -> pairing.Matched:
    """The images with their depth maps."""
    # The same folder may be given in two spellings.
    images = self.images.resolve()
    depth = self._depth_folder().resolve()
    patterns = (self.image_pattern, self.depth_pattern)
    if patterns != (None, None):
      if None in patterns:
        raise ConfigError("--image_pattern, --depth_pattern: give both.")
      return pairing.match(images, depth, patterns)
    recordings = tum.find_recordings(images, depth)
    if recordings:
      return tum.match(recordings, images)
    return pairing.match(images, depth)
