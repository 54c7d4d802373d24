"""Folders of images: found, checked, encoded, as TFDS examples.

The bytes of a file are copied if `decode` (TensorFlow) and Pillow read the
same pixels from them: JPEG and PNG with 8 bits, gray or in color. Other files
are encoded again in RGB: CMYK, other formats, and images that EXIF says to
rotate. Images with 16 bits or floats are refused, because nobody knows which
value is white.
"""

import collections
import dataclasses
import io
import pathlib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from tools.passes import raise_problems
from tools.prepare import image_metadata
from uvim import files, finder
from uvim.opener import open_image
from uvim.registry import ConfigError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# MPO is a JPEG with further images behind it.
_JPEG_FORMATS = ("JPEG", "MPO")
_COPIED_FORMATS = (*_JPEG_FORMATS, "PNG")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
# EXIF orientations: 1 is upright, 2 to 8 are rotated or mirrored. 5 to 8 also
# swap height and width.
_NOT_UPRIGHT = range(2, 9)
_QUARTER_TURNS = range(5, 9)
_FEATURES = ("image", "image/id", "file_name", "label")
_NO_CLASS = -1  # TFDS's label for an image without a class.

# Where an encoded image lies, or its bytes.
File = pathlib.Path | bytes


@dataclasses.dataclass(frozen=True)
class ImageFile:
  """An image on disk.

  Attributes:
    path: the file.
    name: its name in messages and in the data set.
    label: the name of its class, or None.
  """
  path: pathlib.Path
  name: str
  label: str | None


def name_of(image_file: ImageFile) -> str:
  return image_file.name


def check(file: File, name: str) -> list[str]:
  """Problems of an image: unreadable, cut short, not 8 bits.

  Args:
    file: the image.
    name: its name in the messages.
  """
  try:
    read_size(file, name)
  except ConfigError as error:
    return [str(error)]
  return []


def listed_size(file: File, name: str, *, upright: bool) -> tuple[int, int]:
  """Height and width of an image; reads no more than its header.

  Args:
    file: the image.
    name: starts each message.
    upright: the size after the rotation that EXIF asks for.

  Raises:
    ConfigError: not an image.
  """
  with open_image(_as_file(file), name) as image:
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    if upright and orientation in _QUARTER_TURNS:
      return image.width, image.height
    return image.height, image.width


def read_size(file: File, name: str) -> tuple[int, int]:
  """Height and width of an image; decodes all of it.

  Args:
    file: the image.
    name: starts each message.

  Raises:
    ConfigError: unreadable, cut short, not 8 bits.
  """
  with open_image(_as_file(file), name) as image:
    size_HW = (image.height, image.width)
    if image.mode not in _MODES:
      raise ConfigError(f"its mode is {image.mode}; images need 8 bits per "
                        "channel (a depth map?).")
    is_copied = _is_copied(image)
    # A JPEG is decoded at an eighth of its size. That is quick, and it still
    # reads all bytes, so a file that is cut short is found.
    image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
    image.load()
  if is_copied:
    check_training_decodes(file, name)
  return size_HW


def _as_file(file: File) -> pathlib.Path | io.BytesIO:
  """What Pillow opens."""
  if isinstance(file, bytes):
    return io.BytesIO(file)
  return file


def _read_bytes(file: File) -> bytes:
  if isinstance(file, bytes):
    return file
  return file.read_bytes()


def _is_copied(image: Image.Image) -> bool:
  """Whether training decodes the bytes of the file, unless it is rotated."""
  return image.format in _COPIED_FORMATS and image.mode != "CMYK"


def check_training_decodes(file: File, name: str) -> None:
  """Decodes an image as training will, so that a cut file is found now.

  Pillow takes some of what TensorFlow does not: it does not compare a PNG's
  checksums, for example.

  Args:
    file: the image.
    name: starts the message.

  Raises:
    ConfigError: TensorFlow cannot decode it.
    OSError: it cannot be read.
  """
  import tensorflow as tf
  content = _read_bytes(file)
  try:
    tf.io.decode_image(content, channels=3, expand_animations=False)
  except tf.errors.OpError:
    raise ConfigError(
        f"{name}: the image is cut short, damaged, or of a kind that "
        "TensorFlow does not decode.") from None


