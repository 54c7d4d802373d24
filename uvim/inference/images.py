"""Photographs as the models see them, read and resized without TensorFlow.

The numbers are those of the preprocessing ops of the evaluation strings
(decode, resize, rgb_to_grayscale_to_rgb, value_range): a photograph gives the
same prediction here as in an evaluation. A JPEG does so where the string says
`decode(precise=True)`: plain `decode` is TensorFlow's faster, coarser way, as
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
MAX_PIXELS = 178_956_970  # 512 MB as RGB; twice what Pillow warns of.
# Of red, green and blue, as tf.image.rgb_to_grayscale has them.
_LUMA = np.array([0.2989, 0.5870, 0.1140], np.float32)


def read(image: Any, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
  """A picture as [H, W, 3]: uint8, or float32 if it is an array of floats.

  Args:
    image: a path, an open binary file, a PIL image or an array. Files and PIL
      images: a rotation noted in EXIF is applied, grey becomes three equal
      channels, transparency is dropped, CMYK converted, 16 bits are cut to 8,
      of an animation the first frame is taken. Arrays: [H, W] or [H, W, C] of
      1, 3 or 4 channels; whole numbers are levels 0..255 (uint16: 0..65535),
      floats lie in [-1, 1], as models take them.
    max_pixels: a larger one is refused.

  Raises:
    ConfigError: not there, not a picture, too large; one line.
  """
  if isinstance(image, np.ndarray) or hasattr(image, "__array__") and not (
      hasattr(image, "convert")):
    return _from_array(np.asarray(image), max_pixels)
  if hasattr(image, "convert"):
    return _from_pil(image, "the picture", max_pixels)
  name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else (
      "the picture")
  with _opened(image, name) as picture:
    return _from_pil(picture, name, max_pixels)


def read_all(images: Any) -> list[np.ndarray]:
  """`read` of one picture or of each of several.

  An array of rank 4, a list, a tuple or any other iterable is several; all
  else is one.
  """
  several = (images.ndim == 4 if hasattr(images, "ndim") else
             not isinstance(images, (str, bytes, os.PathLike)) and not
             hasattr(images, "convert") and not hasattr(images, "read"))
  photos = [read(x) for x in images] if several else [read(images)]
  if not photos:
    raise ConfigError("No images: the list is empty.")
  return photos


@contextlib.contextmanager
def _opened(file, name: str) -> Iterator[Any]:
  from PIL import Image, UnidentifiedImageError
  try:
    with warnings.catch_warnings():
      # Its limit, or our own, which is checked before anything is decoded.
      warnings.simplefilter("ignore")
      picture = Image.open(file, formats=FORMATS)
  except FileNotFoundError:
    raise ConfigError(f"{name}: there is no such file.") from None
  except UnidentifiedImageError:
    raise ConfigError(f"{name}: not a picture; allowed: "
                      f"{', '.join(FORMATS)}.") from None
  except Exception as e:  # Of nonsense, every decoder raises its own.
    raise ConfigError(f"{name}: cannot be read: {_reason(e)}.") from e
  with picture:
    yield picture


def _from_pil(picture, name: str, max_pixels: int) -> np.ndarray:
  from PIL import ImageOps
  width, height = picture.size
  if width * height > max_pixels:
    raise ConfigError(f"{name}: {width}×{height} pixels are more than "
                      f"{max_pixels:,}; make it smaller.")
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # Of broken EXIF and the like.
      upright = ImageOps.exif_transpose(picture)
      return _from_array(_to_array(upright), max_pixels)
  except ConfigError as e:
    raise ConfigError(f"{name}: {e}") from e
  except Exception as e:
    raise ConfigError(f"{name}: cannot be read: {_reason(e)}.") from e


def _to_array(picture) -> np.ndarray:
  if picture.mode == "F":
    raise ConfigError("pixels are floats, of which nobody knows the range; "
                      "save it as 8 or 16 bits.")
  if picture.mode.startswith("I"):  # 16 bits, in one of Pillow's ways.
    return np.clip(np.asarray(picture), 0, 65535).astype(np.uint16)
  if picture.mode == "P":  # A palette may hold transparency as bytes.
    picture = picture.convert("RGBA")
  return np.asarray(picture.convert("RGB"))


def _from_array(x: np.ndarray, max_pixels: int) -> np.ndarray:
  x = x[..., None] if x.ndim == 2 else x
  if x.ndim != 3 or x.shape[-1] not in (1, 3, 4) or not x.size:
    raise ConfigError(f"An array of shape {x.shape} is no picture; allowed: "
                      "[H, W] and [H, W, C] with 1, 3 or 4 channels.")
  if x.shape[0] * x.shape[1] > max_pixels:
    raise ConfigError(f"{x.shape[1]}×{x.shape[0]} pixels are more than "
                      f"{max_pixels:,}; make it smaller.")
  x = np.broadcast_to(x[..., :3], (*x.shape[:2], 3))
  if x.dtype == np.uint16:
    return (x >> 8).astype(np.uint8)
  if x.dtype == bool:
    return np.uint8(255) * x
  low, high = (-1, 1) if x.dtype.kind == "f" else (0, 255)
  # Not `min < low`: NaN must fail too.
  if x.dtype.kind not in "iuf" or not (
      low - 1e-3 <= x.min() and x.max() <= high + 1e-3):
    raise ConfigError(
        f"An array of {x.dtype} from {x.min()} to {x.max()} is no picture; "
        "allowed: whole numbers in 0..255, floats in [-1, 1].")
  return x.astype(np.float32 if x.dtype.kind == "f" else np.uint8)


def _reason(error: Exception) -> str:
  text = getattr(error, "strerror", None) or str(error) or (
      type(error).__name__)
  return " ".join(text.split()).rstrip(".")


def find(paths: Sequence[str | os.PathLike]) -> list[pathlib.Path]:
  """The pictures that these files and folders (searched through) hold.

  Raises:
    ConfigError: nothing there, or a folder without a picture.
  """
  out = []
  for given in map(pathlib.Path, paths):
    if not given.exists():
      raise ConfigError(f"{given}: there is no such file or folder.")
    found = [given]
    if given.is_dir():
      found = sorted(p for p in given.rglob("*")
                     if p.suffix.lower() in SUFFIXES and p.is_file())
      if not found:
        raise ConfigError(f"{given}: no picture in this folder; looked for "
                          f"{', '.join(SUFFIXES)}.")
    out += found
  return list(dict.fromkeys(out))


def to_model(photo: np.ndarray, size: tuple[int, int], *,
             antialias: bool = False, grey: bool = False) -> np.ndarray:
  """float32 [*size, 3] in [-1, 1] of what `read` gives, whatever its aspect.

  Args:
    photo: [H, W, 3].
    size: height and width.
    antialias: as the run's preprocessing had it.
    grey: only the luma, in all three channels (colorization).
  """
  x = resize(photo, size, antialias=antialias)
  if grey:
    x = luma(x)
  if x.dtype == np.uint8:
    x = np.float32(-1) + x.astype(np.float32) / np.float32(255) * np.float32(2)
  return x


def luma(x: np.ndarray) -> np.ndarray:
  """The grey level in all three channels; keeps dtype and range."""
  if x.dtype == np.uint8:
    # 255.5 and a cut: how TensorFlow comes back to 8 bits.
    grey = x.astype(np.float32) * np.float32(1 / 255) @ _LUMA
    grey = (grey * np.float32(255.5)).astype(np.uint8)
  else:
    grey = x @ _LUMA
  return np.repeat(grey[..., None], 3, -1)


def resize(x: np.ndarray, size: tuple[int, int], *,
           antialias: bool = False) -> np.ndarray:
  """Bilinear resize of [H, W, C], as the op of that name.

  Whole numbers are cut, not rounded, as in the released implementation.
  """
  size = tuple(size)
  if x.shape[:2] == size:
    return x
  out = _shrink(x, size) if antialias else _interpolate(x, size)
  return out.astype(x.dtype)


def _interpolate(x, size) -> np.ndarray:
  """Between the four pixels around each new centre; float32."""
  (top, bottom, dy), (left, right, dx) = (
      _neighbours(old, new) for old, new in zip(x.shape, size, strict=False))
  dy, dx = dy[:, None, None], dx[None, :, None]

  def row(rows):
    first = x[rows[:, None], left].astype(np.float32)
    return first + (x[rows[:, None], right].astype(np.float32) - first) * dx

  upper = row(top)
  return upper + (row(bottom) - upper) * dy


def _neighbours(old: int, new: int):
  """(lower index, upper index, share of the upper), each [new]."""
  scale = np.float32(old) / np.float32(new)
  place = (np.arange(new, dtype=np.float32) + np.float32(.5)) * scale
  place -= np.float32(.5)
  lower = np.floor(place)
  upper = np.minimum(np.ceil(place), old - 1).astype(np.int64)
  return np.maximum(lower, 0).astype(np.int64), upper, place - lower


def _shrink(x, size) -> np.ndarray:
  """With a kernel as wide as the step between new centres; float32."""
  rows = _weighted_rows(x, size[0])
  return _weighted_rows(rows.swapaxes(0, 1), size[1]).swapaxes(0, 1)


def _weighted_rows(x, new: int) -> np.ndarray:
  """One output row at a time: a large photograph never becomes floats."""
  old = len(x)
  if old == new:
    return x.astype(np.float32)
  step = np.float32(1) / (np.float32(new) / np.float32(old))
  width = max(step, np.float32(1))
  out = np.empty((new, *x.shape[1:]), np.float32)
  for i in range(new):
    centre = np.float32(i + .5) * step
    start = int(np.clip(np.ceil(centre - width - np.float32(.5)), 0, old - 1))
    end = int(np.clip(np.floor(centre + width - np.float32(.5)), 0, old - 1))
    place = np.arange(start, end + 1, dtype=np.float32) + np.float32(.5)
    weight = np.maximum(0, 1 - np.abs(place - centre) / width)
    weight = (weight / weight.sum()).astype(np.float32)
    out[i] = np.tensordot(weight, x[start:end + 1].astype(np.float32), 1)
  return out


def resize_nearest(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """[H, W, ...] by the pixel under each new centre; no new values.

  In integers, so that rounding cannot move a border: as the evaluators do.
  """
  if x.shape[:2] == tuple(size):
    return x
  rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new)
                   for old, new in zip(x.shape[:2], size, strict=True))
  return x.take(rows, axis=0).take(columns, axis=1)


def resize_colors(x: np.ndarray, photo: np.ndarray, *,
                  full_luma: bool = False) -> np.ndarray:
  """Predicted colours [h, w, 3] in [-1, 1] at the size of the photograph.

  Args:
    x: float32.
    photo: what `read` gave.
    full_luma: takes the luma from the photograph: sharp, though the model saw
      less, and only the colours are the model's.
  """
  out = resize(x, photo.shape[:2])
  if full_luma:
    levels = photo.astype(np.float32)
    if photo.dtype == np.uint8:
      levels = levels / np.float32(127.5) - 1
    out = out + ((levels - out) @ _LUMA)[..., None] / _LUMA.sum()
  return np.clip(out, -1, 1)


def fit(picture: np.ndarray, side: int) -> np.ndarray:
  """uint8 [H, W, 3] with its long side at most `side` pixels, for a look."""
  from PIL import Image
  height, width = picture.shape[:2]
  scale = side / max(height, width)
  if scale >= 1:
    return picture
  small = Image.fromarray(picture).resize(
      (max(1, round(width * scale)), max(1, round(height * scale))),
      Image.Resampling.BOX)
  return np.asarray(small)


def to_bytes(photo: np.ndarray) -> np.ndarray:
  """uint8 [H, W, 3] of what `read` gives."""
  if photo.dtype == np.uint8:
    return photo
  return np.uint8(np.clip(np.rint(photo * 127.5 + 127.5), 0, 255))
