"""Frames of NYU Depth V2 as .h5 files: `rgb` [3, H, W], `depth` [H, W].

H W pixels of an image
"""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from uvim.registry import ConfigError

_SUFFIX = ".h5"


def is_hdf5(path: pathlib.Path) -> bool:
  """Whether a file holds an image and its depth map."""
  return path.suffix.lower() == _SUFFIX


def import_h5py() -> Any:
  """Imports the package that reads .h5 files.

  Raises:
    ConfigError: it is not installed.
  """
  try:
    import h5py
  except ImportError as error:
    raise ConfigError("Reading .h5 files needs a package that is not "
                      "installed: pip install h5py.") from error
  return h5py


def read_sizes(path: pathlib.Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Shapes of the image [H, W] and of its depth map, without the pixels.

  Raises:
    ValueError: they are absent or of another kind.
  """
  with _open(path, "rgb") as image, _open(path, "depth") as depth:
    has_3_channels = len(image.shape) == 3 and image.shape[0] == 3
    if not has_3_channels or image.dtype != np.uint8:
      raise ValueError(f"'rgb' is {image.dtype} {image.shape}, not uint8 "
                       "(3, height, width)")
    return image.shape[1:], depth.shape


def read_image(path: pathlib.Path) -> np.ndarray:
  """The image: uint8 [H, W, 3]."""
  with _open(path, "rgb") as dataset:
    # The file has the channels first.
    return np.moveaxis(dataset[()], 0, -1)


def read_depth(path: pathlib.Path) -> np.ndarray:
  """The depth map as it is stored."""
  with _open(path, "depth") as dataset:
    return dataset[()]


@contextlib.contextmanager
def _open(path: pathlib.Path, key: str) -> Iterator[Any]:
  """An array of the file, whose values lie in this file too.

  HDF5 knows links, virtual arrays and external arrays. They name other files,
  and nobody who reads a frame expects these.
  """
  h5py = import_h5py()
  with h5py.File(path) as file:
    if key not in file:
      raise ValueError(f"has no {key!r}")
    link = file.get(key, getlink=True)
    if not isinstance(link, h5py.HardLink):
      raise ValueError(f"{key!r} is a link; allowed: an array")
    dataset = file[key]
    if not isinstance(dataset, h5py.Dataset):
      raise ValueError(f"{key!r} is no array")
    if dataset.is_virtual or dataset.external:
      raise ValueError(f"{key!r} lies in other files")
    yield dataset
