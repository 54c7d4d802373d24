"""The reader of images with depth maps; see `depth_files`."""

import argparse
import dataclasses
import pathlib
from typing import Self

from tools.prepare import depth_files, depth_reader, reader, tfds_folder
from tools.prepare.writer import Found, Target


@dataclasses.dataclass(frozen=True)
class RgbdReader(depth_reader.DepthReader):
  """Images with depth maps, as one split.

  Attributes:
    images: folder of images.
    depth: folder of their depth maps; it may be the same.
    split: the split to write.
    depth_scale: whole numbers in a depth map per meter.
  """
  images: pathlib.Path
  depth: pathlib.Path
  split: str
  depth_scale: float = 1000.0

  command = "rgbd"
  summary = "images with depth maps"
  wrong_scale = (
      "Whole numbers are divided by --depth_scale: 1000 for millimetres, 100 "
      "for centimetres, 5000 for TUM, 4000 for Matterport3D, 256 for KITTI.")

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", required=True, type=pathlib.Path,
                        help="folder of images")
    parser.add_argument("--depth", required=True, type=pathlib.Path,
                        help="folder of depth maps")
    parser.add_argument(
        "--depth_scale", type=float, default=cls.depth_scale,
        help="whole numbers per metre (default: %(default)g)")
    reader.add_name_option(parser)
    reader.add_split_option(parser)
    super().add_options(parser)

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    return cls(options.images, options.depth, options.split,
               options.depth_scale, max_depth=options.max_depth)

  def source_folders(self) -> list[pathlib.Path]:
    return [self.images, self.depth]

  def split_names(self) -> list[str]:
    return [self.split]

  def find(self, target: Target) -> Found:
    depth_reader.check_limit(self.max_depth)
    pairs = depth_files.match_rgbd(
        self.images, self.depth, self.depth_scale, self.max_depth)
    features = depth_files.make_features()
    # The splits of a data set share their features.
    tfds_folder.check_features(target.folder, features)
    # Frames of a recording follow each other, so they are shuffled by a hash.
    mixed = tfds_folder.in_hash_order(pairs, depth_files.name_of)
    return Found({self.split: mixed}, features)
