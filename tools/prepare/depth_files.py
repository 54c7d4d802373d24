"""Photographs with depth maps: paired, checked, as TFDS examples.

Depth is float32 metres in the data set; 0 where nothing was measured. A
rotation noted in EXIF is not applied: depth maps lie on the stored pixels.
"""

import collections
import dataclasses
import functools
import hashlib
import io
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tools.passes import raise_problems
from tools.prepare import image_files
from uvim.registry import ConfigError

NYU_SIZE = (480, 640)  # Height and width of every frame.
_MILLIMETRES = 1000.0
_DEPTH_SUFFIXES = (".png", ".npy")


@dataclasses.dataclass(frozen=True)
class Pair:
  """A photograph and its depth map, or one .h5 file that holds both."""
  name: str   # Path below the folder, as messages and `file_name` have it.
  scene: str  # The sub-folder's name, '' without.
  image: pathlib.Path
  depth: pathlib.Path
  scale: float  # Whole numbers in the depth map per metre.


def _h5py() -> Any:
  try:
    import h5py
  except ImportError as error:
    raise ConfigError("Reading .h5 files needs a package that is not "
                      "installed: pip install h5py.") from error
  return h5py


def _metres(values: np.ndarray, scale: float) -> np.ndarray:
  """float32 [H, W]; whole numbers are scaled, floats are metres already."""
  if values.ndim == 3 and values.shape[-1] == 1:
    values = values[..., 0]
  if values.ndim != 2 or values.dtype.kind not in "iuf":
    raise ValueError(f"its shape is {values.shape} of {values.dtype}, not "
                     "[H, W] of numbers")
  if values.dtype.kind != "f":
    values = values / scale
  depth_HW = values.astype(np.float32)
  return np.where(np.isfinite(depth_HW) & (depth_HW > 0), depth_HW, 0)


def read_depth(pair: Pair) -> np.ndarray:
  """Depth in metres, 0 where there is none: float32 [H, W].

  Raises:
    ValueError: when the file is not a depth map.
  """
  if pair.depth.suffix == ".h5":
    with _h5py().File(pair.depth) as file:
      return _metres(file["depth"][()], pair.scale)
  if pair.depth.suffix.lower() == ".npy":
    return _metres(np.load(pair.depth, allow_pickle=False), pair.scale)
  with Image.open(pair.depth) as picture:
    if not picture.mode.startswith("I"):
      raise ValueError(f"its mode is {picture.mode}, not 16-bit grey")
    return _metres(np.asarray(picture), pair.scale)


def _read_image(pair: Pair) -> bytes:
  """The photograph, encoded."""
  if pair.image.suffix != ".h5":
    return image_files.encoded(pair.image, upright=False)
  with _h5py().File(pair.image) as file:
    rgb_HW3 = np.moveaxis(file["rgb"][()], 0, -1)
  out = io.BytesIO()
  Image.fromarray(rgb_HW3).save(out, "PNG")
  return out.getvalue()


def _h5_sizes(pair: Pair) -> tuple[tuple, tuple]:
  """Height and width of both parts, without reading them."""
  with _h5py().File(pair.image) as file:
    absent = [key for key in ("rgb", "depth") if key not in file]
    if absent:
      raise ValueError(f"has no {' and no '.join(map(repr, absent))}")
    image, depth = file["rgb"], file["depth"]
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != np.uint8:
      raise ValueError(f"'rgb' is {image.dtype} {image.shape}, not uint8 "
                       "(3, height, width)")
    return image.shape[1:], depth.shape


def check(pair: Pair, size: tuple[int, int] | None = None) -> list[str]:
  """Problems of a pair: unreadable files, sizes that differ.

  Args:
    pair: what to look at.
    size: the height and width there must be, if they are prescribed.
  """
  try:
    if pair.image.suffix == ".h5":
      image_HW, depth_HW = _h5_sizes(pair)
    else:
      problems = image_files.check(pair.image, pair.name)
      if problems:
        return problems
      with Image.open(pair.image) as picture:
        image_HW = picture.size[::-1]
      depth_HW = read_depth(pair).shape
  except Exception as error:  # Pillow raises many types.
    return [f"{pair.name}: {pair.depth.name!r} cannot be read: {error}."]
  if image_HW != depth_HW or image_HW != (size or image_HW):
    wanted = f"; {size[0]}x{size[1]} is wanted" if size else ""
    return [f"{pair.name}: the image has height x width "
            f"{image_HW[0]}x{image_HW[1]}, its depth map "
            f"{'x'.join(map(str, depth_HW))}{wanted}."]
  return []


def _keyed(paths: Iterable[pathlib.Path], folder: pathlib.Path, words: str,
           flag: str) -> dict[str, pathlib.Path]:
  """Files by their path below the folder, less suffix and a last `_word`."""
  out, problems = {}, []
  for path in paths:
    short = path.relative_to(folder).with_suffix("")
    key = short.with_name(re.sub(f"_({words})$", "", short.name)).as_posix()
    if key in out:
      problems.append(f"{key}: both {out[key].name} and {path.name}.")
    out[key] = path
  raise_problems(problems, f"{flag}: more than one file for one name")
  return out


