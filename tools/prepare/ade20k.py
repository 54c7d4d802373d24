"""The reader of ADE20K as the scene parsing challenge has it: 150 classes.

The masks tell classes and no instances. 0 is void.
"""

import argparse
import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Self

from tools.prepare import class_list, mask_files, masks, reader
from tools.prepare.class_list import ClassEntry, ClassList, ClassOptions
from tools.prepare.mask_files import MaskedImage
from tools.prepare.masks import MasksReader
from uvim import files
from uvim.registry import ConfigError

_LIST_NAME = "objectInfo150.txt"
_NUM_CLASSES = 150
# Split → the name of its folder.
_FOLDERS = {"train": "training", "validation": "validation"}


def read_classes(options: ClassOptions) -> ClassList:
  """The classes of objectInfo150.txt, or of a list of the user.

  The columns of objectInfo150.txt are separated by tabs. The first line names
  them: the first is `Idx`, the id from 1 on, and the last is `Name`.

  Raises:
    ConfigError: it cannot be read, or has not 150 classes.
  """
  text = files.load_text(options.path, class_list.OPTION)
  first_line, *lines = text.splitlines() or [""]
  if first_line.split("\t")[0].strip() == "Idx":
    entries = _read_table(lines, options.path)
    classes = class_list.from_entries(entries, options)
  else:
    classes = class_list.read(options)
  return dataclasses.replace(classes, data_set="ADE20K")


def _read_table(lines: Sequence[str], path: pathlib.Path) -> list[ClassEntry]:
  """The classes of the lines below the names of the columns."""
  where = f"{class_list.OPTION}: {str(path)!r}"
  entries = []
  for line in filter(str.strip, lines):
    number, *_, names = line.rstrip().split("\t")
    if not number.strip().isdecimal():
      raise ConfigError(
          f"{where}: {line[:60]!r} does not begin with an id and a tab.")
    entries.append(ClassEntry(names.strip(), int(number)))
  if len(entries) != _NUM_CLASSES:
    raise ConfigError(f"{where} has {len(entries)} classes; ADE20K has "
                      f"{_NUM_CLASSES}.")
  _shorten(entries)
  return entries


def _shorten(entries: list[ClassEntry]) -> None:
  """Keeps the first of the synonyms of a name, where no other class has it."""
  short_names = []
  for entry in entries:
    name = entry.name.replace(";", ",")
    short_names.append(name.split(",")[0].strip())
  for entry, short_name in zip(entries, short_names, strict=True):
    if short_names.count(short_name) == 1:
      entry.name = short_name


@dataclasses.dataclass
class Ade20kReader(MasksReader):
  """ADE20K, as one split."""

  root_option = "--root"
  command = "ade20k"
  summary = "ADE20K of the scene parsing challenge, 150 classes"

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    reader.add_layout_options(parser, "images and annotations", _FOLDERS)
    parser.add_argument(
        "--classes", type=pathlib.Path, metavar="FILE",
        help=f"list of the 150 classes (default: ROOT/{_LIST_NAME})")
    parser.add_argument("--things", nargs="+", metavar="NAME",
                        help="classes whose objects are told apart")
    masks.add_area_option(parser, cls.min_area)
    reader.add_name_option(parser, default="ade20k_panoptic")
    reader.FileReader.add_options(parser)

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    folder = _FOLDERS[options.split]
    class_options = ClassOptions(
        options.classes or options.root / _LIST_NAME,
        class_list.split_names(options.things), void=["0"],
        usual_first_id=1)
    return cls(options.root / "images" / folder,
               options.root / "annotations" / folder,
               functools.partial(read_classes, class_options),
               options.split, options.min_area, mask_suffix="")

  def match(self) -> list[MaskedImage]:
    mask_files.check_layout(self.images, self.masks)
    return super().match()
