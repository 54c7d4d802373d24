"""Opens image files: the one place that hands bytes to Pillow.

Only a short list of formats is ever tried: Pillow can open many more, and some
of them start other programs (EPS starts Ghostscript). The size stands in the
header, so a huge image is refused before a pixel is decoded.

Layer 0: no imports but the standard library, Pillow and the registry.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from uvim.registry import ConfigError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# A phone takes 12 to 50 million pixels, a large camera 100.
MAX_PIXELS = 100_000_000


@contextlib.contextmanager
def open_image(
    file: Any,
    name: str,
    *,
    formats: Sequence[str] = FORMATS,
    max_pixels: int | None = MAX_PIXELS,
    smallest_HW: tuple[int, int] | None = None,
) -> Iterator[Any]:
  """A PIL image, of which only the header is read yet.

  Errors of the caller's block come out as ConfigErrors too, since pixels are
  decoded there.

  Args:
    file: a path, an open binary file, or a PIL image, which then gets the same
      limit and the same messages.
    name: starts each message.
    formats: of `FORMATS`, those that are allowed in a file.
    max_pixels: an image of more is refused; None: no limit. It counts the
      pixels of the file: a JPEG in several passes keeps all of them in memory,
      even if it is decoded at a reduced size.
    smallest_HW: if given, a format that can (JPEG) decodes at the smallest of
      its reduced sizes that is no smaller than this.

  Raises:
    ConfigError: no such file, not an image of these formats, too large, or
      damaged; one line.
  """
  from PIL import UnidentifiedImageError
  try:
    with warnings.catch_warnings():
      # Pillow warns of large images and of odd EXIF. The limit below is ours.
      warnings.simplefilter("ignore")
      _check_is_file(file)
      with _as_image(file, formats) as image:
        _check_size(image, max_pixels)
        if smallest_HW is not None:
          height, width = smallest_HW
          # Formats that cannot do so leave the size as it is.
          image.draft(None, (width, height))
        yield image
  except ConfigError as error:
    raise ConfigError(f"{name}: {error}") from error
  except FileNotFoundError:
    raise ConfigError(f"{name}: there is no such file.") from None
  except UnidentifiedImageError:
    raise ConfigError(f"{name}: not an image; allowed: "
                      f"{', '.join(formats)}.") from None
  except MemoryError:
    raise ConfigError(f"{name}: too large for the memory.") from None
  # Each decoder has its own errors for damaged data: OSError, ValueError,
  # SyntaxError, struct.error, zlib.error, ….
  except Exception as error:  # noqa: BLE001
    raise ConfigError(f"{name}: cannot be read: {_reason(error)}.") from error


def _as_image(file: Any, formats: Sequence[str]) -> Any:
  """A context manager that gives the PIL image."""
  from PIL import Image
  if isinstance(file, Image.Image):
    # The caller opened it, and closes it.
    return contextlib.nullcontext(file)
  return Image.open(file, formats=list(formats))


def _check_is_file(file: Any) -> None:
  """Refuses what may never end: a pipe or a device."""
  if not isinstance(file, (str, os.PathLike)):
    return
  if os.path.exists(file) and not os.path.isfile(file):
    raise ConfigError("no file, but a folder, pipe or device.")


def _check_size(image: Any, max_pixels: int | None) -> None:
  width, height = image.size
  if max_pixels is not None and width * height > max_pixels:
    raise ConfigError(
        f"{width}×{height} = {width * height:,} pixels are more than "
        f"{max_pixels:,}; make it smaller.")


def _reason(error: Exception) -> str:
  """What went wrong, in one line."""
  system_text = getattr(error, "strerror", None)
  text = system_text or str(error) or type(error).__name__
  return " ".join(text.split()).rstrip(".")
