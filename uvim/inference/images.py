"""Reads images of any kind from files and arrays, without TensorFlow.

A JPEG gives the same numbers as in an evaluation whose string says
`decode(precise=True)`. Plain `decode` is TensorFlow's faster, coarser way, as
released, and differs by a few levels.

H W pixels · C channels
"""

import contextlib
import os
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from uvim.registry import ConfigError

# Not all that Pillow opens: some formats start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff",
            ".ppm", ".pgm")
MAX_PIXELS = 178_956_970  # 512 MB as RGB; twice the limit of Pillow's warning.
_NAMELESS = "the image"
_ALLOWED_CHANNELS = (1, 3, 4)
# Resized images may leave their range by a rounding error.
_TOLERANCE = 1e-3


def read(image: Any, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
  """An image as [H, W, 3]: uint8, or float32 if it is an array of floats.

  Args:
    image: a path, an open binary file, a PIL image or an array. Files and PIL
      images: `read` applies a rotation from EXIF, makes three equal channels
      of grey, drops transparency, converts CMYK, cuts 16 bits to 8, and takes
      the first frame of an animation. Arrays: [H, W] or [H, W, C] of 1, 3 or
      4 channels. Whole numbers are levels 0..255 (uint16: 0..65535). Floats
      lie in [-1, 1], as models take them.
    max_pixels: a larger one is refused.

  Raises:
    ConfigError: not there, not an image, too large; one line.
  """
  if _is_pil(image):
    return _from_pil(image, _NAMELESS, max_pixels)
  # Arrays of any library. PIL images have `__array__` too.
  if hasattr(image, "__array__"):
    return _from_array(np.asarray(image), max_pixels)
  name = _NAMELESS
  if isinstance(image, (str, os.PathLike)):
    name = os.fspath(image)
  with _opened(image, name) as pil_image:
    return _from_pil(pil_image, name, max_pixels)


def read_all(images: Any) -> list[np.ndarray]:
  """`read` of one image or of each of several.

  An array of rank 4, a list, a tuple or any other iterable means several
  images. Everything else means one.
  """
  if not _is_several(images):
    return [read(images)]
  found = [read(image) for image in images]
  if not found:
    raise ConfigError("No images: the list is empty.")
  return found


def _is_several(images: Any) -> bool:
  if hasattr(images, "ndim"):
    return images.ndim == 4
  is_path = isinstance(images, (str, bytes, os.PathLike))
  is_file = hasattr(images, "read")
  return not (is_path or is_file or _is_pil(images))


def _is_pil(image: Any) -> bool:
  """Whether it is a PIL image; needs no import of PIL."""
  return hasattr(image, "convert")


# ── From PIL ────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _opened(file: Any, name: str) -> Iterator[Any]:
  from PIL import Image, UnidentifiedImageError
  try:
    with warnings.catch_warnings():
      # Pillow warns of large images. Our own limit is checked before any
      # pixel is decoded.
      warnings.simplefilter("ignore")
      pil_image = Image.open(file, formats=FORMATS)
  except FileNotFoundError:
    raise ConfigError(f"{name}: there is no such file.") from None
  except UnidentifiedImageError:
    raise ConfigError(f"{name}: not an image; allowed: "
                      f"{', '.join(FORMATS)}.") from None
  except Exception as error:  # Each decoder has its own for corrupt data.
    raise ConfigError(f"{name}: cannot be read: {_reason(error)}.") from error
  # Decoding is lazy: the file stays open until the caller is done.
  with pil_image:
    yield pil_image


def _from_pil(pil_image: Any, name: str, max_pixels: int) -> np.ndarray:
  """`read` of a PIL image, whose pixels are decoded here."""
  from PIL import ImageOps
  # The size is in the header: a huge image is refused before it is decoded.
  width, height = pil_image.size
  if width * height > max_pixels:
    raise ConfigError(f"{name}: {width}×{height} pixels are more than "
                      f"{max_pixels:,}; make it smaller.")
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # Of broken EXIF and the like.
      # Cameras store the sensor's rows and note in EXIF how the image was held.
      upright = ImageOps.exif_transpose(pil_image)
      return _from_array(_pixels_of(upright), max_pixels)
  except ConfigError as error:
    raise ConfigError(f"{name}: {error}") from error
  except Exception as error:
    raise ConfigError(f"{name}: cannot be read: {_reason(error)}.") from error


def _pixels_of(pil_image: Any) -> np.ndarray:
  """uint8 [H, W, 3] of a PIL image, or uint16 [H, W] if it has 16 bits."""
  if pil_image.mode == "F":
    raise ConfigError("pixels are floats, of which nobody knows the range; "
                      "save it as 8 or 16 bits.")
  # Pillow has several modes for 16 bits: I, I;16, I;16B.
  if pil_image.mode.startswith("I"):
    # Mode I has 32 bits. A cast of larger values would wrap around.
    return np.clip(np.asarray(pil_image), 0, 65535).astype(np.uint16)
  if pil_image.mode == "P":
    # A palette may hold transparency as bytes: RGB alone would warn of it.
    pil_image = pil_image.convert("RGBA")
  return np.asarray(pil_image.convert("RGB"))


def _reason(error: Exception) -> str:
  """What went wrong, in one line."""
  system_text = getattr(error, "strerror", None)
  text = system_text or str(error) or type(error).__name__
  return " ".join(text.split()).rstrip(".")


# ── From arrays ─────────────────────────────────────────────────────────────


def _from_array(values: np.ndarray, max_pixels: int) -> np.ndarray:
  """`read` of an array."""
  if values.ndim == 2:
    values = values[..., None]
  _check_shape(values.shape, max_pixels)
  height, width = values.shape[:2]
  # Drops transparency, and makes three channels of one.
  image_HWC = np.broadcast_to(values[..., :3], (height, width, 3))
  if image_HWC.dtype == np.uint16:
    # The upper 8 of the 16 bits.
    return (image_HWC >> 8).astype(np.uint8)
  if image_HWC.dtype == bool:
    return np.uint8(255) * image_HWC
  _check_range(image_HWC)
  is_float = image_HWC.dtype.kind == "f"
  return image_HWC.astype(np.float32 if is_float else np.uint8)


def _check_shape(shape: Sequence[int], max_pixels: int) -> None:
  # Any 0 in the shape means no pixel at all.
  is_image = (len(shape) == 3 and shape[-1] in _ALLOWED_CHANNELS
              and 0 not in shape)
  if not is_image:
    raise ConfigError(f"An array of shape {shape} is no image; allowed: "
                      "[H, W] and [H, W, C] with 1, 3 or 4 channels.")
  height, width = shape[:2]
  if height * width > max_pixels:
    raise ConfigError(f"{width}×{height} pixels are more than "
                      f"{max_pixels:,}; make it smaller.")


def _check_range(values: np.ndarray) -> None:
  kind = values.dtype.kind
  lowest, highest = (-1, 1) if kind == "f" else (0, 255)
  fits = kind in "iuf"
  if fits:
    # Not `min < lowest`: NaN must fail too.
    fits = (lowest - _TOLERANCE <= values.min()
            and values.max() <= highest + _TOLERANCE)
  if not fits:
    raise ConfigError(
        f"An array of {values.dtype} from {values.min()} to {values.max()} is "
        "no image; allowed: whole numbers in 0..255, floats in [-1, 1].")


# ── Files and sizes ─────────────────────────────────────────────────────────


def find(paths: Sequence[str | os.PathLike]) -> list[pathlib.Path]:
  """The images that these files and folders (searched through) hold.

  Raises:
    ConfigError: nothing there, or a folder without an image.
  """
  found = []
  for path in map(pathlib.Path, paths):
    if not path.exists():
      raise ConfigError(f"{path}: there is no such file or folder.")
    if path.is_dir():
      found += _find_in_folder(path)
    else:
      found.append(path)
  # A file may be named and lie in a named folder too. A dict keeps the order.
  return list(dict.fromkeys(found))


def _find_in_folder(folder: pathlib.Path) -> list[pathlib.Path]:
  # Sorted: the order of a folder differs between disks.
  found = sorted(path for path in folder.rglob("*")
                 if path.suffix.lower() in SUFFIXES and path.is_file())
  if not found:
    raise ConfigError(f"{folder}: no image in this folder; looked for "
                      f"{', '.join(SUFFIXES)}.")
  return found


def fit(image_HWC: np.ndarray, side: int) -> np.ndarray:
  """uint8 [H, W, 3] with its long side at most `side` pixels, for a look."""
  from PIL import Image
  height, width = image_HWC.shape[:2]
  scale = side / max(height, width)
  if scale >= 1:
    return image_HWC
  # A very thin image keeps at least one pixel.
  new_width = max(1, round(width * scale))
  new_height = max(1, round(height * scale))
  small = Image.fromarray(image_HWC).resize(
      (new_width, new_height), Image.Resampling.BOX)
  return np.asarray(small)
