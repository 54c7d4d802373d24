"""Folders of photographs: found, checked, as TFDS examples.

Bytes are copied as they are wherever `decode` (TensorFlow) and Pillow read the
same from them: JPEG and PNG with 8 bits, grey or coloured. The rest is written
anew in RGB: CMYK, other formats, and pictures that EXIF says to turn. 16-bit
and floating-point pictures are refused: what is white in them is not known.
"""

import collections
import dataclasses
import io
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tools.passes import raise_problems
from uvim.registry import ConfigError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_FORMATS = ("JPEG", "MPO", "PNG")  # MPO: a JPEG with more pictures behind it.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_ORIENTATION = 274  # EXIF tag; 1 is upright.


@dataclasses.dataclass(frozen=True)
class Photo:
  """A photograph: where it is, what it is called, the name of its class."""
  path: pathlib.Path
  name: str
  label: str | None


def check(path: pathlib.Path, name: str) -> list[str]:
  """Problems of one picture: unreadable, cut short, not 8 bits."""
  try:
    with Image.open(path) as picture:
      if picture.mode not in _MODES:
        return [f"{name}: its mode is {picture.mode}; photographs need 8 bits "
                "per channel (a depth map?)."]
      # Of a JPEG only an eighth of the pixels, but all its bytes are looked
      # at, so one that ends early is found.
      picture.draft(None, tuple(max(1, n // 8) for n in picture.size))
      picture.load()
  # Pillow reports broken files with many types: OSError, ValueError,
  # SyntaxError, DecompressionBombError, struct.error, ….
  except Exception as error:  # noqa: BLE001
    return [f"{name}: cannot be read: {error}."]
  return []


def encoded(path: pathlib.Path, *, upright: bool = True) -> bytes:
  """The file's bytes, or the picture written anew (see above).

  Args:
    path: of a picture that `check` found no problem with.
    upright: turns a picture as EXIF says. Off where a depth map was drawn on
      the stored pixels.
  """
  with Image.open(path) as picture:
    kind = picture.format
    turned = upright and picture.getexif().get(_ORIENTATION) in range(2, 9)
    if kind in _FORMATS and picture.mode != "CMYK" and not turned:
      return path.read_bytes()
    out = ImageOps.exif_transpose(picture) if turned else picture
    # Without the profile: that of CMYK does not fit RGB.
    out = Image.fromarray(np.asarray(out.convert("RGB")))
  file = io.BytesIO()
  if kind in ("JPEG", "MPO"):
    out.save(file, "JPEG", quality=95, subsampling=0)
  else:
    out.save(file, "PNG")
  return file.getvalue()


def list_files(folder: pathlib.Path, flag: str,
               suffixes: Sequence[str] = SUFFIXES) -> list[pathlib.Path]:
  """The files below a folder that have one of these suffixes, sorted.

  Raises:
    ConfigError: when there is no such folder.
  """
  if not folder.is_dir():
    raise ConfigError(f"{flag}: {str(folder)!r} is not a folder.")
  return sorted(path for path in folder.rglob("*")
                if path.suffix.lower() in suffixes
                and not path.name.startswith("."))


def find(folders: Sequence[pathlib.Path]) -> list[Photo]:
  """The photographs below some folders.

  They have labels when each lies in a folder of its class, FOLDER/CLASS/FILE.
  They are called by their file names, as TFDS's imagenet2012 calls them, or,
  where two share one, by their paths below the folder.

  Raises:
    ConfigError: when there are none, or two under one path.
  """
  paths = {}
  for folder in folders:
    for path in list_files(folder, "--images"):
      short = path.relative_to(folder)
      if short in paths:
        raise ConfigError(f"--images: {str(short)!r} is in {str(folder)!r} and "
                          "in an earlier folder.")
      paths[short] = path
  if not paths:
    raise ConfigError(
        f"--images: no picture below {', '.join(map(str, folders))}; looked "
        f"for {', '.join(SUFFIXES)}.")
  classes = all(len(short.parts) == 2 for short in paths)
  unique = len({short.name for short in paths}) == len(paths)
  return [Photo(path, short.name if unique else short.as_posix(),
                short.parts[0] if classes else None)
          for short, path in paths.items()]


def pick(photos: Sequence[Photo], list_path: pathlib.Path) -> list[Photo]:
  """The photographs a file names, one per line, in its order.

  Raises:
    ConfigError: for names that no photograph has, or two, or that repeat.
  """
  try:
    names = list(filter(None, map(str.strip,
                                  list_path.read_text().splitlines())))
  except OSError as error:
    raise ConfigError(f"--list: cannot read {str(list_path)!r}: "
                      f"{error.strerror}.") from error
  by_name = collections.defaultdict(dict)
  for photo in photos:
    for name in (photo.name, pathlib.PurePath(photo.name).name):
      by_name[name][photo.path] = photo
  problems = [f"{name}: {len(by_name[name]) or 'no'} photographs have this "
              "name." for name in names if len(by_name[name]) != 1]
  problems += [f"{name}: named {count} times." for name, count in
               collections.Counter(names).items() if count > 1]
  raise_problems(problems, f"--list {str(list_path)!r}")
  if not names:
    raise ConfigError(f"--list: {str(list_path)!r} names no file.")
  return [next(iter(by_name[name].values())) for name in names]


def make_features(photos: Sequence[Photo]) -> Any:
  """image, image/id, file_name; label where the photographs have classes."""
  import tensorflow_datasets as tfds
  features = {"image": tfds.features.Image(), "image/id": np.int64,
              "file_name": tfds.features.Text()}
  classes = sorted({photo.label for photo in photos} - {None})
  if classes:
    features["label"] = tfds.features.ClassLabel(names=classes)
  return tfds.features.FeaturesDict(features)


def check_fits(features: Any, photos: Sequence[Photo]) -> None:
  """ConfigError when a data set on disk cannot take these photographs."""
  known = ("image", "image/id", "file_name", "label")
  strange = [key for key in features if key not in known]
  if strange or "image" not in features:
    raise ConfigError(
        f"--name: that data set has the features {', '.join(features)}; "
        f"photographs have {', '.join(known)}. Choose another --name.")
  if "label" in features:
    new = {photo.label for photo in photos} - {None}
    raise_problems([f"{name}: not a class of the data set that is there."
                    for name in sorted(new - set(features["label"].names))],
                   "--images")


def make_example(position: int, photo: Photo, features: Any
                 ) -> dict[str, Any]:
  """What the features hold; the label of no class is −1, as in TFDS."""
  example = {"image": encoded(photo.path), "image/id": position,
             "file_name": photo.name,
             "label": -1 if photo.label is None else photo.label}
  return {key: example[key] for key in features}
