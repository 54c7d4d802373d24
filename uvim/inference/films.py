"""Reads the frames of a film or of a folder, and writes films.

Films need the package `av`: pip install '.[video]'. Only a few containers
are ever tried, each by its own reader: others, such as playlists, may name
further files and addresses.

H W pixels of a frame
"""

import fractions
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from uvim import files, finder, opener
from uvim.inference import images
from uvim.registry import ConfigError, one_line

# uint8 [H, W, 3].
Frame = np.ndarray
# Ending of a film → the reader of its container.
READERS = {
    ".mp4": "mov", ".m4v": "mov", ".mov": "mov", ".mkv": "matroska",
    ".webm": "matroska", ".avi": "avi",
}
# Frames a second of a folder, which does not tell.
FOLDER_RATE = 10
_MAX_RATE = 1000
# Most players know no other form of H.264; it has colors for 2 x 2 pixels.
_PIXELS_OF_FILMS = "yuv420p"
# Higher is smaller and worse, of 0..51. 18 can hardly be told from the frames.
_CRF = "18"


class Film(NamedTuple):
  """Frames in the order of time.

  Attributes:
    path: the film or the folder.
    rate: frames a second.
    images: of a folder, name of the frame → its file; None: a film, of which
      nobody knows how many frames it has.
  """
  path: pathlib.Path
  rate: fractions.Fraction
  images: dict[str, pathlib.Path] | None = None


def is_film(path: str | os.PathLike) -> bool:
  """Whether the name is that of a film."""
  return pathlib.Path(path).suffix.lower() in READERS


def import_av() -> Any:
  """The package that reads and writes films.

  Raises:
    ConfigError: it is not installed.
  """
  try:
    import av
  except ImportError:
    raise ConfigError("Films need the package av: pip install '.[video]', "
                      "or pip install av.") from None
  av.logging.set_level(None)
  return av


# ── Reading ─────────────────────────────────────────────────────────────────


def open_film(path: str | os.PathLike, *, max_pixels: int) -> Film:
  """What is known of a film or a folder before its frames are read.

  Args:
    path: a film, or a folder of images of one size, in the order of their
      names; frame_2 comes before frame_10.
    max_pixels: larger frames are refused.

  Raises:
    ConfigError: nothing there, no film, no images, or images of two sizes.
  """
  path = pathlib.Path(finder.expand(path))
  if path.is_dir():
    return _open_folder(path, max_pixels)
  finder.check_file(path, "film or folder")
  if not is_film(path):
    raise ConfigError(f"{path}: is no film; allowed: {', '.join(READERS)}, or "
                      "a folder of images.")
  with _container(path) as container:
    stream = _stream_of(container, path, max_pixels)
    rate = stream.average_rate
  if not rate or not 0 < rate <= _MAX_RATE:
    raise ConfigError(f"{path}: has {rate} frames a second; it must be a "
                      f"number > 0 and ≤ {_MAX_RATE}.")
  return Film(path, fractions.Fraction(rate))


def _open_folder(folder: pathlib.Path, max_pixels: int) -> Film:
  paths = finder.find_files(folder, images.SUFFIXES)
  if not paths:
    raise ConfigError(f"{folder}: holds no images.")
  paths.sort(key=lambda path: _name_and_numbers(path.relative_to(folder)))
  first_size = None
  found = {}
  for path in paths:
    with opener.open_image(path, str(path), max_pixels=max_pixels) as image:
      size = image.size
    first_size = first_size or size
    if size != first_size:
      raise ConfigError(
          f"{path}: is {size[0]}×{size[1]} pixels; all frames must be "
          f"{first_size[0]}×{first_size[1]} as {paths[0].name}.")
    name = path.relative_to(folder).with_suffix("").as_posix()
    name = name.replace("/", "_")
    if name in found:
      raise ConfigError(f"{path}: another frame has the name {name!r}, too; "
                        "each must have its own, whatever the ending.")
    found[name] = path
  return Film(folder, fractions.Fraction(FOLDER_RATE), found)


