"""The reader of what Label Studio exports as JSON.

See `label_studio_json` for the file, `polygons_labels` for the categories, and
`polygons_regions.draw` for what lies on top where regions overlap.
"""

import argparse
import collections
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Self

from tools.passes import raise_problems
from tools.prepare import image_files, label_studio_json, polygons_labels
from tools.prepare.label_studio_json import Task
from tools.prepare.polygons_reader import AnnotatedImage, tell
from uvim import progress
from uvim.registry import ConfigError


@dataclasses.dataclass
class LabelStudioReader(polygons_labels.LabelsReader):
  """Label Studio's JSON, as one split.

  Attributes:
    images: folder that the images lie below. Only their names count.
    annotations: the JSON.
  """
  images: pathlib.Path
  annotations: pathlib.Path

  command = "label_studio"
  summary = "Label Studio: its export as JSON"
  # Browsers turn images as EXIF says.
  upright = True

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", required=True, type=pathlib.Path,
                        help="folder that the images lie below")
    parser.add_argument("--annotations", required=True, type=pathlib.Path,
                        help="Label Studio's export as JSON")
    super().add_options(parser)

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    return cls(split=options.split, images=options.images,
               annotations=options.annotations, things=options.things,
               stuff=options.stuff)

  def source_folders(self) -> list[pathlib.Path]:
    return [self.images, self.annotations.parent]

  def read_images(self) -> list[AnnotatedImage]:
    tasks = label_studio_json.read(self.annotations)
    paths = self._paths_by_name()
    images = []
    problems = []
    other_types = collections.Counter()
    shown = progress.bar(tasks, total=len(tasks), label="Drawing", unit="tasks")
    for position, task in enumerate(shown):
      try:
        image, types = self._read(task, f"tasks[{position}]", paths)
      except ConfigError as error:
        problems.append(str(error))
        continue
      if image is not None:
        images.append(image)
      other_types.update(types)
    problems += _used_twice(images)
    raise_problems(
        problems, f"{label_studio_json.OPTION}: {str(self.annotations)!r}")
    tell(len(tasks) - len(images), "tasks have no annotation, and are left "
         "out.")
    tell(other_types.total(), f"results ({', '.join(sorted(other_types))}) are "
         "no regions with a label, and are left out.")
    return images

  def _paths_by_name(self) -> Mapping[str, list[pathlib.Path]]:
    """The images below the folder by their names."""
    paths = collections.defaultdict(list)
    for path in image_files.list_files(self.images, "--images"):
      paths[path.name].append(path)
    return paths

  def _read(self, task: Task, place: str,
            paths: Mapping[str, list[pathlib.Path]]
            ) -> tuple[AnnotatedImage | None, list[str]]:
    """The image of a task, and the types of results that are no region."""
    chosen = label_studio_json.choose_annotation(task, place)
    if chosen is None:
      return None, []
    number, annotation = chosen
    path = self._find_image(task, place, paths)
    size_HW = image_files.listed_size(path, str(path), upright=self.upright)
    regions, other_types = label_studio_json.read_regions(
        annotation.result, f"{place}.annotations[{number}]", size_HW)
    with_pixels = [region for region in regions if region.has_pixels()]
    file_name = path.relative_to(self.images).as_posix()
    image = AnnotatedImage(
        path, file_name, task.id, size_HW, tuple(with_pixels))
    return image, other_types

  def _find_image(self, task: Task, place: str,
                  paths: Mapping[str, list[pathlib.Path]]) -> pathlib.Path:
    """The file of a task.

    Raises:
      ConfigError: there is none, or there are several of one name.
    """
    names = label_studio_json.image_names(task, place)
    for name in names:
      found = paths.get(name, [])
      if len(found) > 1:
        raise ConfigError(f"{place}.data: {name!r} is the name of "
                          f"{len(found)} images below {str(self.images)!r}.")
      if found:
        return found[0]
    raise ConfigError(f"{place}.data: there is no image {names[0]!r} below "
                      f"{str(self.images)!r}.")


def _used_twice(images: Sequence[AnnotatedImage]) -> list[str]:
  """Problems with tasks that have one image."""
  counts = collections.Counter(image.file_name for image in images)
  return [f"{name}: it is the image of {count} tasks."
          for name, count in counts.items() if count > 1]
