"""Which image belongs to which depth map, by their names.

`LAYOUTS` lists the usual ways to name them. Recordings of TUM RGB-D are paired
by time instead, see `tum`.
"""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from tools.passes import raise_problems
from tools.prepare import depth_formats, image_files
from tools.prepare.depth_unit import Unit
from uvim.registry import ConfigError

# What both names share: the text of each `*`.
Key = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
  """A way to name an image and its depth map.

  A pattern describes the path below the folder. Each `*` stands for a text
  that both names share, and a last `.*` for any ending.

  Attributes:
    image: the pattern of the image.
    depth: the pattern of the depth map.
    known_as: data sets that use it; "" if it is just usual.
  """
  image: str
  depth: str
  known_as: str = ""

  def __str__(self) -> str:
    text = f"{self.image} with {self.depth}"
    return f"{text} ({self.known_as})" if self.known_as else text


_SAME_NAME = Layout("*.*", "*.*")
# The first that fits two files gives its name to the pair.
LAYOUTS = (
    Layout("*.color.*", "*.depth.*", "7-Scenes"),
    Layout("*color/*.*", "*depth/*.*", "ScanNet"),
    Layout("*rgb/*.*", "*depth/*.*"),
    Layout("*images/*.*", "*depth/*.*"),
    Layout("*_rgb.*", "*_depth.*"),
    Layout("*_color.*", "*_depth.*"),
    Layout("*_colors.*", "*_depth.*"),
    Layout("*-color.*", "*-depth.*"),
    Layout("*.*", "*_depth.*"),
    Layout("*_rgb.*", "*.*"),
    Layout("*_colors.*", "*.*"),
    _SAME_NAME,
)


@dataclasses.dataclass(frozen=True)
class Matched:
  """Images with their depth maps.

  Attributes:
    folder: the folder that names of examples begin at.
    files: an image and its depth map each.
    text: how they were paired, for people.
    unit: what the layout says of the numbers; None: nothing.
  """
  folder: pathlib.Path
  files: Sequence[tuple[pathlib.Path, pathlib.Path]]
  text: str
  unit: Unit | None = None


def match(images: pathlib.Path, depth: pathlib.Path,
          patterns: tuple[str, str] | None = None) -> Matched:
  """Pairs the images of a folder with the depth maps of another or the same.

  Args:
    images: folder of the images.
    depth: folder of the depth maps.
    patterns: of image and depth map, see `Layout`; None: those of `LAYOUTS`.

  Raises:
    ConfigError: an image has no depth map or several, or there is no image.
  """
  # The same folder may be given in two spellings.
  images = images.resolve()
  depth = depth.resolve()
  layouts = LAYOUTS
  if patterns is not None:
    layouts = (_layout_of(patterns),)
  image_paths = image_files.list_files(images, "--images")
  depth_paths = image_files.list_files(
      depth, "--depth", depth_formats.SUFFIXES)
  image_paths = _without_depth_maps(image_paths, images, layouts)
  if not image_paths:
    looked_for = ", ".join(image_files.SUFFIXES)
    if patterns is not None:
      looked_for = patterns[0]
    raise ConfigError(f"--images: no image below {str(images)!r}; looked for "
                      f"{looked_for}.")
  candidates = _candidates(image_paths, images, depth_paths, depth, layouts)
  _check_single(candidates, images, depth)
  files = []
  counts = collections.Counter()
  for image_path, depth_maps in candidates.items():
    for depth_path, layout in depth_maps.items():
      files.append((image_path, depth_path))
      counts[layout] += 1
  _check_all_paired(candidates, images, depth_paths, depth)
  return Matched(images, files, _describe(counts))


def _describe(counts: Mapping[Layout, int]) -> str:
  """How many pairs each layout has."""
  parts = [f"{count:,} as {layout}" for layout, count in counts.items()]
  return "; ".join(parts)


# ── Patterns ────────────────────────────────────────────────────────────────


def _layout_of(patterns: tuple[str, str]) -> Layout:
  """The layout that a user describes.

  Raises:
    ConfigError: the patterns do not share at least one text.
  """
  layout = Layout(*patterns)
  num_shared = _num_shared(layout.image)
  if num_shared == 0 or num_shared != _num_shared(layout.depth):
    raise ConfigError(
        f"--image_pattern, --depth_pattern: {layout.image!r} and "
        f"{layout.depth!r}; both need the same number of `*`, at least one, "
        "beside a last `.*` for any ending.")
  return layout


def _num_shared(pattern: str) -> int:
  return pattern.removesuffix(".*").count("*")


def _compiled(pattern: str) -> re.Pattern:
  """The pattern as a regular expression with a group for each `*`."""
  rest = pattern.removesuffix(".*")
  parts = [re.escape(part) for part in rest.split("*")]
  ending = r"\.[^./]+" if rest != pattern else ""
  return re.compile("(.*)".join(parts) + ending)


