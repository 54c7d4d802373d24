"""The reader of labelme's files: a folder with one JSON for each image.

See `labelme_json` for the files, `polygons_labels` for the categories, and
`polygons_regions.draw` for what lies on top where shapes overlap.
"""

import argparse
import dataclasses
import os
import pathlib
from typing import Self

from tools.passes import raise_problems
from tools.prepare import image_files, labelme_json, polygons_labels
from tools.prepare.file_folder import FileFolder
from tools.prepare.labelme_json import EmbeddedImage, LabelmeFile
from tools.prepare.polygons_reader import AnnotatedImage, tell
from uvim import finder, progress
from uvim.registry import ConfigError


@dataclasses.dataclass
class LabelmeReader(polygons_labels.LabelsReader):
  """labelme's files, as one split.

  Attributes:
    annotations: folder of the JSON files.
    images: folder that all images lie below. None: that of the JSON files.
  """
  annotations: pathlib.Path
  images: pathlib.Path | None = None

  command = "labelme"
  summary = "labelme: a folder with one JSON for each image"
  # labelme turns images as EXIF says.
  upright = True

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotations", required=True, type=pathlib.Path,
                        help="folder of labelme's JSON files")
    parser.add_argument("--images", type=pathlib.Path,
                        help="folder that the images lie below (default: that "
                        "of the JSON files)")
    super().add_options(parser)

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    return cls(split=options.split, annotations=options.annotations,
               images=options.images, things=options.things,
               stuff=options.stuff)

  def source_folders(self) -> list[pathlib.Path]:
    return [self.annotations, self.images or self.annotations]

  def read_images(self) -> list[AnnotatedImage]:
    folder = FileFolder(self.images or self.annotations, "--images")
    folder.check()
    paths = image_files.list_files(
        self.annotations, labelme_json.OPTION, (".json",))
    if not paths:
      raise ConfigError(f"{labelme_json.OPTION}: no .json below "
                        f"{str(self.annotations)!r}.")
    images = []
    problems = []
    num_without_area = 0
    shown = progress.bar(
        paths, total=len(paths), label="Reading", unit="files")
    for path in shown:
      try:
        image, num_skipped = self._read(path, folder, number=len(images))
      except ConfigError as error:
        problems.append(str(error))
        continue
      images.append(image)
      num_without_area += num_skipped
    problems += _used_twice(images)
    raise_problems(problems, labelme_json.OPTION)
    tell(num_without_area, "shapes are points or lines, which have no area, "
         "and are left out.")
    self._tell_unused(images, folder)
    return images

  def _read(self, path: pathlib.Path, folder: FileFolder, number: int
            ) -> tuple[AnnotatedImage, int]:
    """The image of a file, and how many of its shapes have no area."""
    content = labelme_json.read(path)
    source = _find_image(content, path, folder)
    name = path.relative_to(self.annotations).with_suffix("")
    file_name = name.as_posix() + _suffix_of(content.image_path)
    file = source
    if isinstance(source, EmbeddedImage):
      file = source.read_bytes()
    size_HW = image_files.listed_size(file, str(path), upright=self.upright)
    _check_size(content, path, size_HW)
    regions, num_without_area = labelme_json.read_regions(
        content, path, size_HW)
    with_pixels = [region for region in regions if region.has_pixels()]
    image = AnnotatedImage(
        source, file_name, number, size_HW, tuple(with_pixels))
    return image, num_without_area

  def _tell_unused(self, images: list[AnnotatedImage], folder: FileFolder
                   ) -> None:
    """Says how many images have no JSON."""
    used = {os.path.realpath(image.source) for image in images
            if isinstance(image.source, pathlib.Path)}
    if not used:
      return
    there = finder.find_files(folder.path, image_files.SUFFIXES)
    unused = [path for path in there if os.path.realpath(path) not in used]
    tell(len(unused), f"images below {str(folder.path)!r} have no JSON, and "
         "are left out.")


def _check_size(content: LabelmeFile, path: pathlib.Path,
                size_HW: tuple[int, int]) -> None:
  """Raises a ConfigError if a file lists another size than its image has."""
  height, width = size_HW
  # Both are optional.
  listed_height = content.image_height or height
  listed_width = content.image_width or width
  if (listed_height, listed_width) != size_HW:
    raise ConfigError(
        f"{path}: imageHeight x imageWidth is {listed_height}x{listed_width}, "
        f"but {height}x{width} in its image.")


def _find_image(content: LabelmeFile, path: pathlib.Path, folder: FileFolder
                ) -> pathlib.Path | EmbeddedImage:
  """The image of a file: as `imagePath` says, beside the file, or in it.

  Raises:
    ConfigError: there is none, or only one outside of the folder.
  """
  # Windows writes backslashes.
  name = content.image_path.replace("\\", "/")
  named = pathlib.Path(os.path.abspath(path.parent / name))
  beside = path.with_name(named.name)
  is_inside = folder.is_inside(str(named))
  if is_inside and named.is_file():
    return named
  # Whoever moves the files keeps image and JSON together.
  if folder.is_inside(os.path.abspath(beside)) and beside.is_file():
    return beside
  if content.image_data:
    return EmbeddedImage(path)
  place = f"{path}: imagePath: {content.image_path!r}"
  if not is_inside:
    raise ConfigError(f"{place} leads out of {str(folder.path)!r}; name the "
                      "folder of the images with --images.")
  raise ConfigError(f"{place}: there is no file {str(named)!r}, and no "
                    "imageData.")


def _suffix_of(image_path: str) -> str:
  return pathlib.PurePath(image_path).suffix


def _used_twice(images: list[AnnotatedImage]) -> list[str]:
  """Problems with files that have one image."""
  first_of = {}
  problems = []
  for image in images:
    first = first_of.setdefault(image.source, image.file_name)
    if first != image.file_name:
      problems.append(f"{image.file_name}: its image {str(image.source)!r} is "
                      f"also that of {first}.")
  return problems
