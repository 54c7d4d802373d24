"""The reader of COCO's detection format: polygons and run lengths.

See `detection_json` for the JSON, and `polygons_regions.draw` for what lies on
top where objects overlap.
"""

import argparse
import collections
import dataclasses
import functools
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Self

from tools.passes import raise_problems
from tools.prepare import (
  class_list,
  coco_json,
  detection_json,
  image_files,
  polygons_reader,
  polygons_regions,
)
from tools.prepare.coco_json import ImageEntry
from tools.prepare.detection_json import Annotations
from tools.prepare.file_folder import FileFolder
from tools.prepare.polygons_reader import AnnotatedImage, tell
from tools.prepare.polygons_regions import Region
from uvim import progress
from uvim.categories import Category
from uvim.registry import ConfigError


@dataclasses.dataclass
class DetectionReader(polygons_reader.PolygonsReader):
  """COCO's detection format, as one split.

  Attributes:
    images: folder of images, named as in the JSON.
    annotations: the JSON.
    stuff: names of categories that are stuff; all others are things.
    allow_outside: whether the JSON may name files outside of the folder.
  """
  images: pathlib.Path
  annotations: pathlib.Path
  stuff: Sequence[str] = ()
  allow_outside: bool = False

  command = "detection"
  summary = "COCO's detection format: polygons and run lengths"
  # As in the panoptic format.
  upright = False

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", required=True, type=pathlib.Path,
                        help="folder of images")
    parser.add_argument("--annotations", required=True, type=pathlib.Path,
                        help="detection JSON, such as instances_train2017.json")
    parser.add_argument("--stuff", nargs="+", metavar="NAME", default=(),
                        help="categories that are stuff (default: none)")
    parser.add_argument(
        "--allow_outside", action="store_true",
        help="take files outside of the folder, if the JSON names any")
    super().add_options(parser)

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    return cls(split=options.split, images=options.images,
               annotations=options.annotations,
               stuff=class_list.split_names(options.stuff),
               allow_outside=options.allow_outside)

  def source_folders(self) -> list[pathlib.Path]:
    return [self.images, self.annotations.parent]

  def read_images(self) -> list[AnnotatedImage]:
    annotations = self._annotations
    coco_json.tell_texts(annotations.texts)
    folder = FileFolder(self.images, "--images", self.allow_outside)
    folder.check()
    paths, problems = folder.locate(annotations.images, "images")
    raise_problems(problems, "The files do not fit together")
    sizes, problems = _read_sizes(annotations.images, paths)
    raise_problems(problems, "The files are not consistent")
    regions = _read_regions(annotations, sizes, str(self.annotations))
    images = []
    for entry, path in zip(annotations.images, paths, strict=True):
      images.append(AnnotatedImage(
          path, entry.file_name, entry.id, sizes[entry.id],
          tuple(regions[entry.id])))
    return images

  def choose_categories(self, names: Collection[str],
                        existing: Sequence[Category] | None
                        ) -> tuple[Category, ...]:
    """The list of the JSON. What `existing` lacks is told later."""
    del names, existing
    categories = []
    for category in self._annotations.categories:
      isthing = category.name not in self.stuff
      categories.append(category._replace(isthing=isthing))
    return tuple(categories)

  # Read once, when it is first needed.
  @functools.cached_property
  def _annotations(self) -> Annotations:
    annotations = detection_json.read(self.annotations)
    # Here, because the masks of many objects take minutes.
    names = [category.name for category in annotations.categories]
    polygons_regions.check_names(
        self.stuff, names, "--stuff", "the categories of the JSON")
    return annotations


def _read_sizes(entries: Sequence[ImageEntry], paths: Sequence[pathlib.Path]
                ) -> tuple[dict[int, tuple[int, int]], list[str]]:
  """Height and width of each image by its id, and what is wrong with them."""
  sizes = {}
  problems = []
  for entry, path in zip(entries, paths, strict=True):
    try:
      size_HW = image_files.listed_size(path, entry.name, upright=False)
    except ConfigError as error:
      problems.append(str(error))
      continue
    # The JSON need not tell a size.
    listed_HW = (entry.height or size_HW[0], entry.width or size_HW[1])
    if listed_HW != size_HW:
      problems.append(
          f"{entry.name}: height x width is {listed_HW[0]}x{listed_HW[1]} in "
          f"the JSON, but {size_HW[0]}x{size_HW[1]} in the file."
          f"{_rotation_hint(entry, path, listed_HW)}")
    sizes[entry.id] = size_HW
  return sizes, problems


def _rotation_hint(entry: ImageEntry, path: pathlib.Path,
                   listed_HW: tuple[int, int]) -> str:
  """A sentence about the EXIF of an image that does not fit, or ""."""
  upright_HW = image_files.listed_size(path, entry.name, upright=True)
  if listed_HW != upright_HW:
    return ""
  return (" EXIF says to turn the image; regions belong to the pixels as they "
          "are stored.")


def _read_regions(annotations: Annotations,
                  sizes: Mapping[int, tuple[int, int]], path: str
                  ) -> Mapping[int, list[Region]]:
  """The regions of each image by its id.

  Raises:
    ConfigError: lists the segmentations that are wrong.
  """
  name_of = {category.id: category.name for category in annotations.categories}
  regions = collections.defaultdict(list)
  problems = []
  num_empty = 0
  objects = progress.bar(annotations.objects, total=len(annotations.objects),
                         label="Drawing", unit="annotations")
  for position, entry in enumerate(objects):
    place = f"annotations[{position}].segmentation"
    try:
      rle = detection_json.read_segmentation(
          entry.segmentation, place, sizes[entry.image_id])
    except ConfigError as error:
      problems.append(str(error))
      continue
    # The numbers of a large data set fill gigabytes, the masks do not.
    entry.segmentation = None
    region = Region(name_of[entry.category_id], rle, bool(entry.iscrowd))
    if region.has_pixels():
      regions[entry.image_id].append(region)
    else:
      num_empty += 1
  raise_problems(problems, f"--annotations: {path!r}")
  tell(num_empty, "annotations have no pixel in their image (no polygon, or "
       "one outside of it), and are left out.")
  return regions
