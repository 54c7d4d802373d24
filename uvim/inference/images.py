"""Reads images of any kind from files and arrays, without TensorFlow.

A JPEG gives the same numbers as in an evaluation whose string says
`decode(precise=True)`. Plain `decode` is TensorFlow's faster, coarser way, as
released, and differs by a few levels.

At its peak, `read` of a file takes 7 bytes for each pixel of an RGB image: 4
for Pillow's own copy, 3 for the array.

H W pixels · C channels
"""

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from uvim import fields, finder, opener
from uvim.registry import ConfigError, one_line

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp",
            ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
# The range of floats: the lowest and the highest value there can be.
Range = tuple[float, float]
MODEL_RANGE = (-1.0, 1.0)
_NAMELESS = "the image"
_ALLOWED = ("a path, an open binary file, a PIL image, an array, or several of "
            "these in a list")
_ALLOWED_CHANNELS = (1, 3, 4)
# Resized images may leave their range by a rounding error.
_TOLERANCE = 1e-3
# Floats that reach below this cannot be meant as [0, 1]. Zero itself would not
# do: a bicubic resize of [0, 1] goes a little below it.
_CLEARLY_NEGATIVE = -0.25
# Pixels that are converted at once.
_STRIP_PIXELS = 2**20


def read(
    image: Any,
    *,
    value_range: Range | None = None,
    name: str = _NAMELESS,
    max_pixels: int | None = opener.MAX_PIXELS,
    smallest_HW: tuple[int, int] | None = None,
    upright: bool = True,
) -> np.ndarray:
  """An image as [H, W, 3]: uint8, or float32 if it is an array of floats.

  Args:
    image: a path, an open binary file, a PIL image or an array. Files and PIL
      images: `read` makes three equal channels of grey, drops transparency,
      converts CMYK, cuts 16 bits to 8, and takes the first frame of an
      animation. Arrays: [H, W] or [H, W, C] of 1, 3 or 4 channels. Whole
      numbers are levels 0..255 (uint16: 0..65535).
    value_range: of floats: (0, 1), (-1, 1) or any other; they become [-1, 1],
      as models take them. None: they are in [-1, 1] already, and some of them
      clearly below 0. What has no such value may as well be in [0, 1], and is
      refused.
    name: starts each message; a path has its own.
    max_pixels: a larger file or PIL image is refused; None: no limit.
    smallest_HW: lets a JPEG be decoded at a reduced size that is no smaller.
    upright: whether a rotation from EXIF is applied. An image of a data set
      must keep its pixels where its labels have them.

  Raises:
    ConfigError: not there, not an image, too large; one line.
  """
  check_value_range(value_range)
  # A PIL image has `__array__` too, so it goes first.
  if not _is_pil(image) and hasattr(image, "__array__"):
    return _from_array(_as_array(image, name), value_range, name)
  if isinstance(image, (str, os.PathLike)):
    name = one_line(os.fsdecode(image)) or "''"
  elif not _is_pil(image) and not hasattr(image, "read"):
    raise ConfigError(f"{name}: {_kind(image)} is no image; allowed: "
                      f"{_ALLOWED}.")
  with opener.open_image(image, name, max_pixels=max_pixels,
                         smallest_HW=smallest_HW) as pil_image:
    if upright:
      pil_image = _upright(pil_image)
    return _from_pil(pil_image)


def read_size(
    path: str | os.PathLike, *, max_pixels: int) -> tuple[int, int]:
  """Width and height of an image file; its pixels are not read.

  Raises:
    ConfigError: not there, not an image, too large; one line.
  """
  name = str(path)
  with opener.open_image(path, name, max_pixels=max_pixels) as image:
    return image.size


def read_all(
    images: Any,
    *,
    value_range: Range | None = None,
) -> list[np.ndarray]:
  """`read` of one image or of each of several.

  An array of rank 4, a list, a tuple or any other iterable means several
  images. Everything else means one.
  """
  if not _is_several(images):
    return [read(images, value_range=value_range)]
  found = []
  for i, image in enumerate(images):
    found.append(read(image, value_range=value_range, name=f"images[{i}]"))
  if not found:
    raise ConfigError("No images: the list is empty.")
  return found


def _is_several(images: Any) -> bool:
  if hasattr(images, "ndim"):
    return images.ndim == 4
  # A mapping would give its keys, and an array of objects has `ndim`.
  is_one = isinstance(images, (str, bytes, bytearray, os.PathLike, Mapping))
  is_file = hasattr(images, "read")
  if is_one or is_file or _is_pil(images):
    return False
  return isinstance(images, Iterable)


def check_value_range(value_range: Any) -> None:
  """Raises a ConfigError unless it is None or two numbers, the lower first."""
  if value_range is None:
    return
  is_pair = isinstance(value_range, (tuple, list)) and len(value_range) == 2
  if is_pair and all(map(fields.is_number, value_range)):
    low, high = value_range
    if low < high:
      return
  raise ConfigError(f"value_range = {value_range!r}; it must be None or two "
                    "numbers, the lower first, as in (0, 1).")


