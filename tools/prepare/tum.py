"""Recordings of TUM RGB-D: images and depth maps are paired by time.

A recording is a folder with `rgb.txt` and `depth.txt`. Each line is a time in
seconds and the path of a file; lines that begin with # are comments. The two
cameras do not run in step, so an image goes with the depth map that is nearest
in time.
"""

import bisect
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from tools.prepare import pairing
from tools.prepare.depth_unit import Unit
from uvim import files, finder
from uvim.registry import ConfigError

IMAGE_LIST = "rgb.txt"
DEPTH_LIST = "depth.txt"
UNIT = Unit(whole=5000.0, is_stated=True)
# Further apart, the camera has moved: recordings have 30 images a second.
MAX_SECONDS = 0.02


class Frame(NamedTuple):
  """A line of a list."""
  seconds: float
  path: pathlib.Path


def find_recordings(images: pathlib.Path, depth: pathlib.Path
                    ) -> list[pathlib.Path]:
  """The recordings below the folder of the images, or just above it.

  Args:
    images: the folder of the images.
    depth: the folder of the depth maps.
  """
  # Somebody may name RECORDING/rgb and RECORDING/depth.
  if images.parent == depth.parent and _is_recording(images.parent):
    return [images.parent]
  if not images.is_dir():
    return []
  lists = finder.find_files(images, (IMAGE_LIST,))
  folders = [path.parent for path in lists if path.name == IMAGE_LIST]
  return [folder for folder in folders if _is_recording(folder)]


def _is_recording(folder: pathlib.Path) -> bool:
  return all((folder / name).is_file() for name in (IMAGE_LIST, DEPTH_LIST))


def match(recordings: Sequence[pathlib.Path], images: pathlib.Path
          ) -> pairing.Matched:
  """Pairs the frames of recordings.

  An image without a depth map in time is left out.

  Args:
    recordings: from `find_recordings`, at least one.
    images: the folder that the user named.

  Raises:
    ConfigError: a list cannot be read, or nothing fits in time.
  """
  paired = []
  num_left = 0
  for recording in recordings:
    image_frames = read_list(recording / IMAGE_LIST)
    depth_frames = read_list(recording / DEPTH_LIST)
    found = associate(image_frames, depth_frames)
    paired += found
    num_left += len(image_frames) - len(found)
  if not paired:
    raise ConfigError(
        f"--images: {str(recordings[0])!r} is a recording of TUM RGB-D, but no "
        f"time in {IMAGE_LIST} is within {MAX_SECONDS} s of one in "
        f"{DEPTH_LIST}.")
  text = (f"{len(paired):,} by time, at most {MAX_SECONDS} s apart, from "
          f"{IMAGE_LIST} and {DEPTH_LIST} (TUM RGB-D)")
  if num_left:
    text += f"; {num_left:,} images without a depth map in time are left out"
  # The recording may be the folder above.
  folder = images if recordings[0].is_relative_to(images) else recordings[0]
  return pairing.Matched(folder, paired, text, UNIT)


def read_list(path: pathlib.Path) -> list[Frame]:
  """The frames that a list names.

  Raises:
    ConfigError: a line is no time with a path below the list's folder.
  """
  frames = []
  text = files.load_text(path, "--images")
  for number, line in enumerate(text.splitlines(), start=1):
    line = line.strip()
    if not line or line.startswith("#"):
      continue
    seconds, _, name = line.partition(" ")
    name = pathlib.PurePath(name.strip())
    # A list of a stranger may name any file.
    is_outside = name.is_absolute() or ".." in name.parts
    if not _is_time(seconds) or not name.parts or is_outside:
      raise ConfigError(
          f"--images: {str(path)!r}, line {number}: {line!r}; allowed: a time "
          "in seconds and the path of a file below that folder.")
    frames.append(Frame(float(seconds), path.parent / name))
  return frames


def _is_time(text: str) -> bool:
  try:
    return math.isfinite(float(text))
  except ValueError:
    return False


def associate(image_frames: Sequence[Frame], depth_frames: Sequence[Frame]
              ) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """Pairs frames so that the nearest in time come together first.

  Returns:
    An image and its depth map each, in the order of time. None is in two
    pairs.
  """
  depth_frames = sorted(depth_frames)
  depth_seconds = [depth.seconds for depth in depth_frames]
  gaps = []
  for image in image_frames:
    start = bisect.bisect_left(depth_seconds, image.seconds - MAX_SECONDS)
    stop = bisect.bisect_right(depth_seconds, image.seconds + MAX_SECONDS)
    for depth in depth_frames[start:stop]:
      gap = abs(depth.seconds - image.seconds)
      gaps.append((gap, image, depth))
  used = set()
  pairs = []
  for _, image, depth in sorted(gaps):
    if image not in used and depth not in used:
      used.update((image, depth))
      pairs.append((image, depth))
  return [(image.path, depth.path) for image, depth in sorted(pairs)]
