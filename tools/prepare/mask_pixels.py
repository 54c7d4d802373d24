"""The pixels of one mask: its file read as a map of ids.

H W pixels of an image · U different colors
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np
from PIL import Image

from tools.prepare.class_list import ClassList
from tools.prepare.mask_mistakes import Mistake
from uvim import opener, pixels
from uvim.registry import ConfigError

_GRAY = ("1", "L", "LA", "I;16", "I")
_COLOR = ("RGB", "RGBA")
# Where the header of a PNG has the number of bits of a channel.
_BITS_BYTE = 24
# More colors than any list of classes has.
_MANY_COLORS = 1000


@dataclasses.dataclass(frozen=True)
class MaskFile:
  """A PNG as it is stored.

  Attributes:
    path: the file.
    mode: of Pillow.
    values: integers, [H, W] or, with colors, [H, W, 3].
    bits: of a channel: 1, 2, 4, 8 or 16.
    colors: index → color of a palette PNG; else empty.
  """
  path: pathlib.Path
  mode: str
  values: np.ndarray
  bits: int
  colors: Mapping[int, tuple[int, ...]]

  @property
  def size_HW(self) -> tuple[int, int]:
    height, width = self.values.shape[:2]
    return height, width


def read_file(path: pathlib.Path) -> MaskFile:
  """Reads a PNG.

  Raises:
    Mistake: it is no PNG, or cannot be read.
  """
  try:
    with opener.open_image(path, str(path)) as image:
      file_format = image.format
      if file_format == "PNG":
        file = _read_png(path, image)
  except ConfigError as error:
    reason = str(error).removeprefix(f"{path}: ").rstrip(".")
    raise Mistake(path, reason, "Masks are PNG files.") from error
  if file_format == "JPEG":
    raise Mistake(path, "is a JPEG, which changes ids at every border",
                  "Make the masks again as PNG; a conversion of the JPEG does "
                  "not bring the ids back.")
  if file_format != "PNG":
    raise Mistake(path, f"is a {file_format} file", "Save masks as PNG.")
  return file


def _read_png(path: pathlib.Path, image: Image.Image) -> MaskFile:
  """The content of an open PNG."""
  with path.open("rb") as file:
    bits = file.read(_BITS_BYTE + 1)[_BITS_BYTE]
  values = np.asarray(image)
  # Transparency is dropped.
  if image.mode == "LA":
    values = values[..., 0]
  if image.mode == "RGBA":
    values = values[..., :3]
  if image.mode == "L" and bits < 8:
    # Pillow stretches gray of 2 and 4 bits to 0..255.
    values = values // (255 // (2**bits - 1))
  colors = {}
  if image.mode == "P":
    colors = _palette_of(image, values)
  return MaskFile(path, image.mode, values, bits, colors)


def _palette_of(image: Image.Image, values: np.ndarray
                ) -> dict[int, tuple[int, ...]]:
  """Index → color, for those that occur."""
  palette = image.getpalette("RGB")
  colors = {}
  for number in np.unique(values).tolist():
    colors[number] = tuple(palette[3 * number:3 * number + 3])
  return colors


def class_ids(file: MaskFile, classes: ClassList) -> np.ndarray:
  """The class of each pixel: int32 [H, W]; it may be none of `classes`.

  Args:
    file: the mask.
    classes: with colors, if colors count.

  Raises:
    Mistake: the kind of PNG and the list do not fit, or a color is of no
      class.
  """
  if classes.id_of_color:
    return _ids_of_colors(_as_colors(file), file, classes.id_of_color)
  if file.mode in _GRAY or file.mode == "P":
    return file.values.astype(np.int32)
  if file.mode not in _COLOR:
    raise Mistake(file.path, f"its mode is {file.mode}",
                  "Save masks as PNG of 8 or 16 bits.")
  return _gray_of_color(file, classes)


def _gray_of_color(file: MaskFile, classes: ClassList) -> np.ndarray:
  """Ids that a program wrote into all three channels: int32 [H, W].

  Raises:
    Mistake: the channels differ, so the pixels are colors.
  """
  first_HW1 = file.values[..., :1]
  if np.all(file.values == first_HW1):
    return first_HW1[..., 0].astype(np.int32)
  num_colors = len(np.unique(pixels.ids_from_rgb(file.values)))
  if num_colors > _MANY_COLORS:
    raise Mistake(file.path, f"is an image of {num_colors:,} colors",
                  "That is a photo, not a mask.")
  raise Mistake(
      file.path, f"is a mask of {num_colors:,} colors, but {classes.name} has "
      "ids only", classes.remedy(
          "Write 'R G B name' lines in --classes, or give masks of ids."))


def _as_colors(file: MaskFile) -> np.ndarray:
  """The color of each pixel, R + 256 G + 65536 B: int32 [H, W].

  Raises:
    Mistake: it has no colors.
  """
  if file.mode in _COLOR:
    return pixels.ids_from_rgb(file.values)
  if file.mode == "P":
    # By index: the palette may be shorter than 256 colors.
    table = np.zeros((256, 3), np.uint8)
    for number, color in file.colors.items():
      table[number] = color
    return pixels.ids_from_rgb(table)[file.values]
  raise Mistake(file.path, "is a mask of ids, but --classes has colors",
                "Write 'id name' lines in --classes, or give masks in color.")


def _ids_of_colors(colors_HW: np.ndarray, file: MaskFile,
                   id_of_color: Mapping[int, int]) -> np.ndarray:
  """The class of each color: int32 [H, W]."""
  color_U, place_HW = np.unique(colors_HW, return_inverse=True)
  foreign = [color for color in color_U.tolist() if color not in id_of_color]
  if foreign:
    color = tuple(pixels.rgb_from_ids(foreign[0]).tolist())
    raise Mistake(
        file.path, f"has the color {color}, which --classes lacks",
        "Name all colors there. Hundreds of colors mean that a mask was "
        "smoothed or a JPEG once.")
  id_U = np.array([id_of_color[color] for color in color_U.tolist()], np.int32)
  return id_U[place_HW].reshape(colors_HW.shape)


def raw_ids(file: MaskFile) -> np.ndarray:
  """Any ids: int32 [H, W]. Colors are R + 256 G + 65536 B."""
  if file.mode in _COLOR:
    return pixels.ids_from_rgb(file.values)
  return file.values.astype(np.int32)


def check_size(file: MaskFile, size_HW: tuple[int, int], other: str) -> None:
  """Raises a Mistake if a mask is not of the size of its image or mask.

  Args:
    file: the mask.
    size_HW: wanted height and width.
    other: whose size it is, for the message.
  """
  if file.size_HW == size_HW:
    return
  raise Mistake(
      file.path, f"has height x width {_readable(file.size_HW)}, but {other} "
      f"has {_readable(size_HW)}",
      "An image and its masks need one size; resize masks with the nearest "
      "neighbor.")


def _readable(size_HW: tuple[int, int]) -> str:
  height, width = size_HW
  return f"{height}x{width}"
