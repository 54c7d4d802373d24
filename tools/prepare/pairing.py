"""Which image belongs to which depth map, by their names.

`LAYOUTS` lists the usual ways to name them. Recordings of TUM RGB-D are paired
by time instead, see `tum`.
"""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from tools.passes import raise_problems
from tools.prepare import depth_formats
from tools.prepare.depth_unit import Unit
from tools.prepare.image_files import SUFFIXES as IMAGE_SUFFIXES
from tools.prepare.image_files import list_files
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
    Layout("*rgb_*.*", "*sync_depth_*.*", "NYU Depth V2"),
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
    pairs: an image and its depth map each.
    text: how they were paired, for people.
    unit: what the layout says of the numbers; None: nothing.
  """
  folder: pathlib.Path
  pairs: Sequence[tuple[pathlib.Path, pathlib.Path]]
  text: str
  unit: Unit | None = None


class _Files(NamedTuple):
  """Some files below a folder."""
  folder: pathlib.Path
  paths: Sequence[pathlib.Path]

  def name(self, path: pathlib.Path) -> str:
    """The path below the folder: two scenes may both have a 0001.png."""
    return path.relative_to(self.folder).as_posix()


# Image → each depth map that it may have, with the layout that says so.
_Candidates = dict[pathlib.Path, dict[pathlib.Path, Layout]]


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
  image_files = _Files(images, list_files(images, "--images"))
  depth_files = _Files(
      depth, list_files(depth, "--depth", depth_formats.SUFFIXES))
  if patterns is None:
    layouts = LAYOUTS
    image_files = _without_depth_maps(image_files)
    looked_for = ", ".join(IMAGE_SUFFIXES)
  else:
    layout = _layout_of(patterns)
    layouts = (layout,)
    image_files = _Files(images, list(_keys(image_files, layout.image)))
    looked_for = layout.image
  if not image_files.paths:
    raise ConfigError(f"--images: no image below {str(images)!r}; looked for "
                      f"{looked_for}.")
  candidates = _find_candidates(image_files, depth_files, layouts)
  _check_single(candidates, image_files, depth_files)
  _check_all_paired(candidates, image_files, depth_files)
  pairs = []
  counts = collections.Counter()
  for image_path, depth_maps in candidates.items():
    # There is one, as was checked.
    [(depth_path, layout)] = depth_maps.items()
    pairs.append((image_path, depth_path))
    counts[layout] += 1
  text = "; ".join(f"{count:,} as {layout}" for layout, count in counts.items())
  return Matched(images, pairs, text)


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


def _keys(files: _Files, pattern: str) -> dict[pathlib.Path, Key]:
  """The files that a pattern describes, with what their names share."""
  expression = _compiled(pattern)
  keys = {}
  for path in files.paths:
    found = expression.fullmatch(files.name(path))
    if found:
      keys[path] = found.groups()
  return keys


# ── Pairs ───────────────────────────────────────────────────────────────────


def _without_depth_maps(files: _Files) -> _Files:
  """Those that are no depth maps by their names, in any usual layout."""
  depth_maps = set()
  for layout in LAYOUTS:
    # Any name fits "*.*"; it says nothing.
    if layout.depth != _SAME_NAME.depth:
      depth_maps.update(_keys(files, layout.depth))
  rest = [path for path in files.paths if path not in depth_maps]
  return _Files(files.folder, rest)


def _find_candidates(image_files: _Files, depth_files: _Files,
                     layouts: Sequence[Layout]) -> _Candidates:
  """The depth maps that each image may have."""
  candidates = {path: {} for path in image_files.paths}
  for layout in layouts:
    depth_of_key = collections.defaultdict(list)
    for path, key in _keys(depth_files, layout.depth).items():
      depth_of_key[key].append(path)
    for image_path, key in _keys(image_files, layout.image).items():
      for depth_path in depth_of_key[key]:
        if _may_be_pair(image_path, depth_path, layout):
          # An earlier layout may have found this pair.
          candidates[image_path].setdefault(depth_path, layout)
  # In one folder, a.png is no image if it is the depth map of a.jpg.
  taken = set()
  for depth_maps in candidates.values():
    taken.update(depth_maps)
  return {path: depth_maps for path, depth_maps in candidates.items()
          if path not in taken}


def _may_be_pair(image: pathlib.Path, depth: pathlib.Path, layout: Layout
                 ) -> bool:
  """Whether two files whose names fit can be an image and its depth map."""
  if image == depth:
    return False
  if layout != _SAME_NAME or image.parent != depth.parent:
    return True
  # Of a.png and a.tiff in one folder, nobody knows which is the image.
  image_is_clear = image.suffix.lower() not in depth_formats.SUFFIXES
  depth_is_clear = depth.suffix.lower() not in IMAGE_SUFFIXES
  return image_is_clear or depth_is_clear


def _check_single(candidates: _Candidates, image_files: _Files,
                  depth_files: _Files) -> None:
  """Raises a ConfigError if an image has several depth maps, or shares one."""
  problems = []
  image_of = {}
  for image_path, depth_maps in candidates.items():
    image = image_files.name(image_path)
    names = [depth_files.name(path) for path in depth_maps]
    if len(names) > 1:
      problems.append(f"{image}: {' and '.join(names)}.")
    for name in names:
      other = image_of.setdefault(name, image)
      if other != image:
        problems.append(f"{name}: it would be that of {other} and {image}.")
  raise_problems(problems, "--depth: more than one file for one name")


def _check_all_paired(candidates: _Candidates, image_files: _Files,
                      depth_files: _Files) -> None:
  """Raises a ConfigError if an image has no depth map.

  A depth map without an image is no mistake: it is left out.
  """
  unpaired = [path for path, depth_maps in candidates.items()
              if not depth_maps]
  if not unpaired:
    return
  known = set(candidates)
  for depth_maps in candidates.values():
    known.update(depth_maps)
  left = [path for path in depth_files.paths if path not in known]
  image = image_files.name(unpaired[0])
  other = f"no depth map is left below {str(depth_files.folder)!r}"
  if left:
    other = f"{depth_files.name(left[0])!r} is a depth map without image"
  raise ConfigError(
      f"--images: {len(unpaired):,} of {len(candidates):,} images have no "
      f"depth map by their names: {image!r} is one, and {other}. For other "
      "names say what they share: --image_pattern '*_left.*' --depth_pattern "
      "'*_range.*'.")
