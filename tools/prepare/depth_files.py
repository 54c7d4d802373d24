"""Images with depth maps: matched, checked, encoded, as TFDS examples.

Depth in the data set is float32 meters; 0 where nothing was measured. A
rotation noted in EXIF is not applied, because a depth map lies on the stored
pixels.

H W pixels of an image
"""

import dataclasses
import functools
import io
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from tools.passes import raise_problems
from tools.prepare import image_files
from uvim.opener import open_image
from uvim.registry import ConfigError

_HDF5 = ".h5"
_DEPTH_SUFFIXES = (".png", ".npy")
# Last words of a file name that do not tell two pairs apart.
_IMAGE_WORDS = "rgb|colors"
_DEPTH_WORDS = "depth"


@dataclasses.dataclass(frozen=True)
class Pair:
  """An image and its depth map, or one .h5 file that holds both.

  Attributes:
    name: path below the folder; it is `file_name` in the data set.
    scene: the path of the sub-folder, or ''.
    image: the image file.
    depth: the file of the depth map.
    scale: whole numbers in the depth map per meter.
  """
  name: str
  scene: str
  image: pathlib.Path
  depth: pathlib.Path
  scale: float


def name_of(pair: Pair) -> str:
  return pair.name


def make_pair(folder: pathlib.Path, image: pathlib.Path, depth: pathlib.Path,
              scale: float) -> Pair:
  """The pair of an image below `folder`."""
  short_path = image.relative_to(folder)
  # The folder of a frame is its scene.
  scene = short_path.parent.as_posix()
  if scene == ".":  # It lies in no sub-folder.
    scene = ""
  return Pair(short_path.as_posix(), scene, image, depth, scale)


def is_hdf5(path: pathlib.Path) -> bool:
  """Whether a file holds an image and its depth map."""
  return path.suffix == _HDF5


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


def match_rgbd(images: pathlib.Path, depth: pathlib.Path, scale: float
               ) -> list[Pair]:
  """Pairs the images of a folder with the depth maps of another or the same.

  a.jpg, a_rgb.jpg or a_colors.jpg belongs to a_depth.png, a_depth.npy, a.npy
  or, in another folder, a.png. Sub-folders must have the same names.

  Args:
    images: folder of the images.
    depth: folder of the depth maps.
    scale: whole numbers in a depth map per meter.

  Raises:
    ConfigError: an image has no depth map, or there is no image.
  """
  if not scale > 0:
    raise ConfigError(f"--depth_scale: {scale}; allowed: above 0.")
  # The same folder may be given in two spellings.
  images = images.resolve()
  depth = depth.resolve()
  image_paths = [path for path in image_files.list_files(images, "--images")
                 if not path.stem.endswith("_depth")]
  depth_paths = image_files.list_files(depth, "--depth", _DEPTH_SUFFIXES)
  # In one folder, an image is not a depth map too.
  depth_paths = sorted(set(depth_paths) - set(image_paths))
  image_of = _by_key(image_paths, images, _IMAGE_WORDS, "--images")
  depth_of = _by_key(depth_paths, depth, _DEPTH_WORDS, "--depth")
  pairs = []
  problems = []
  # A depth map without an image is no mistake: it is left out.
  for key, path in image_of.items():
    if key in depth_of:
      pairs.append(make_pair(images, path, depth_of[key], scale))
    else:
      problems.append(f"{path}: no depth map {key}_depth or {key} (.png, "
                      ".npy).")
  raise_problems(problems, f"--depth: {str(depth)!r} lacks some")
  if not pairs:
    raise ConfigError(f"--images: no image below {str(images)!r}.")
  return pairs


def _by_key(paths: Iterable[pathlib.Path], folder: pathlib.Path, words: str,
            flag: str) -> dict[str, pathlib.Path]:
  """Files by their path below the folder, without suffix and last word.

  Args:
    paths: the files.
    folder: where they lie.
    words: last words to leave out after a '_', separated by '|'.
    flag: the option that names the folder, for the message.

  Raises:
    ConfigError: two files have one key.
  """
  by_key = {}
  problems = []
  for path in paths:
    stem = re.sub(f"_({words})$", "", path.stem)
    # With its sub-folders, since two scenes may both have a 0001.png.
    short_path = path.relative_to(folder)
    key = short_path.with_name(stem).as_posix()
    if key in by_key:
      problems.append(f"{key}: both {by_key[key].name} and {path.name}.")
    by_key[key] = path
  raise_problems(problems, f"{flag}: more than one file for one name")
  return by_key


