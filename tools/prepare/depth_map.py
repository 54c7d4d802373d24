"""One depth map: its file, read as metres, and the range of its values.

What means "not measured" (stored as 0):

* 0, negative, NaN, infinite;
* the largest number of the type of whole numbers, such as 65,535 of 16 bits;
* what exceeds the option --max_depth, if it is given.

H W pixels of an image
"""

import dataclasses
import math
import pathlib

import numpy as np

from tools.prepare import depth_formats, depth_shape
from tools.prepare.depth_unit import Unit
from uvim.registry import ConfigError

# A largest value that repeats, and exceeds all others so many times, is no
# distance but a mark such as 65.535 or 1e10.
_MARK_RATIO = 3


@dataclasses.dataclass(frozen=True)
class Range:
  """What the values of a depth map are like; distances are in metres.

  Attributes:
    size_HW: height and width.
    num_valid: how many pixels have a depth.
    num_top: how many have the largest number of the file's type.
    smallest: the smallest depth; NaN if no pixel is valid.
    median: of the valid pixels, without those of `mark`; or NaN.
    largest: the largest depth; or NaN.
    mark: the largest depth if it looks like a mark; or None.
    largest_but_mark: the largest other depth; or NaN.
    is_whole: whether the file holds whole numbers.
    scale: steps of the file's numbers per metre.
    straight: how flat surfaces look in these values.
  """
  size_HW: tuple[int, int]
  num_valid: int
  num_top: int
  smallest: float
  median: float
  largest: float
  mark: float | None
  largest_but_mark: float
  is_whole: bool
  scale: float
  straight: depth_shape.Straight

  @property
  def num_pixels(self) -> int:
    """H x W."""
    return math.prod(self.size_HW)


def read(path: pathlib.Path, name: str, unit: Unit,
         max_depth: float = math.inf) -> tuple[np.ndarray, Range]:
  """Depth in metres, 0 where there is none: float32 [H, W]; and its range.

  Args:
    path: a file that `depth_formats` knows.
    name: starts each message.
    unit: of the numbers.
    max_depth: a larger depth counts as not measured; in metres.

  Raises:
    ConfigError: the file is not a depth map, or nobody states the unit of its
      numbers.
  """
  values_HW = depth_formats.read_numbers(path, name)
  is_whole = values_HW.dtype.kind != "f"
  is_image = path.suffix.lower() in depth_formats.IMAGE_SUFFIXES
  if is_whole and not is_image and not unit.is_stated:
    raise ConfigError(
        f"{name}: {path.name!r} holds whole numbers ({values_HW.dtype}), of "
        "which nobody knows the unit: give --unit mm, --unit m or --unit with "
        "the number of steps per metre.")
  return _to_metres(values_HW, unit.whole if is_whole else unit.floats,
                    max_depth)


def _to_metres(values_HW: np.ndarray, scale: float, max_depth: float
               ) -> tuple[np.ndarray, Range]:
  """See `read`."""
  is_whole = values_HW.dtype.kind != "f"
  num_top = 0
  if is_whole:
    is_top_HW = values_HW == np.iinfo(values_HW.dtype).max
    num_top = int(is_top_HW.sum())
    values_HW = np.where(is_top_HW, 0, values_HW)
  # What is too large for 32 bits becomes infinite.
  with np.errstate(over="ignore"):
    if is_whole:
      depth_HW = (values_HW / scale).astype(np.float32)
    else:
      # First to 32 bits: half floats have no room for a division.
      depth_HW = values_HW.astype(np.float32) / np.float32(scale)
  is_valid_HW = np.isfinite(depth_HW) & (depth_HW > 0)
  is_valid_HW &= depth_HW <= max_depth
  depth_HW = np.where(is_valid_HW, depth_HW, np.float32(0))
  valid = depth_HW[is_valid_HW]
  straight = depth_shape.measure(depth_HW)
  return depth_HW, _range_of(valid, depth_HW.shape, num_top, is_whole, scale,
                             straight)


def _range_of(valid: np.ndarray, size_HW: tuple[int, int], num_top: int,
              is_whole: bool, scale: float,
              straight: depth_shape.Straight) -> Range:
  """The range of the valid depths, float32 [any number]."""
  if not valid.size:
    return Range(size_HW, 0, num_top, math.nan, math.nan, math.nan, None,
                 math.nan, is_whole, scale, straight)
  largest = float(valid.max())
  others = valid[valid < largest]
  repeats = valid.size - others.size > 1
  mark = None
  # A map of one value shows a wall.
  if others.size and repeats and largest >= _MARK_RATIO * others.max():
    mark = largest
    distances = others
  else:
    distances = valid
  return Range(
      size_HW, valid.size, num_top, float(valid.min()),
      float(np.median(distances)), largest, mark, float(distances.max()),
      is_whole, scale, straight)