def encoded(file: File, *, upright: bool = True) -> bytes:
  """The file's bytes, or the image encoded again; see the module's text.

  Args:
    file: an image that has no problems; see `check`.
    upright: rotates the image as EXIF says. False if a depth map lies on the
      stored pixels.
  """
  name = "image" if isinstance(file, bytes) else str(file)
  with open_image(_as_file(file), name) as image:
    file_format = image.format
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    must_rotate = upright and orientation in _NOT_UPRIGHT
    if _is_copied(image) and not must_rotate:
      return _read_bytes(file)
    if must_rotate:
      rgb_HW3 = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    else:
      rgb_HW3 = np.asarray(image.convert("RGB"))
  # An array has no color profile. That of a CMYK image would not fit RGB.
  new_image = Image.fromarray(rgb_HW3)
  new_file = io.BytesIO()
  if file_format in _JPEG_FORMATS:
    # High quality and full color, since this is the second compression.
    new_image.save(new_file, "JPEG", quality=95, subsampling=0)
  else:
    new_image.save(new_file, "PNG")
  return new_file.getvalue()


def list_files(folder: pathlib.Path, flag: str,
               suffixes: Sequence[str] = SUFFIXES) -> list[pathlib.Path]:
  """The files below a folder by the rule of `uvim.finder`, sorted.

  Args:
    folder: where to look.
    flag: the option that names the folder, for the message.
    suffixes: in small letters, with the dot.

  Raises:
    ConfigError: there is no such folder, or a name is not text.
  """
  if not folder.is_dir():
    raise ConfigError(f"{flag}: {str(folder)!r} is not a folder.")
  paths = finder.find_files(folder, suffixes)
  problems = []
  for path in paths:
    try:
      str(path.relative_to(folder)).encode()
    except UnicodeEncodeError:
      # Linux takes any bytes as a name. A data set holds text.
      problems.append(f"{str(path)!r}: its name is not text in UTF-8; rename "
                      "it.")
  raise_problems(problems, flag)
  return paths


def find(folders: Sequence[pathlib.Path]) -> list[ImageFile]:
  """The images below some folders.

  A folder with `metadata.jsonl` or `metadata.csv` has the images and labels
  that this file names, see `image_metadata`. Other images have classes if each
  of them lies in a folder of its class, as in FOLDER/CLASS/FILE. The names of
  images are their file names, as in TFDS's imagenet2012. If two share one, the
  names are the paths below the folder.

  Raises:
    ConfigError: there are none, two have the same path below their folders, or
      a file of metadata is wrong.
  """
  paths, labels = _list_folders(folders)
  # Each path is CLASS/FILE. A single file elsewhere means: no classes.
  elsewhere = [path for path in paths
               if path not in labels and len(path.parts) != 2]
  file_names = {short_path.name for short_path in paths}
  names_are_unique = len(file_names) == len(paths)
  image_files = []
  for short_path, path in paths.items():
    name = short_path.name if names_are_unique else short_path.as_posix()
    label = None if elsewhere else short_path.parts[0]
    # Those of metadata count, even where there is none.
    label = labels.get(short_path, label)
    image_files.append(ImageFile(path, name, label))
  about_classes = f"{len(_classes(image_files))} classes"
  if elsewhere:
    about_classes = f"no classes, as {str(elsewhere[0])!r} is not CLASS/FILE"
  print(f"Found {len(image_files):,} images with {about_classes}")
  return image_files


def _list_folders(folders: Sequence[pathlib.Path]
                  ) -> tuple[dict[pathlib.Path, pathlib.Path],
                             dict[pathlib.Path, str | None]]:
  """The images by their paths below a folder, and the labels of metadata."""
  paths = {}
  labels = {}
  for folder in folders:
    listed = image_metadata.read(folder)
    if listed is None:
      short_paths = [path.relative_to(folder)
                     for path in list_files(folder, "--images")]
    else:
      short_paths = list(listed)
      labels.update(listed)
    for short_path in short_paths:
      if short_path in paths:
        raise ConfigError(f"--images: {str(short_path)!r} is in "
                          f"{str(folder)!r} and in an earlier folder.")
      paths[short_path] = folder / short_path
  if not paths:
    raise ConfigError(
        f"--images: no image below {', '.join(map(str, folders))}; looked "
        f"for {', '.join(SUFFIXES)}.")
  return paths, labels


