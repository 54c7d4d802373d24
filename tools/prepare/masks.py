"""The reader of images with masks of classes.

See `class_list` for the classes, `mask_files` for the names of files,
`mask_pixels` for what a mask may be, `mask_segments` for what becomes of it,
and `mask_mistakes` for what the messages say.
"""

import argparse
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

from tools import passes
from tools.prepare import (
  class_list,
  image_files,
  mask_files,
  mask_mistakes,
  mask_pixels,
  mask_segments,
  panoptic,
  reader,
  tfds_folder,
)
from tools.prepare.class_list import ClassList, ClassOptions
from tools.prepare.mask_files import MaskedImage
from tools.prepare.mask_mistakes import Mistake, Seen
from tools.prepare.mask_pixels import MaskFile
from tools.prepare.mask_segments import Maps
from tools.prepare.writer import Found, Target
from uvim import progress
from uvim.registry import ConfigError


@dataclasses.dataclass(frozen=True)
class Look:
  """What a look at one image and its masks found.

  Attributes:
    seen: the mask of classes; None if it could not be read.
    mistakes: of the masks.
    problems: of the image, as sentences.
    crowds: names of classes of things with pixels without an instance.
  """
  seen: Seen | None = None
  mistakes: tuple[Mistake, ...] = ()
  problems: tuple[str, ...] = ()
  crowds: tuple[str, ...] = ()


# Without `frozen`: `classes` is read once, when it is first needed.
@dataclasses.dataclass
class MasksReader(reader.FileReader):
  """Images with masks of classes, as one split.

  Set by each class:
    root_option: the one option that names all folders, for messages; "": each
      has its own, and `--mask_suffix` names the masks.

  Attributes:
    images: folder of images.
    masks: folder of masks.
    read_classes: reads the list of classes.
    split: the split to write.
    min_area: pixels of the smallest thing.
    mask_suffix: what a mask has after the name of its image; None: one of
      `mask_files.MASK_ENDINGS`.
  """
  root_option: ClassVar[str] = ""

  images: pathlib.Path
  masks: pathlib.Path
  read_classes: Callable[[], ClassList]
  split: str
  min_area: int = 40
  mask_suffix: str | None = None

  command = "masks"
  summary = "images with masks of classes"

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", required=True, type=pathlib.Path,
                        help="folder of images")
    parser.add_argument("--masks", required=True, type=pathlib.Path,
                        help="folder of masks: PNGs of class ids or colors")
    add_class_options(parser)
    add_area_option(parser, cls.min_area)
    parser.add_argument(
        "--mask_suffix", help="what masks have after the name of the image, "
        "such as _mask (default: the usual ones)")
    reader.add_name_option(parser)
    reader.add_split_option(parser)
    super().add_options(parser)

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    return cls(options.images, options.masks, classes_of(options),
               options.split, options.min_area, options.mask_suffix)

  @functools.cached_property
  def classes(self) -> ClassList:
    """The classes.

    Raises:
      ConfigError: see `class_list.read`.
    """
    return self.read_classes()

  def source_folders(self) -> list[pathlib.Path]:
    return [self.images, self.masks]

  def split_names(self) -> list[str]:
    return [self.split]

  def find(self, target: Target) -> Found:
    if self.min_area < 0:
      raise ConfigError(f"--min_area: {self.min_area}; allowed: 0 or more.")
    categories = self.classes.categories
    items = self.match()
    # Frames of a video follow each other, so they are shuffled by a hash.
    mixed = tfds_folder.in_hash_order(items, mask_files.name_of)
    return panoptic.make_found(target, self.split, mixed, categories)

  def match(self) -> list[MaskedImage]:
    """The images with their masks."""
    endings = mask_files.MASK_ENDINGS
    if self.mask_suffix is not None:
      endings = (self.mask_suffix,)
    suffix_option = "" if self.root_option else "--mask_suffix"
    masks = mask_files.Folder(
        self.masks, self.option("--masks"), endings, suffix_option)
    return mask_files.match(
        self.images, masks, images_option=self.option("--images"))

  def option(self, name: str) -> str:
    """What names a folder, for messages: this option, or `root_option`."""
    return self.root_option or name

  def check(self, found: Found) -> None:
    """Looks at all images and masks; see `FileReader.check`."""
    # By name, so that the first of a mistake is the first of a folder.
    items = sorted(found.all_items(), key=mask_files.name_of)
    looks = progress.bar(passes.map_in_threads(self.look, items),
                         total=len(items), label="Checking", unit="images")
    seen = []
    mistakes = []
    problems = []
    crowds = []
    for look in looks:
      mistakes += look.mistakes
      problems += look.problems
      if look.seen is not None:
        seen.append(look.seen)
      if look.crowds:
        crowds.append(look.crowds)
    mistakes += mask_mistakes.in_palettes(seen, self.classes)
    mistakes += mask_mistakes.in_ids(seen, self.classes)
    passes.raise_problems(
        mask_mistakes.as_lines(mistakes) + problems, self.option("--masks"))
    _tell_crowds(crowds, len(items))
    if not self.classes.thing_ids():
      print("No class is a thing (see --things), so each class of an image is "
            "one segment")

  def look(self, item: MaskedImage) -> Look:
    """Reads all files of an image. Runs in threads."""
    try:
      size_HW = image_files.read_size(item.image, str(item.image))
      file = mask_pixels.read_file(item.mask)
      _check_size(file, item, size_HW)
      maps = self.read_maps(item, file)
    except ConfigError as error:
      return Look(problems=(str(error),))
    except Mistake as mistake:
      return Look(mistakes=(mistake,))
    # Where a list has colors, the index of a palette means nothing.
    palette = {} if self.classes.id_of_color else file.colors
    seen = Seen(item.mask, mask_segments.present_ids(maps.class_HW), file.bits,
                palette)
    crowds = mask_segments.classes_without_instances(
        maps, self.classes.categories)
    return Look(
        seen, tuple(self.mistakes_of(item, maps)), crowds=tuple(crowds))

  def read_maps(self, item: MaskedImage, file: MaskFile) -> Maps:
    """What the masks of an image say.

    Args:
      item: the image.
      file: its mask of classes.

    Raises:
      Mistake: a mask is of the wrong kind or size.
    """
    del item  # Readers with more masks need it.
    return Maps(mask_pixels.class_ids(file, self.classes))

  def mistakes_of(self, item: MaskedImage, maps: Maps) -> list[Mistake]:
    """What is wrong with the maps of one image, besides unknown ids."""
    del item, maps
    return []

  def make_example(self, position: int, item: MaskedImage) -> dict[str, Any]:
    maps = self.read_maps(item, mask_pixels.read_file(item.mask))
    ids_HW, segments = mask_segments.make_segments(
        maps, self.classes.categories, self.min_area)
    # Masks lie on the stored pixels, whatever EXIF says.
    image = image_files.encoded(item.image, upright=False)
    example = panoptic.make_example(
        image, item.name, position, ids_HW, segments)
    return example | {"panoptic_image/filename": item.mask_name}


