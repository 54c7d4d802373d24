"""Images with depth maps: checked, encoded, as TFDS examples.

Depth in the data set is float32 meters; 0 where nothing was measured. A
rotation noted in EXIF is not applied, because a depth map lies on the stored
pixels.

H W pixels of an image
"""

import contextlib
import dataclasses
import functools
import io
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tools.prepare import depth_map, hdf5_files, image_files
from tools.prepare.depth_unit import Unit
from uvim.registry import ConfigError

# Folders inside of a scene that hold its images.
_IMAGE_FOLDERS = ("rgb", "color")
# ScanNet's images of 968x1296 and depth maps of 480x640 differ by 0.4 %.
_SHAPE_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class Pair:
  """An image and its depth map, or one .h5 file that holds both.

  Attributes:
    name: path below the folder; it is `file_name` in the data set.
    scene: the path of the sub-folder, or ''; `rgb` and `color` inside of it
      do not count.
    image: the image file.
    depth: the file of the depth map.
    unit: of the numbers in the depth map.
    max_depth: a larger depth counts as not measured; in meters.
  """
  name: str
  scene: str
  image: pathlib.Path
  depth: pathlib.Path
  unit: Unit
  max_depth: float


def name_of(pair: Pair) -> str:
  return pair.name


def make_pair(folder: pathlib.Path, image: pathlib.Path, depth: pathlib.Path,
              unit: Unit, max_depth: float) -> Pair:
  """The pair of an image below `folder`."""
  short_path = image.relative_to(folder)
  # The folder of a frame is its scene.
  scene = short_path.parent
  if scene.name in _IMAGE_FOLDERS:
    scene = scene.parent
  name = scene.as_posix()
  if name == ".":  # It lies in no sub-folder.
    name = ""
  return Pair(short_path.as_posix(), name, image, depth, unit, max_depth)


class Measured(NamedTuple):
  """What a pass over a pair finds."""
  image_HW: tuple[int, ...]
  depth: depth_map.Range


def measure(pair: Pair, size_HW: tuple[int, int] | None = None) -> Measured:
  """Reads all of a pair; the size of the image and the range of its depths.

  Args:
    pair: what to look at.
    size_HW: the prescribed height and width, or None.

  Raises:
    ConfigError: a file cannot be read, or the sizes do not fit.
  """
  if hdf5_files.is_hdf5(pair.image):
    image_HW, depth_HW = _read_hdf5_sizes(pair)
    # Before the pixels: a small file may claim to hold many.
    _check_sizes(pair, image_HW, depth_HW, size_HW)
    _read_hdf5_image(pair)
  else:
    image_HW = image_files.read_size(pair.image, pair.name)
  depth, depth_range = read_depth(pair)
  _check_sizes(pair, image_HW, depth.shape, size_HW)
  return Measured(image_HW, depth_range)


def _check_sizes(pair: Pair, image_HW: tuple[int, ...],
                 depth_HW: tuple[int, ...],
                 size_HW: tuple[int, int] | None) -> None:
  """Raises a ConfigError if a size is not the prescribed one.

  Without a prescribed size, a depth map may be smaller than its image, as that
  of a depth camera beside a photo camera. Both must show the same part.
  """
  hint = "the same shape is needed"
  if size_HW:
    hint = f"{_readable(size_HW)} is wanted"
    fits = image_HW == depth_HW == size_HW
  else:
    fits = len(depth_HW) == 2 and _have_one_shape(image_HW, depth_HW)
  if not fits:
    raise ConfigError(
        f"{pair.name}: the image has height x width {_readable(image_HW)}, its "
        f"depth map {_readable(depth_HW)}; {hint}.")


def _have_one_shape(image_HW: tuple[int, ...], depth_HW: tuple[int, ...]
                    ) -> bool:
  """Whether width : height is the same, but for what rounding may change."""
  image_height, image_width = image_HW
  depth_height, depth_width = depth_HW
  ratio = (image_width * depth_height) / (image_height * depth_width)
  return abs(ratio - 1) <= _SHAPE_TOLERANCE


def _readable(size: tuple[int, ...]) -> str:
  """(480, 640) → '480x640'."""
  return "x".join(map(str, size))


def read_depth(pair: Pair) -> tuple[np.ndarray, depth_map.Range]:
  """See `depth_map.read`."""
  return depth_map.read(pair.depth, pair.name, pair.unit, pair.max_depth)


def _read_hdf5_sizes(pair: Pair) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Height and width of the image and of its depth map."""
  with _named_errors(pair):
    return hdf5_files.read_sizes(pair.image)


def _read_hdf5_image(pair: Pair) -> np.ndarray:
  """The image of an .h5 file: uint8 [H, W, 3]."""
  with _named_errors(pair):
    return hdf5_files.read_image(pair.image)


@contextlib.contextmanager
def _named_errors(pair: Pair) -> Iterator[None]:
  """Raises what h5py reports, with many types, as a ConfigError."""
  try:
    yield
  except ConfigError:
    raise
  except Exception as error:  # noqa: BLE001
    reason = " ".join(str(error).split()).rstrip(".")
    raise ConfigError(f"{pair.name}: {pair.image.name!r} cannot be read: "
                      f"{reason}.") from error


def _encoded_image(pair: Pair) -> bytes:
  """The image as the bytes of a file."""
  if not hdf5_files.is_hdf5(pair.image):
    return image_files.encoded(pair.image, upright=False)
  rgb_HW3 = _read_hdf5_image(pair)
  buffer = io.BytesIO()
  # PNG, because an .h5 file holds the exact pixels.
  Image.fromarray(rgb_HW3).save(buffer, "PNG")
  return buffer.getvalue()


@functools.cache
def make_features() -> Any:
  """image, image/id, file_name, scene, depth float32 [H, W, 1]."""
  import tensorflow_datasets as tfds
  # As compressed floats: a PNG would round to whole numbers.
  depth = tfds.features.Tensor(
      shape=(None, None, 1), dtype=np.float32, encoding="zlib")
  return tfds.features.FeaturesDict({
      "image": tfds.features.Image(),
      "image/id": np.int64,
      "file_name": tfds.features.Text(),
      "scene": tfds.features.Text(),
      "depth": depth,
  })


def make_example(position: int, pair: Pair) -> dict[str, Any]:
  """What `make_features` encodes; `image/id` is the position."""
  depth_HW, _ = read_depth(pair)
  return {
      "image": _encoded_image(pair),
      "image/id": position,
      "file_name": pair.name,
      "scene": pair.scene,
      "depth": depth_HW[..., None],
  }