def pick(image_files: Sequence[ImageFile], list_path: pathlib.Path
         ) -> list[ImageFile]:
  """The images that a list names, in its order.

  Args:
    image_files: from `find`.
    list_path: a text with one name a line. A name is that of the image or, if
      this is a path, its last part.

  Raises:
    ConfigError: no image or several images have a name, or a name repeats.
  """
  names = [_key(name) for name in _read_names(list_path)]
  by_name = _by_name(image_files)
  chosen = []
  problems = []
  for name in names:
    images_of_name = by_name[name]
    if len(images_of_name) == 1:
      chosen += images_of_name
    else:
      # All wrong names are collected, for one message.
      problems.append(
          f"{name}: {len(images_of_name) or 'no'} images have this name.")
  for image_file, count in collections.Counter(chosen).items():
    if count > 1:
      problems.append(f"{image_file.name}: named {count} times.")
  raise_problems(problems, f"--list {str(list_path)!r}")
  if not names:
    raise ConfigError(f"--list: {str(list_path)!r} names no file.")
  # Each name has one image now.
  return chosen


def _read_names(list_path: pathlib.Path) -> list[str]:
  """The lines of a list that are not empty."""
  text = files.load_text(list_path, "--list")
  lines = [line.strip() for line in text.splitlines()]
  return [line for line in lines if line]


def _by_name(image_files: Iterable[ImageFile]) -> dict[str, list[ImageFile]]:
  """The images of each `_key`; a name that is a path also counts in short."""
  by_key = collections.defaultdict(list)
  for image_file in image_files:
    key = _key(image_file.name)
    by_key[key].append(image_file)
    short_key = pathlib.PurePath(key).name
    # A list may name the file alone.
    if short_key != key:
      by_key[short_key].append(image_file)
  return by_key


def _key(name: str) -> str:
  """One spelling for all ways to write a name.

  Systems differ in how they store é: as one letter, or as e and an accent. A
  list that `find` wrote has ./ before each name.
  """
  composed = unicodedata.normalize("NFC", name)
  return pathlib.PurePath(composed).as_posix()


def make_features(image_files: Iterable[ImageFile]) -> Any:
  """image, image/id, file_name; and label if the images have classes."""
  import tensorflow_datasets as tfds
  features = {
      "image": tfds.features.Image(),
      "image/id": np.int64,
      "file_name": tfds.features.Text(),
  }
  classes = _classes(image_files)
  if classes:
    features["label"] = tfds.features.ClassLabel(names=classes)
  return tfds.features.FeaturesDict(features)


def _classes(image_files: Iterable[ImageFile]) -> list[str]:
  """The names of the classes that occur, sorted."""
  labels = {image_file.label for image_file in image_files}
  return sorted(labels - {None})


def check_fits(features: Any, image_files: Iterable[ImageFile]) -> None:
  """Checks that a data set with these features can take these images.

  Raises:
    ConfigError: it has features that images lack, or lacks their classes.
  """
  foreign = [key for key in features if key not in _FEATURES]
  if foreign or "image" not in features:
    raise ConfigError(
        f"--name: that data set has the features {', '.join(features)}; "
        f"images have {', '.join(_FEATURES)}. Choose another --name.")
  # Then the classes are left out.
  if "label" not in features:
    return
  known = set(features["label"].names)
  problems = []
  # The list of classes is fixed when the first split is written.
  for label in _classes(image_files):
    if label not in known:
      problems.append(f"{label}: not a class of the data set that is there.")
  raise_problems(problems, "--images")


def make_example(position: int, image_file: ImageFile) -> dict[str, Any]:
  """What `make_features` encodes; `image/id` is the position."""
  label = image_file.label
  if label is None:
    label = _NO_CLASS
  return {
      "image": encoded(image_file.path),
      "image/id": position,
      "file_name": image_file.name,
      "label": label,
  }