def _tell_crowds(crowds: Sequence[Sequence[str]], num_images: int) -> None:
  """Says of which images and classes some pixels belong to no instance.

  Args:
    crowds: the names of such classes, for each image that has any.
    num_images: all images.
  """
  if not crowds:
    return
  names = sorted(set(itertools.chain.from_iterable(crowds)))
  print(f"In {len(crowds):,} of {num_images:,} images, pixels of things belong "
        f"to no instance ({', '.join(names)}); those of a class become one "
        "crowd")


def _check_size(file: MaskFile, item: MaskedImage, size_HW: tuple[int, int]
                ) -> None:
  """Raises a Mistake if the mask is not of the size of the stored image."""
  name = str(item.image)
  upright_HW = image_files.listed_size(item.image, name, upright=True)
  if file.size_HW == upright_HW != size_HW:
    raise Mistake(
        file.path, f"fits the image {item.name} only after the turn that its "
        "EXIF asks for", "Masks lie on the pixels as they are stored: turn the "
        "masks, or save the images upright.")
  mask_pixels.check_size(file, size_HW, f"the image {item.name}")


def add_class_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options that `classes_of` reads."""
  parser.add_argument(
      "--classes", required=True, type=pathlib.Path, metavar="FILE",
      help="text with a class a line ('name', 'id name' or 'R G B name'), or "
      "JSON")
  parser.add_argument(
      "--things", nargs="+", metavar="NAME",
      help="classes whose objects are told apart, if the list does not mark "
      "them")
  parser.add_argument(
      "--void", nargs="+", metavar="ID",
      help="ids of pixels without a class, such as 255, or names of classes")
  parser.add_argument(
      "--first_id", type=int, metavar="ID",
      help="id of the first class of a list without ids (default: 0)")


def classes_of(options: argparse.Namespace) -> Callable[[], ClassList]:
  """What reads the classes that `add_class_options` describe."""
  class_options = ClassOptions(
      options.classes, class_list.split_names(options.things),
      class_list.split_names(options.void), options.first_id)
  return functools.partial(class_list.read, class_options)


def add_area_option(parser: argparse.ArgumentParser, default: int) -> None:
  """Adds `--min_area`."""
  parser.add_argument(
      "--min_area", type=int, default=default, metavar="PIXELS",
      help="smaller things become void (default: %(default)s)")