def check(pair: Pair, size_HW: tuple[int, int] | None = None) -> list[str]:
  """Problems of a pair: unreadable files, sizes that differ.

  Args:
    pair: what to look at.
    size_HW: the prescribed height and width, or None.
  """
  try:
    if is_hdf5(pair.image):
      # HDF5 tells shapes without reading the pixels.
      image_HW, depth_HW = _read_hdf5_sizes(pair.image)
    else:
      image_HW = image_files.read_size(pair.image, pair.name)
      # Decodes the whole map, which also finds a file that is cut short.
      depth_HW = read_depth(pair).shape
  except ConfigError as error:
    return [str(error)]
  # h5py and numpy report broken files with many types.
  except Exception as error:  # noqa: BLE001
    return [f"{pair.name}: {pair.depth.name!r} cannot be read: {error}."]
  hint = ""
  if size_HW:
    hint = f"; {_readable(size_HW)} is wanted"
  # Without a prescribed size, both only have to be equal.
  expected_HW = size_HW or image_HW
  if image_HW == depth_HW == expected_HW:
    return []
  return [f"{pair.name}: the image has height x width {_readable(image_HW)}, "
          f"its depth map {_readable(depth_HW)}{hint}."]


def _readable(size: tuple[int, ...]) -> str:
  """(480, 640) → '480x640'."""
  return "x".join(map(str, size))


def _read_hdf5_sizes(path: pathlib.Path
                     ) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Height and width of the image and of its depth map, without the pixels."""
  with import_h5py().File(path) as file:
    absent = [repr(key) for key in ("rgb", "depth") if key not in file]
    if absent:
      raise ValueError(f"has no {' and no '.join(absent)}")
    image = file["rgb"]
    shape = image.shape
    has_3_channels = len(shape) == 3 and shape[0] == 3
    if not has_3_channels or image.dtype != np.uint8:
      raise ValueError(f"'rgb' is {image.dtype} {shape}, not uint8 "
                       "(3, height, width)")
    return shape[1:], file["depth"].shape


def read_depth(pair: Pair) -> np.ndarray:
  """Depth in meters, 0 where there is none: float32 [H, W].

  Raises:
    ValueError: the file is not a depth map.
  """
  if is_hdf5(pair.depth):
    with import_h5py().File(pair.depth) as file:
      values = file["depth"][()]
  elif pair.depth.suffix.lower() == ".npy":
    values = np.load(pair.depth, allow_pickle=False)
  else:
    name = f"{pair.name}: {pair.depth.name!r}"
    with open_image(pair.depth, name, formats=("PNG",)) as image:
      if not image.mode.startswith("I"):
        raise ConfigError(f"its mode is {image.mode}, not 16-bit gray.")
      values = np.asarray(image)
  return _to_meters(values, pair.scale)


def _to_meters(values: np.ndarray, scale: float) -> np.ndarray:
  """float32 [H, W]; whole numbers are scaled, floats are meters already."""
  if values.ndim == 3 and values.shape[-1] == 1:
    values = values[..., 0]
  kind = values.dtype.kind  # i and u are whole numbers, f is floats.
  if values.ndim != 2 or kind not in "iuf":
    raise ValueError(f"its shape is {values.shape} of {values.dtype}, not "
                     "[H, W] of numbers")
  # Sensors store millimeters or the like as whole numbers.
  if kind != "f":
    values = values / scale
  depth_HW = values.astype(np.float32)
  # NaN, infinite and negative values all mean: not measured.
  is_measured_HW = np.isfinite(depth_HW) & (depth_HW > 0)
  return np.where(is_measured_HW, depth_HW, 0)


def _encoded_image(pair: Pair) -> bytes:
  """The image as the bytes of a file."""
  if not is_hdf5(pair.image):
    return image_files.encoded(pair.image, upright=False)
  with import_h5py().File(pair.image) as file:
    # The file has the channels first.
    rgb_HW3 = np.moveaxis(file["rgb"][()], 0, -1)
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
  depth_HW = read_depth(pair)
  return {
      "image": _encoded_image(pair),
      "image/id": position,
      "file_name": pair.name,
      "scene": pair.scene,
      "depth": depth_HW[..., None],
  }
