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

from tools.prepare import hdf5_files
from uvim.opener import MAX_PIXELS, open_image
from uvim.registry import ConfigError

SUFFIXES = (".png", ".npy")
# A largest value that repeats, and exceeds all others so many times, is no
# distance but a mark such as 65.535 or 1e10.
_MARK_RATIO = 3


@dataclasses.dataclass(frozen=True)
class Range:
  """What the values of a depth map are like; distances are in metres.

  Attributes:
    num_pixels: H x W.
    num_valid: how many pixels have a depth.
    num_top: how many have the largest number of the file's type.
    smallest: the smallest depth; NaN if no pixel is valid.
    median: of the valid pixels, without those of `mark`; or NaN.
    largest: the largest depth; or NaN.
    mark: the largest depth if it looks like a mark; or None.
    largest_but_mark: the largest other depth; or NaN.
    is_whole: whether the file holds whole numbers, which have a scale.
  """
  num_pixels: int
  num_valid: int
  num_top: int
  smallest: float
  median: float
  largest: float
  mark: float | None
  largest_but_mark: float
  is_whole: bool


def read(path: pathlib.Path, name: str, scale: float,
         max_depth: float = math.inf) -> tuple[np.ndarray, Range]:
  """Depth in metres, 0 where there is none: float32 [H, W]; and its range.

  Args:
    path: a 16-bit PNG, a .npy, or an .h5 with `depth`.
    name: starts each message.
    scale: whole numbers per metre. Floats are metres.
    max_depth: a larger depth counts as not measured; in metres.

  Raises:
    ConfigError: the file is not a depth map.
  """
  try:
    values_HW = _read_values(path, name)
    return _to_metres(values_HW, scale, max_depth)
  except ConfigError:
    raise
  # h5py and numpy report damaged files with many types.
  except Exception as error:  # noqa: BLE001
    reason = " ".join(str(error).split()).rstrip(".")
    raise ConfigError(
        f"{name}: {path.name!r} cannot be read: {reason}.") from error


def _read_values(path: pathlib.Path, name: str) -> np.ndarray:
  """The numbers of the file, [H, W]."""
  if hdf5_files.is_hdf5(path):
    values = hdf5_files.read_depth(path)
  elif path.suffix.lower() == ".npy":
    values = _map_npy(path)
  else:
    values = _read_png(path, f"{name}: {path.name!r}")
  if values.ndim == 3 and values.shape[-1] == 1:
    values = values[..., 0]
  kind = values.dtype.kind  # i and u are whole numbers, f is floats.
  if values.ndim != 2 or kind not in "iuf":
    raise ValueError(f"its shape is {values.shape} of {values.dtype}, not "
                     "[H, W] of numbers")
  if values.dtype.itemsize == 1:
    raise ValueError("its numbers have 8 bits, too few for depth (a picture "
                     "of a depth map?)")
  if not 0 < values.size <= MAX_PIXELS:
    raise ValueError(f"it has {values.size:,} pixels; allowed: 1 to "
                     f"{MAX_PIXELS:,}")
  return values


def _map_npy(path: pathlib.Path) -> np.ndarray:
  """The array of a .npy, whose values are read from disk when they are used."""
  try:
    # The file must be as long as its header says, so a short one cannot ask
    # for all memory.
    return np.lib.format.open_memmap(path, mode="r")
  except OSError:
    raise
  # numpy has many errors for damaged headers. Some advise to allow pickles,
  # which would run what the file holds.
  except Exception:  # noqa: BLE001
    raise ValueError("it is not a complete .npy file of numbers") from None


def _read_png(path: pathlib.Path, name: str) -> np.ndarray:
  with open_image(path, name, formats=("PNG",)) as image:
    if not image.mode.startswith("I"):
      raise ConfigError(f"its mode is {image.mode}, not 16-bit gray.")
    values = np.asarray(image)
  # Pillow may hold the 16 bits of a PNG in 32.
  return values.astype(np.uint16)


def _to_metres(values_HW: np.ndarray, scale: float, max_depth: float
               ) -> tuple[np.ndarray, Range]:
  """See `read`."""
  is_whole = values_HW.dtype.kind != "f"
  num_top = 0
  if is_whole:
    is_top_HW = values_HW == np.iinfo(values_HW.dtype).max
    num_top = int(is_top_HW.sum())
    # Sensors store millimetres or the like as whole numbers.
    values_HW = np.where(is_top_HW, 0, values_HW / scale)
  # What is too large for 32 bits becomes infinite.
  with np.errstate(over="ignore"):
    depth_HW = values_HW.astype(np.float32)
  is_valid_HW = np.isfinite(depth_HW) & (depth_HW > 0)
  is_valid_HW &= depth_HW <= max_depth
  depth_HW = np.where(is_valid_HW, depth_HW, np.float32(0))
  valid = depth_HW[is_valid_HW]
  return depth_HW, _range_of(valid, depth_HW.size, num_top, is_whole)


def _range_of(valid: np.ndarray, num_pixels: int, num_top: int,
              is_whole: bool) -> Range:
  """The range of the valid depths, float32 [any number]."""
  if not valid.size:
    return Range(num_pixels, 0, num_top, math.nan, math.nan, math.nan, None,
                 math.nan, is_whole)
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
      num_pixels, valid.size, num_top, float(valid.min()),
      float(np.median(distances)), largest, mark, float(distances.max()),
      is_whole)