def _is_pil(image: Any) -> bool:
  """Whether it is a PIL image; needs no import of PIL."""
  return hasattr(image, "convert") and hasattr(image, "getbands")


def _kind(value: Any) -> str:
  """What the user gave, in a few words."""
  return "None" if value is None else f"a value of type {type(value).__name__}"


# ── From PIL ────────────────────────────────────────────────────────────────


def _upright(pil_image: Any) -> Any:
  """The image as the camera was held; EXIF tells."""
  from PIL import ExifTags, ImageOps
  try:
    # Most images are upright, and `exif_transpose` would copy them.
    orientation = pil_image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation == 1:
      return pil_image
    pil_image.load()
    return ImageOps.exif_transpose(pil_image)
  # Damaged pixels. `load` above raises it, so that it is told.
  except OSError:
    raise
  # Damaged EXIF of an image that is whole: it stays as it is stored.
  except Exception:  # noqa: BLE001
    return pil_image


def _from_pil(pil_image: Any) -> np.ndarray:
  """uint8 [H, W, 3] of a PIL image, whose pixels are decoded here."""
  pil_image.load()
  _check_mode(pil_image)
  width, height = pil_image.size
  image_HWC = np.empty((height, width, 3), np.uint8)
  # Strip by strip: a conversion of the whole image would be one more copy.
  num_rows = max(1, _STRIP_PIXELS // width)
  for top in range(0, height, num_rows):
    bottom = min(top + num_rows, height)
    strip = pil_image.crop((0, top, width, bottom))
    image_HWC[top:bottom] = _levels_of(strip)
  return image_HWC


def _check_mode(pil_image: Any) -> None:
  """Raises a ConfigError if nobody knows what the pixels mean."""
  if 0 in pil_image.size:
    raise ConfigError("it has no pixel.")
  if pil_image.mode == "F":
    raise ConfigError("pixels are floats, of which nobody knows the range; "
                      "save it as 8 or 16 bits.")
  # Mode I has 32 bits, though formats use it for 16.
  if pil_image.mode == "I":
    _check_16_bits(*pil_image.getextrema())


def _levels_of(strip: Any) -> np.ndarray:
  """uint8 [h, W, 3], or [h, W, 1] of grey with 16 bits."""
  # Pillow has several modes for 16 bits: I, I;16, I;16B.
  if strip.mode.startswith("I"):
    values_HW1 = np.asarray(strip)[..., None]
    return (values_HW1 >> 8).astype(np.uint8)
  if strip.mode == "P":
    # A palette may hold transparency as bytes: RGB alone would warn of it.
    strip = strip.convert("RGBA")
  if strip.mode != "RGB":
    strip = strip.convert("RGB")
  return np.asarray(strip)


# ── From arrays ─────────────────────────────────────────────────────────────


def _as_array(image: Any, name: str) -> np.ndarray:
  """The numpy array of an array of any library."""
  if np.ma.is_masked(image):
    raise ConfigError(f"{name}: a masked array; fill it first: .filled(0).")
  try:
    return np.asarray(image)
  # Each library has its own reasons: the array is on another device, has a
  # gradient, or a dtype that numpy lacks.
  except Exception as error:
    reason = " ".join(str(error).split()).rstrip(".")
    raise ConfigError(f"{name}: no array can be made of {_kind(image)}: "
                      f"{reason}.") from error


def _from_array(
    values: np.ndarray,
    value_range: Range | None,
    name: str,
) -> np.ndarray:
  """`read` of an array."""
  if values.ndim == 2:
    values = values[..., None]
  try:
    _check_shape(values.shape)
    # Transparency is dropped.
    return _three_channels(values[..., :3], value_range)
  except ConfigError as error:
    raise ConfigError(f"{name}: {error}") from None


def _check_shape(shape: Sequence[int]) -> None:
  # Any 0 in the shape means no pixel at all.
  is_image = (len(shape) == 3 and shape[-1] in _ALLOWED_CHANNELS
              and 0 not in shape)
  if is_image:
    return
  hint = ""
  if len(shape) == 3 and shape[0] in _ALLOWED_CHANNELS:
    hint = " Channels come last: .transpose(1, 2, 0)."
  raise ConfigError(f"an array of shape {tuple(shape)} is no image; allowed: "
                    f"[H, W] and [H, W, C] with 1, 3 or 4 channels.{hint}")


def _three_channels(
    values: np.ndarray,
    value_range: Range | None,
) -> np.ndarray:
  """[H, W, 3] of [H, W, 1 or 3]: a new array, and no copy besides."""
  height, width = values.shape[:2]
  is_float = values.dtype.kind == "f"
  image_HWC = np.empty((height, width, 3),
                       np.float32 if is_float else np.uint8)
  if is_float:
    low, high = value_range or MODEL_RANGE
    _check_floats(values, low, high, is_known=value_range is not None)
    np.copyto(image_HWC, values, casting="unsafe")
    _to_model_range(image_HWC, low, high)
  elif values.dtype == bool:
    np.multiply(values, 255, out=image_HWC, casting="unsafe")
  elif values.dtype == np.uint16:
    _check_16_bits(values.min(), values.max())
    # The upper 8 of the 16 bits.
    np.right_shift(values, 8, out=image_HWC, casting="unsafe")
  else:
    _check_levels(values)
    np.copyto(image_HWC, values, casting="unsafe")
  return image_HWC


def _to_model_range(image_HWC: np.ndarray, low: float, high: float) -> None:
  """Maps [low, high] to [-1, 1] in place."""
  # What is in the models' range already keeps its bits.
  if (low, high) == MODEL_RANGE:
    return
  image_HWC -= low
  image_HWC *= 2 / (high - low)
  image_HWC -= 1


def _check_floats(
    values: np.ndarray,
    low: float,
    high: float,
    *,
    is_known: bool,
) -> None:
  """Raises a ConfigError for floats out of range, or of an unknown one."""
  lowest = values.min()
  highest = values.max()
  slack = _TOLERANCE * (high - low) / 2
  # Not `lowest < low`: NaN must fail too.
  if not (low - slack <= lowest and highest <= high + slack):
    allowed = f"floats in [{low:g}, {high:g}]"
    if not is_known:
      allowed += ", or another value_range such as (0, 1) or (0, 255)"
    raise _wrong_values(values, allowed)
  if not is_known and lowest > _CLEARLY_NEGATIVE:
    raise ConfigError(
        f"floats from {lowest:.3g} to {highest:.3g} may be meant as [0, 1] or "
        "as [-1, 1]: say value_range=(0, 1) or value_range=(-1, 1).")


def _check_16_bits(lowest: int, highest: int) -> None:
  """Raises a ConfigError for what can hardly be an image of 16 bits."""
  if lowest < 0 or highest > 65535:
    raise ConfigError(f"whole numbers from {lowest} to {highest}; allowed: "
                      "0..65535.")
  # All of it would become black.
  if 0 < highest <= 255:
    raise ConfigError(f"16 bits, but no value above {highest}; if these are "
                      "levels 0..255, make them uint8.")


def _check_levels(values: np.ndarray) -> None:
  allowed = "whole numbers in 0..255, floats in [-1, 1]"
  # Texts, dates and objects may have no order, so they have no minimum.
  if values.dtype.kind not in "iu":
    raise ConfigError(f"an array of {values.dtype} is no image; allowed: "
                      f"{allowed}.")
  if values.min() < 0 or values.max() > 255:
    raise _wrong_values(values, allowed)


def _wrong_values(values: np.ndarray, allowed: str) -> ConfigError:
  return ConfigError(
      f"an array of {values.dtype} from {values.min():.6g} to "
      f"{values.max():.6g} is no image; allowed: {allowed}.")


# ── Files and sizes ─────────────────────────────────────────────────────────


def find(paths: Sequence[str | os.PathLike]) -> list[pathlib.Path]:
  """The images that these files and folders (searched through) hold.

  Raises:
    ConfigError: nothing there, a pipe or a device, or a folder without an
      image.
  """
  found = []
  for path in map(pathlib.Path, paths):
    if path.is_dir():
      found += _find_in_folder(path)
    else:
      finder.check_file(path, "file or folder")
      found.append(path)
  # A file may be named and lie in a named folder too. A dict keeps the order.
  return list(dict.fromkeys(found))


def _find_in_folder(folder: pathlib.Path) -> list[pathlib.Path]:
  found = finder.find_files(folder, SUFFIXES)
  if not found:
    raise ConfigError(f"{folder}: no image in this folder; looked for "
                      f"{', '.join(SUFFIXES)}.")
  return found


def fit(image_HWC: np.ndarray, side: int) -> np.ndarray:
  """uint8 [H, W, 3] with its long side at most `side` pixels, for a look."""
  from PIL import Image
  size = fitted_size(image_HWC.shape[:2], side)
  if size == image_HWC.shape[:2]:
    return image_HWC
  height, width = size
  small = Image.fromarray(image_HWC).resize(
      (width, height), Image.Resampling.BOX)
  return np.asarray(small)


def fitted_size(size: tuple[int, int], side: int) -> tuple[int, int]:
  """(height, width) of an image, or smaller with a long side of `side`."""
  height, width = size
  scale = side / max(height, width)
  if scale >= 1:
    return height, width
  # A very thin image keeps at least one pixel.
  return max(1, round(height * scale)), max(1, round(width * scale))
