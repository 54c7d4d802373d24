"""The reader of images alone, with or without classes; see `image_files`."""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, Self

from tools.prepare import image_files, reader, tfds_folder
from tools.prepare.image_files import ImageFile
from tools.prepare.writer import Found, Target


@dataclasses.dataclass(frozen=True)
class ImagesReader(reader.FileReader):
  """Images, as one split.

  Attributes:
    images: folders of images; see `image_files.find`.
    split: the split to write.
    list_file: a text that names the images to take, one a line, in the order
      to write. None: all images, in an order as good as random.
  """
  images: Sequence[pathlib.Path]
  split: str
  list_file: pathlib.Path | None = None

  command = "images"
  summary = "images"

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", required=True, nargs="+",
                        type=pathlib.Path, help="folder(s) of images")
    parser.add_argument(
        "--list", dest="list_file", type=pathlib.Path,
        help="text that names the files to take, one per line")
    reader.add_name_option(parser)
    reader.add_split_option(parser)
    super().add_options(parser)

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    return cls(options.images, options.split, options.list_file)

  def source_folders(self) -> list[pathlib.Path]:
    return list(self.images)

  def split_names(self) -> list[str]:
    return [self.split]

  def find(self, target: Target) -> Found:
    found = image_files.find(self.images)
    if self.list_file is None:
      # Shuffled by a hash: the order of names is often that of classes.
      chosen = tfds_folder.in_hash_order(found, image_files.name_of)
    else:
      # The list decides the order too.
      chosen = image_files.pick(found, self.list_file)
    # The splits of a data set share their features.
    features = tfds_folder.existing_features(target.folder)
    if features is None:
      # The classes of all images: another split may use those left out here.
      features = image_files.make_features(found)
    else:
      image_files.check_fits(features, chosen)
    return Found({self.split: chosen}, features)

  def problems(self, item: ImageFile) -> list[str]:
    return image_files.check(item.path, item.name)

  def make_example(self, position: int, item: ImageFile) -> dict[str, Any]:
    return image_files.make_example(position, item)
