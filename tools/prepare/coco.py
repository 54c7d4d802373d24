"""The reader of panoptic files in COCO's format; see `coco_files`."""

import argparse
import dataclasses
import functools
import pathlib
from typing import Any, Self

from tools.prepare import coco_files, reader
from tools.prepare.builder_writer import BuilderWriter
from tools.prepare.coco_files import Record
from tools.prepare.writer import Found, Target
from uvim import categories as categories_lib
from uvim.categories import Category
from uvim.registry import ConfigError

COCO_NAME = "coco/2017_panoptic"


@dataclasses.dataclass
class CocoReader(reader.FileReader):
  """Panoptic files in COCO's format, as one split.

  Attributes:
    images: folder of images, named as in the JSON.
    panoptic: folder of panoptic PNGs, named as in the JSON.
    annotations: the panoptic JSON.
    split: the split to write.
  """
  images: pathlib.Path
  panoptic: pathlib.Path
  annotations: pathlib.Path
  split: str

  command = "coco"
  summary = "panoptic files in COCO's format"

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", required=True, type=pathlib.Path,
                        help="folder of images")
    parser.add_argument(
        "--panoptic", required=True, type=pathlib.Path,
        help="folder of panoptic PNGs (id = R + 256 G + 65536 B)")
    parser.add_argument("--annotations", required=True, type=pathlib.Path,
                        help="panoptic JSON")
    reader.add_name_option(parser, default=COCO_NAME)
    reader.add_split_option(parser)
    super().add_options(parser)

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    return cls(options.images, options.panoptic, options.annotations,
               options.split)

  def source_folders(self) -> list[pathlib.Path]:
    return [self.images, self.panoptic, self.annotations.parent]

  def split_names(self) -> list[str]:
    return [self.split]

  def find(self, target: Target) -> Found:
    check_categories(target.name, self._categories)
    # Splits of one data set share its list of categories.
    list_path = target.folder / categories_lib.FILE_NAME
    if list_path.is_file():
      if categories_lib.load(list_path) != self._categories:
        raise ConfigError(
            f"--name: {str(target.folder)!r} has other categories than "
            "--annotations. Choose another --name, or delete that folder.")
    # Matching opens no image. That is the work of `problems`, in threads.
    records = coco_files.match_records(
        self._annotations, self.images, self.panoptic)
    # Written with the data, because TFDS keeps names of labels only.
    write_categories = functools.partial(
        categories_lib.save, categories=self._categories)
    return Found({self.split: records},
                 coco_files.make_features(self._categories),
                 {categories_lib.FILE_NAME: write_categories})

  def problems(self, item: Record) -> list[str]:
    category_ids = {category.id for category in self._categories}
    return coco_files.check_record(item, category_ids)

  def make_example(self, position: int, item: Record) -> dict[str, Any]:
    del position  # The JSON gives an id.
    return coco_files.make_example(item, self._categories)

  def make_writer(self) -> BuilderWriter:
    return BuilderWriter(key_of=coco_files.file_name_of,
                         num_bytes=coco_files.num_bytes)

  # Both are read once, when they are first needed.
  @functools.cached_property
  def _annotations(self) -> dict[str, Any]:
    return coco_files.read_annotations(self.annotations)

  @functools.cached_property
  def _categories(self) -> tuple[Category, ...]:
    return categories_lib.from_records(
        self._annotations["categories"], str(self.annotations))


def check_categories(name: str, categories: tuple[Category, ...]) -> None:
  """Checks the categories of a data set.

  Raises:
    ConfigError: two have one name, or they are not those of COCO and the data
      set has COCO's name, under which TFDS has fixed labels.
  """
  # Labels are places in this list. Under the name of COCO another order would
  # be read as wrong classes.
  if name == COCO_NAME and categories != categories_lib.coco_panoptic():
    raise ConfigError(
        f"--name: {COCO_NAME!r} has COCO's 133 categories in their order; the "
        f"annotations have {len(categories)} that differ. Choose another "
        "--name, like 'mydata'.")
  names = [category.name for category in categories]
  repeated = sorted({name for name in names if names.count(name) > 1})
  if repeated:
    raise ConfigError(f"--annotations: category names that repeat: {repeated}.")
