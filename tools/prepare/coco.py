"""The reader of panoptic files in COCO's format.

See `coco_json` for the JSON, and `coco_files` for the images and PNGs.
"""

import argparse
import dataclasses
import functools
import pathlib
from typing import Any, Self

from tools.prepare import coco_files, coco_json, panoptic, reader
from tools.prepare.builder_writer import BuilderWriter
from tools.prepare.coco_files import Record
from tools.prepare.coco_json import Annotations
from tools.prepare.file_folder import FileFolder
from tools.prepare.writer import Found, Target
from uvim.categories import Category


@dataclasses.dataclass
class CocoReader(reader.FileReader):
  """Panoptic files in COCO's format, as one split.

  Attributes:
    images: folder of images, named as in the JSON.
    panoptic: folder of panoptic PNGs, named as in the JSON.
    annotations: the panoptic JSON.
    split: the split to write.
    allow_outside: whether the JSON may name files outside of the two folders.
  """
  images: pathlib.Path
  panoptic: pathlib.Path
  annotations: pathlib.Path
  split: str
  allow_outside: bool = False

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
    parser.add_argument(
        "--allow_outside", action="store_true",
        help="take files outside of these folders, if the JSON names any")
    reader.add_name_option(parser, default=panoptic.COCO_NAME)
    reader.add_split_option(parser)
    super().add_options(parser)

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    return cls(options.images, options.panoptic, options.annotations,
               options.split, options.allow_outside)

  def source_folders(self) -> list[pathlib.Path]:
    return [self.images, self.panoptic, self.annotations.parent]

  def split_names(self) -> list[str]:
    return [self.split]

  def find(self, target: Target) -> Found:
    # Matching opens no image. That is the work of `problems`, in threads.
    records = coco_files.match_records(
        self._annotations,
        FileFolder(self.images, "--images", self.allow_outside),
        FileFolder(self.panoptic, "--panoptic", self.allow_outside))
    coco_json.tell_texts(self._annotations.texts)
    return panoptic.make_found(target, self.split, records, self._categories)

  def problems(self, item: Record) -> list[str]:
    return coco_files.check_record(item)

  def make_example(self, position: int, item: Record) -> dict[str, Any]:
    del position  # The JSON gives an id.
    return coco_files.make_example(item, self._label_of)

  def make_writer(self) -> BuilderWriter:
    return BuilderWriter(key_of=coco_files.file_name_of,
                         num_bytes=coco_files.num_bytes)

  # Read once, when it is first needed.
  @functools.cached_property
  def _annotations(self) -> Annotations:
    return coco_json.read(self.annotations)

  @property
  def _categories(self) -> tuple[Category, ...]:
    return self._annotations.categories

  @functools.cached_property
  def _label_of(self) -> dict[int, int]:
    """Id of a category → its label: 0, 1, 2, …"""
    return {category.id: label
            for label, category in enumerate(self._categories)}
