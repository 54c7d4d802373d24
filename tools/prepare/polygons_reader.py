"""What the readers of annotation files share; see `detection` for one of them.

Such a reader turns its files into a list of `AnnotatedImage`. All numbers are
checked and all masks are made before anything is written. What remains are the
images themselves.
"""

import abc
import argparse
import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Protocol

from tools.prepare import (
  image_files,
  panoptic,
  polygons_regions,
  reader,
  tfds_folder,
)
from tools.prepare.polygons_regions import Region
from tools.prepare.writer import Found, Target
from uvim.categories import Category
from uvim.registry import ConfigError


class ImageSource(Protocol):
  """Where the bytes of an image are: a path, for example."""

  def read_bytes(self) -> bytes:
    """The encoded image."""


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
  """One image with its regions.

  Attributes:
    source: the image.
    file_name: its name in messages and in the data set.
    number: its `image/id`.
    size_HW: height and width in pixels.
    regions: in the order of the file; all have pixels.
  """
  source: ImageSource
  file_name: str
  number: int
  size_HW: tuple[int, int]
  regions: tuple[Region, ...]


# Without `frozen`: the categories are known when the files are read.
@dataclasses.dataclass
class PolygonsReader(reader.FileReader):
  """A reader of annotation files, as one split.

  A derived class defines `read_images` and `choose_categories`.

  Attributes:
    split: the split to write.
    categories: those of the data set; known after `find`.
    upright: whether regions belong to the image as EXIF says to turn it, or to
      the pixels as they are stored.
  """
  split: str
  categories: tuple[Category, ...] = dataclasses.field(
      default=(), init=False)

  upright: ClassVar[bool]

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    """Adds the options that all readers of annotation files share."""
    reader.add_name_option(parser)
    reader.add_split_option(parser)
    super().add_options(parser)

  @abc.abstractmethod
  def read_images(self) -> list[AnnotatedImage]:
    """Reads and checks the annotation files.

    Raises:
      ConfigError: one message for all that is wrong in them.
    """

  @abc.abstractmethod
  def choose_categories(self, names: Collection[str],
                        existing: Sequence[Category] | None
                        ) -> tuple[Category, ...]:
    """The categories of the data set.

    Args:
      names: of the categories that occur in the images.
      existing: of the data set that is there, or None.

    Raises:
      ConfigError: the options, the files and that data set do not fit.
    """

  def split_names(self) -> list[str]:
    return [self.split]

  def find(self, target: Target) -> Found:
    images = self.read_images()
    names = _names_of(images)
    if not names:
      raise ConfigError(f"The annotations of {len(images):,} images hold no "
                        "region; needed: polygons or masks, not boxes alone.")
    existing = panoptic.existing_categories(target)
    self.categories = self.choose_categories(names, existing)
    ordered = tfds_folder.in_hash_order(images, _file_name_of)
    return panoptic.make_found(target, self.split, ordered, self.categories)

  def problems(self, item: AnnotatedImage) -> list[str]:
    try:
      content = item.source.read_bytes()
    except OSError as error:
      return [f"{item.file_name}: cannot be read: {error}."]
    return image_files.check(content, item.file_name)

  def make_example(self, position: int, item: AnnotatedImage
                   ) -> dict[str, Any]:
    del position  # The image has a number.
    content = image_files.encoded(
        item.source.read_bytes(), upright=self.upright)
    ids_HW, segments = polygons_regions.draw(
        item.regions, self.categories, item.size_HW)
    return panoptic.make_example(
        content, item.file_name, item.number, ids_HW, segments)


def _names_of(images: Sequence[AnnotatedImage]) -> set[str]:
  """The names of all regions; a region may have none."""
  names = set()
  for image in images:
    for region in image.regions:
      if region.name is not None:
        names.add(region.name)
  return names


def _file_name_of(image: AnnotatedImage) -> str:
  return image.file_name


def tell(count: int, text: str) -> None:
  """Says what was left out, unless there is nothing.

  Args:
    count: how many.
    text: what, and why.
  """
  if count:
    print(f"{count:,} {text}")
