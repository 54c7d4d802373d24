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

from uvim import files, finder
from uvim.inference import images
from uvim.registry import ConfigError, one_line

# uint8 [H, W, 3].
Frame = np.ndarray
# Ending of a film → the reader of its container.
READERS = {
    ".mp4": "mov",
    ".m4v": "mov",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "matroska",
    ".avi": "avi",
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
  return _ending(path) in READERS


def _ending(path: str | os.PathLike) -> str:
  path = pathlib.Path(path)
  return path.suffix.lower()


def import_av() -> Any:
  """The package that reads and writes films.

  Raises:
    ConfigError: it is not installed.
  """
  try:
    import av
  except ImportError:
    raise ConfigError(
        "Films need the package av: pip install '.[video]', or pip install "
        "av.") from None
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
  expanded = finder.expand(path)
  path = pathlib.Path(expanded)
  if path.is_dir():
    return _open_folder(path, max_pixels)
  finder.check_file(path, "film or folder")
  if not is_film(path):
    allowed = ", ".join(READERS)
    raise ConfigError(
        f"{path}: is no film; allowed: {allowed}, or a folder of images.")
  with _container(path) as container:
    stream = _stream_of(container, path, max_pixels)
    rate = stream.average_rate
  # None: the film does not tell.
  if rate is None or not 0 < rate <= _MAX_RATE:
    raise ConfigError(
        f"{path}: has {rate} frames a second; it must be a number > 0 and "
        f"≤ {_MAX_RATE}.")
  return Film(path, fractions.Fraction(rate))


def _open_folder(folder: pathlib.Path, max_pixels: int) -> Film:
  paths = finder.find_files(folder, images.SUFFIXES)
  if not paths:
    raise ConfigError(f"{folder}: holds no images.")

  def order(path: pathlib.Path) -> list[str | int]:
    return _name_and_numbers(path.relative_to(folder))

  paths.sort(key=order)
  first_size = None
  path_of_name = {}
  for path in paths:
    size = images.read_size(path, max_pixels=max_pixels)
    first_size = first_size or size
    if size != first_size:
      raise ConfigError(
          f"{path}: is {_size_text(size)} pixels; all frames must be "
          f"{_size_text(first_size)} as {paths[0].name}.")
    name = _frame_name(path.relative_to(folder))
    if name in path_of_name:
      raise ConfigError(
          f"{path}: another frame has the name {name!r}, too; each must have "
          "its own, whatever the ending.")
    path_of_name[name] = path
  return Film(
      path=folder,
      rate=fractions.Fraction(FOLDER_RATE),
      images=path_of_name,
  )


def _name_and_numbers(path: pathlib.PurePath) -> list[str | int]:
  """A name to sort by: its numbers count as numbers."""
  parts = re.split(r"([0-9]+)", path.as_posix())
  # Every second part is a number.
  numbers = [int(part) for part in parts[1::2]]
  parts[1::2] = numbers
  return parts


def _frame_name(path: pathlib.PurePath) -> str:
  """a/b.png → a_b."""
  without_ending = path.with_suffix("")
  return without_ending.as_posix().replace("/", "_")


def _size_text(size: tuple[int, int]) -> str:
  width, height = size
  return f"{width}×{height}"


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
        size = (frame.width, frame.height)
        if size != (stream.width, stream.height):
          raise ConfigError(
              f"{path}: frame {number} has another size than those before it.")
        yield _upright(frame)
        number += 1
    except av.error.FFmpegError as error:
      raise ConfigError(
          f"{path}: frame {number} cannot be read: "
          f"{_reason(error)}.") from error
  if not number:
    raise ConfigError(f"{path}: holds no frame.")


def _upright(frame: Any) -> Frame:
  """The pixels of a frame of `av`, as the camera was held."""
  stored_HWC = frame.to_ndarray(format="rgb24")
  # A phone stores a film as its chip lies, and how it was held.
  quarter_turns = round(frame.rotation / 90)
  upright_HWC = np.rot90(stored_HWC, quarter_turns)
  return np.ascontiguousarray(upright_HWC)


def _container(path: pathlib.Path) -> Any:
  """A film, opened by the reader of its ending."""
  av = import_av()
  reader = READERS[_ending(path)]
  try:
    return av.open(str(path), format=reader)
  except (av.error.FFmpegError, OSError) as error:
    raise ConfigError(
        f"{path}: cannot be read as a film: {_reason(error)}.") from error


def _stream_of(container: Any, path: pathlib.Path, max_pixels: int) -> Any:
  """The first stream of frames, if they are not too large."""
  if not container.streams.video:
    raise ConfigError(f"{path}: holds no frames.")
  stream = container.streams.video[0]
  size = (stream.width, stream.height)
  num_pixels = stream.width * stream.height
  if num_pixels > max_pixels:
    raise ConfigError(
        f"{path}: frames of {_size_text(size)} = {num_pixels:,} pixels are "
        f"more than {max_pixels:,}; make it smaller.")
  return stream


def _reason(error: Exception) -> str:
  """What an error says, for the middle of a line."""
  text = getattr(error, "strerror", None)
  line = one_line(text or str(error))
  return line.rstrip(".")


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


def _encode(
    file: BinaryIO,
    frames: Iterable[Frame],
    rate: fractions.Fraction,
) -> None:
  import av
  with av.open(file, "w", format="mp4") as container:
    stream = None
    for frame_HWC in frames:
      even_HWC = _crop_to_even(frame_HWC)
      if stream is None:
        height, width, _ = even_HWC.shape
        stream = _add_stream(container, rate, height, width)
      frame = av.VideoFrame.from_ndarray(even_HWC, format="rgb24")
      packets = stream.encode(frame)
      container.mux(packets)
    if stream is not None:
      # What the encoder still holds back.
      last_packets = stream.encode(None)
      container.mux(last_packets)


def _crop_to_even(frame_HWC: Frame) -> Frame:
  """Leaves an odd last row or column out."""
  height, width, _ = frame_HWC.shape
  even_height = height - height % 2
  even_width = width - width % 2
  even_HWC = frame_HWC[:even_height, :even_width]
  return np.ascontiguousarray(even_HWC)


def _add_stream(
    container: Any,
    rate: fractions.Fraction,
    height: int,
    width: int,
) -> Any:
  """The stream of a new film that frames go to."""
  options = {"crf": _CRF}
  stream = container.add_stream("libx264", rate=rate, options=options)
  stream.height = height
  stream.width = width
  stream.pix_fmt = _PIXELS_OF_FILMS
  return stream