def _name_and_numbers(path: pathlib.PurePath) -> list[str | int]:
  """A name to sort by: its numbers count as numbers."""
  parts = re.split(r"([0-9]+)", path.as_posix())
  # Every second part is a number.
  return [int(part) if place % 2 else part
          for place, part in enumerate(parts)]


def read_frames(film: Film, *, max_pixels: int) -> Iterator[Frame]:
  """The frames of a film, one at a time.

  Raises:
    ConfigError: a damaged frame.
  """
  if film.images is None:
    yield from _read_film(film.path, max_pixels)
    return
  for path in film.images.values():
    # As they are stored: frames of one camera are turned alike.
    yield images.read(path, max_pixels=max_pixels, upright=False)


def _read_film(path: pathlib.Path, max_pixels: int) -> Iterator[Frame]:
  av = import_av()
  with _container(path) as container:
    stream = _stream_of(container, path, max_pixels)
    stream.thread_type = "AUTO"
    number = 0
    try:
      for frame in container.decode(stream):
        if (frame.width, frame.height) != (stream.width, stream.height):
          raise ConfigError(f"{path}: frame {number} has another size than "
                            "those before it.")
        array_HWC = frame.to_ndarray(format="rgb24")
        # A phone stores a film as its chip lies, and how it was held.
        quarter_turns = round(frame.rotation / 90)
        yield np.ascontiguousarray(np.rot90(array_HWC, quarter_turns))
        number += 1
    except av.error.FFmpegError as error:
      raise ConfigError(f"{path}: frame {number} cannot be read: "
                        f"{_reason(error)}.") from error
  if not number:
    raise ConfigError(f"{path}: holds no frame.")


def _container(path: pathlib.Path) -> Any:
  av = import_av()
  try:
    return av.open(str(path), format=READERS[path.suffix.lower()])
  except (av.error.FFmpegError, OSError) as error:
    raise ConfigError(
        f"{path}: cannot be read as a film: {_reason(error)}.") from error


def _stream_of(container: Any, path: pathlib.Path, max_pixels: int) -> Any:
  """The first stream of frames, if they are not too large."""
  if not container.streams.video:
    raise ConfigError(f"{path}: holds no frames.")
  stream = container.streams.video[0]
  num_pixels = stream.width * stream.height
  if num_pixels > max_pixels:
    raise ConfigError(
        f"{path}: frames of {stream.width}×{stream.height} = {num_pixels:,} "
        f"pixels are more than {max_pixels:,}; make it smaller.")
  return stream


def _reason(error: Exception) -> str:
  text = getattr(error, "strerror", None) or str(error)
  return one_line(text).rstrip(".")


# ── Writing ─────────────────────────────────────────────────────────────────


def write_film(
    path: str | os.PathLike,
    frames: Iterable[Frame],
    rate: fractions.Fraction,
) -> None:
  """Writes an .mp4 (H.264) that is there completely or not at all.

  Args:
    path: of the film.
    frames: of one size; an odd last row or column is left out.
    rate: frames a second.
  """
  import_av()

  def write(file: BinaryIO) -> None:
    _encode(file, frames, rate)

  files.replace_file(path, write)


def _encode(file: BinaryIO, frames: Iterable[Frame], rate) -> None:
  import av
  with av.open(file, "w", format="mp4") as container:
    stream = None
    for frame_HWC in frames:
      height = frame_HWC.shape[0] // 2 * 2
      width = frame_HWC.shape[1] // 2 * 2
      if stream is None:
        stream = container.add_stream(
            "libx264", rate=rate, options={"crf": _CRF})
        stream.height = height
        stream.width = width
        stream.pix_fmt = _PIXELS_OF_FILMS
      even_HWC = np.ascontiguousarray(frame_HWC[:height, :width])
      frame = av.VideoFrame.from_ndarray(even_HWC, format="rgb24")
      container.mux(stream.encode(frame))
    if stream is not None:
      # What the encoder still holds back.
      container.mux(stream.encode(None))