def match_rgbd(images: pathlib.Path, depth: pathlib.Path, scale: float
               ) -> list[Pair]:
  """Pairs of two folders, or of one, in sub-folders of the same name.

  a.jpg, a_rgb.jpg or a_colors.jpg goes with a_depth.png, a_depth.npy, a.npy or,
  out of another folder, a.png.

  Raises:
    ConfigError: when an image has no depth map, or there is no image.
  """
  if not scale > 0:
    raise ConfigError(f"--depth_scale: {scale}; allowed: above 0.")
  # However they were typed: in one folder a photograph is no depth map.
  images, depth = images.resolve(), depth.resolve()
  photos = {path: None for path in image_files.list_files(images, "--images")
            if not path.stem.endswith("_depth")}
  maps = [path for path in image_files.list_files(depth, "--depth",
                                                  _DEPTH_SUFFIXES)
          if path not in photos]
  photos = _keyed(photos, images, "rgb|colors", "--images")
  maps = _keyed(maps, depth, "depth", "--depth")
  raise_problems([f"{path}: no depth map {key}_depth or {key} (.png, .npy)."
                  for key, path in photos.items() if key not in maps],
                 f"--depth: {str(depth)!r} lacks some")
  if not photos:
    raise ConfigError(f"--images: no picture below {str(images)!r}.")
  pairs = []
  for key, path in photos.items():
    short = path.relative_to(images)
    scene = short.parent.as_posix() if len(short.parts) > 1 else ""
    pairs.append(Pair(short.as_posix(), scene, path, maps[key], scale))
  return pairs


def match_nyu(folder: pathlib.Path, flag: str) -> list[Pair]:
  """NYU Depth V2 frames in folders of scenes, in either layout.

  SCENE/*.h5 with 'rgb' and 'depth', as TFDS's nyu_depth_v2 unpacks them; or
  SCENE/rgb_*.jpg beside SCENE/sync_depth_*.png in millimetres.

  Raises:
    ConfigError: when there are none, some lack their depth map, or h5py does.
  """
  pairs, problems = [], []
  for path in image_files.list_files(folder, flag, (".h5", ".jpg", ".png")):
    depth = path
    if path.suffix != ".h5":
      if not path.name.startswith("rgb_"):
        continue
      depth = path.with_name(f"sync_depth_{path.stem[4:]}.png")
      if not depth.is_file():
        problems.append(f"{path}: no {depth.name} beside it.")
    short = path.relative_to(folder)
    scene = short.parent.as_posix() if len(short.parts) > 1 else ""
    pairs.append(Pair(short.as_posix(), scene, path, depth, _MILLIMETRES))
  raise_problems(problems, f"{flag}: depth maps are absent")
  if not pairs:
    raise ConfigError(
        f"{flag}: {str(folder)!r} has neither SCENE/*.h5 nor SCENE/rgb_*.jpg "
        "with SCENE/sync_depth_*.png.")
  if any(pair.image.suffix == ".h5" for pair in pairs):
    _h5py()
  return pairs


def choose_holdout(scenes: Sequence[str], count: int) -> list[str]:
  """`count` scenes chosen by a hash of their names, the same on all machines.

  Parts of one recording, as basement_0001a and basement_0001b, show the same
  room and are held out together or not at all.

  Raises:
    ConfigError: when that leaves none to train on, or does not add up.
  """
  rooms = collections.defaultdict(list)
  for scene in set(scenes):
    rooms[re.sub(r"(?<=\d)[a-z]$", "", scene)].append(scene)
  if not 0 <= count < len(set(scenes)):
    raise ConfigError(
        f"--holdout_scenes: {count}; allowed: 0 to {len(set(scenes)) - 1}, as "
        f"there are {len(set(scenes))} scenes.")
  chosen = []
  for room in sorted(rooms, key=_hash):
    if len(chosen) + len(rooms[room]) <= count:
      chosen += rooms[room]
  if len(chosen) != count:
    raise ConfigError(f"--holdout_scenes: {count} cannot be reached without "
                      "parting one room's recordings; choose another number.")
  return sorted(chosen)


def _hash(text: str) -> bytes:
  return hashlib.sha256(text.encode()).digest()


def split_scenes(pairs: Sequence[Pair], count: int
                 ) -> dict[str, Sequence[Pair]]:
  """All frames of `count` scenes as `holdout`, the others as `train`.

  Raises:
    ConfigError: when frames have no scene, and see `choose_holdout`.
  """
  if not count:
    return {"train": pairs}
  loose = [pair for pair in pairs if not pair.scene]
  if loose:
    raise ConfigError(
        f"--train: {len(loose)} frames, like {loose[0].name!r}, lie in no "
        "folder of a scene, so no scene can be held out. Sort them, or give "
        "--holdout_scenes 0.")
  held = set(choose_holdout([pair.scene for pair in pairs], count))
  return {"train": [pair for pair in pairs if pair.scene not in held],
          "holdout": [pair for pair in pairs if pair.scene in held]}


def check_apart(scenes: dict[str, Sequence[str]]) -> None:
  """ConfigError when two splits share a scene."""
  raise_problems(
      [f"{scene}: in {first} and in {second}."
       for first in scenes for second in scenes if first < second
       for scene in sorted(set(scenes[first]) & set(scenes[second]))],
      "Scenes in more than one split")


@functools.cache
def make_features() -> Any:
  """image, image/id, file_name, scene, depth float32 [H, W, 1]."""
  import tensorflow_datasets as tfds
  return tfds.features.FeaturesDict({
      "image": tfds.features.Image(),
      "image/id": np.int64,
      "file_name": tfds.features.Text(),
      "scene": tfds.features.Text(),
      "depth": tfds.features.Tensor(
          shape=(None, None, 1), dtype=np.float32, encoding="zlib"),
  })


def make_example(position: int, pair: Pair) -> dict[str, Any]:
  """What the features hold."""
  return {"image": _read_image(pair), "image/id": position,
          "file_name": pair.name, "scene": pair.scene,
          "depth": read_depth(pair)[..., None]}