def _keys(paths: Iterable[pathlib.Path], folder: pathlib.Path, pattern: str
          ) -> dict[pathlib.Path, Key]:
  """The files that a pattern describes, with what their names share."""
  expression = _compiled(pattern)
  keys = {}
  for path in paths:
    # With its sub-folders, since two scenes may both have a 0001.png.
    found = expression.fullmatch(path.relative_to(folder).as_posix())
    if found:
      keys[path] = found.groups()
  return keys


# ── Pairs ───────────────────────────────────────────────────────────────────


def _without_depth_maps(
    paths: Sequence[pathlib.Path],
    folder: pathlib.Path,
    layouts: Sequence[Layout],
) -> list[pathlib.Path]:
  """The files that are images by their names."""
  if len(layouts) == 1:
    return list(_keys(paths, folder, layouts[0].image))
  depth_maps = set()
  for layout in layouts:
    # Any name fits "*.*"; it says nothing.
    if layout.depth != _SAME_NAME.depth:
      depth_maps.update(_keys(paths, folder, layout.depth))
  return [path for path in paths if path not in depth_maps]


def _candidates(
    image_paths: Sequence[pathlib.Path],
    images: pathlib.Path,
    depth_paths: Sequence[pathlib.Path],
    depth: pathlib.Path,
    layouts: Sequence[Layout],
) -> dict[pathlib.Path, dict[pathlib.Path, Layout]]:
  """The depth maps that each image may have, with the layout that says so."""
  candidates = {path: {} for path in image_paths}
  for layout in layouts:
    depth_of_key = collections.defaultdict(list)
    depth_keys = _keys(depth_paths, depth, layout.depth)
    for path, key in depth_keys.items():
      depth_of_key[key].append(path)
    image_keys = _keys(image_paths, images, layout.image)
    for image_path, key in image_keys.items():
      for depth_path in depth_of_key[key]:
        if _may_be_pair(image_path, depth_path, layout):
          candidates[image_path].setdefault(depth_path, layout)
  # In one folder, a.png is no image if it is the depth map of a.jpg.
  taken = set()
  for depth_maps in candidates.values():
    taken.update(depth_maps)
  return {path: found for path, found in candidates.items()
          if path not in taken}


def _may_be_pair(image: pathlib.Path, depth: pathlib.Path, layout: Layout
                 ) -> bool:
  """Whether two files whose names fit can be an image and its depth map."""
  if image == depth:
    return False
  if layout != _SAME_NAME or image.parent != depth.parent:
    return True
  # Of a.png and a.tiff in one folder, nobody knows which is the image.
  is_clear = image.suffix.lower() not in depth_formats.SUFFIXES
  return is_clear or depth.suffix.lower() not in image_files.SUFFIXES


def _check_single(
    candidates: Mapping[pathlib.Path, Mapping[pathlib.Path, Layout]],
    images: pathlib.Path,
    depth: pathlib.Path,
) -> None:
  """Raises a ConfigError if an image has several depth maps, or shares one."""
  problems = []
  image_of = {}
  for image_path, depth_maps in candidates.items():
    name = image_path.relative_to(images)
    names = [str(path.relative_to(depth)) for path in depth_maps]
    if len(names) > 1:
      problems.append(f"{name}: {' and '.join(names)}.")
    for depth_path in depth_maps:
      other = image_of.setdefault(depth_path, name)
      if other != name:
        problems.append(f"{names[0]}: it would be that of {other} and {name}.")
  raise_problems(problems, "--depth: more than one file for one name")


def _check_all_paired(
    candidates: Mapping[pathlib.Path, Mapping[pathlib.Path, Layout]],
    images: pathlib.Path,
    depth_paths: Sequence[pathlib.Path],
    depth: pathlib.Path,
) -> None:
  """Raises a ConfigError if an image has no depth map.

  A depth map without an image is no mistake: it is left out.
  """
  unpaired = []
  paired = set()
  for image_path, depth_maps in candidates.items():
    paired.update(depth_maps)
    if not depth_maps:
      unpaired.append(image_path)
  if not unpaired:
    return
  left = [path for path in depth_paths
          if path not in paired and path not in candidates]
  image = str(unpaired[0].relative_to(images))
  other = f"no depth map is left below {str(depth)!r}"
  if left:
    other = f"{str(left[0].relative_to(depth))!r} is a depth map without image"
  raise ConfigError(
      f"--images: {len(unpaired):,} of {len(candidates):,} images have no "
      f"depth map by their names: {image!r} is one, and {other}. For other "
      "names say what they share: --image_pattern '*_left.*' --depth_pattern "
      "'*_range.*'.")
