"""The numbers in the file of a depth map, whatever its format.

| ending | numbers |
|---|---|
| .png | 16 bits |
| .tif, .tiff | 16 or 32 bits, or floats |
| .pfm | floats |
| .npy | whole numbers or floats |
| .npz | one array of them |
| .exr | floats, half or single; needs the package OpenEXR |
| .h5 | frames of NYU Depth V2, see `hdf5_files` |

H W pixels of an image
"""

import pathlib
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

from tools.prepare import exr_files, hdf5_files
from uvim.opener import MAX_PIXELS, open_image
from uvim.registry import ConfigError

# In these, custom says what whole numbers mean: millimetres.
IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".pfm")
SUFFIXES = (*IMAGE_SUFFIXES, ".npy", ".npz", ".exr")
# Pillow knows .pfm as a kind of PPM.
_IMAGE_FORMATS = ("PNG", "TIFF", "PPM")
_MAX_BYTES_OF_NUMBER = 8
_SOURCE = ("find the file it was drawn from: 16-bit PNG, float TIFF, .npy, "
           ".npz, .exr or .pfm")


def read_numbers(path: pathlib.Path, name: str) -> np.ndarray:
  """The numbers of a depth map, [H, W] of whole numbers or floats.

  Args:
    path: a file with one of `SUFFIXES`, or an .h5.
    name: starts each message.

  Raises:
    ConfigError: the file is no depth map, or cannot be read.
  """
  read = _READERS[path.suffix.lower()]
  try:
    values = read(path)
    return _checked(values)
  except ConfigError as error:
    raise ConfigError(f"{name}: {error}") from error
  # h5py, OpenEXR and numpy report damaged files with many types.
  except Exception as error:  # noqa: BLE001
    reason = " ".join(str(error).split()).rstrip(".")
    raise ConfigError(
        f"{name}: {path.name!r} cannot be read: {reason}.") from error


def _checked(values: np.ndarray) -> np.ndarray:
  """The numbers as [H, W].

  Raises:
    ValueError: they are no depth map.
  """
  if values.ndim == 3 and values.shape[-1] == 1:
    values = values[..., 0]
  kind = values.dtype.kind  # i and u are whole numbers, f is floats.
  if values.ndim != 2 or kind not in "iuf":
    raise ValueError(f"its shape is {values.shape} of {values.dtype}, not "
                     "[H, W] of numbers")
  if values.dtype.itemsize == 1:
    raise ValueError("its numbers have 8 bits, too few for depth (drawn "
                     "for the eye?)")
  _check_size(values.shape)
  return values


def _check_size(shape: tuple[int, ...]) -> None:
  num_values = int(np.prod(shape, dtype=object))
  if not 0 < num_values <= MAX_PIXELS:
    raise ValueError(f"it has {num_values:,} pixels; allowed: 1 to "
                     f"{MAX_PIXELS:,}")


def _read_image(path: pathlib.Path) -> np.ndarray:
  """The numbers of an image of one channel."""
  with open_image(path, repr(path.name), formats=_IMAGE_FORMATS) as image:
    # I is whole numbers of 16 or 32 bits, F floats.
    if not image.mode.startswith(("I", "F")):
      looks_like = "depth drawn in gray levels, which have no unit"
      if image.mode not in ("1", "L", "LA"):
        looks_like = "depth drawn in colors, which have no unit"
      raise ConfigError(f"its mode is {image.mode}, of 8 bits: it looks like "
                        f"{looks_like}; {_SOURCE}.")
    values = np.asarray(image)
    # Pillow may hold the 16 bits of a PNG in 32.
    return values.astype(np.uint16) if image.format == "PNG" else values


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


def _read_npz(path: pathlib.Path) -> np.ndarray:
  """The one array of a .npz."""
  names = []
  try:
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
      if len(names) == 1:
        return _read_member(archive, names[0])
  except OSError:
    raise
  # As many errors as in `_map_npy`.
  except Exception:  # noqa: BLE001
    raise ValueError("it is not a complete .npz file of numbers") from None
  arrays = [name.removesuffix(".npy") for name in names]
  raise ValueError(f"it has the arrays {', '.join(arrays) or 'none'}; allowed: "
                   "one")


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
  # A small file may claim to hold many numbers.
  num_bytes = archive.getinfo(name).file_size
  _check_size((num_bytes // _MAX_BYTES_OF_NUMBER,))
  with archive.open(name) as member:
    return np.lib.format.read_array(member, allow_pickle=False)


_READERS: Mapping[str, Callable[[pathlib.Path], np.ndarray]] = {
    ".png": _read_image,
    ".tif": _read_image,
    ".tiff": _read_image,
    ".pfm": _read_image,
    ".npy": _map_npy,
    ".npz": _read_npz,
    ".exr": exr_files.read_depth,
    ".h5": hdf5_files.read_depth,
}
