"""Draws a prediction for people: outlined, named, over its image.

H W pixels of an image · C channels · X = H · W
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from uvim import resize
from uvim.inference import images, legend, segments, sheet
from uvim.tasks import coco_format
from uvim.tasks.base import AbstractTask, Categories

SIDE = 1024  # Pixels of the long side of a drawing, at most.
# A smaller image is enlarged: its names would cover it.
_SMALLEST_SIDE = 480
# How much of a pixel is the class, and not the image.
_OPACITY = 0.55
_OUTLINE = 255
# A name takes a share of the long side, but never fewer pixels.
_FONT_SHARE = 1 / 36
_SMALLEST_FONT = 12
# Segments below this share of the image have no name.
_NAMED_SHARE = 0.01
# Of a mask in which the place of a name is searched.
_SEARCH_SIDE = 256
# How far from the edge of its segment a name stands, of what is possible.
_INNER_SHARE = 0.7
_GAP = 6
_DARK = (20, 22, 26)


def draw_picture(task: AbstractTask, outputs: Mapping[str, np.ndarray],
                 photo: np.ndarray, *, categories: Categories = None,
                 overlay: bool = False, side_by_side: bool = True) -> Any:
  """The picture of one prediction, with a legend below.

  Args:
    task: draws the outputs.
    outputs: of one sample, [H, W, …].
    photo: the image, [H, W, 3], uint8 or floats in [-1, 1].
    categories: names of the classes; None: they have numbers.
    overlay: draws the prediction over the image.
    side_by_side: the image stands beside it.

  Returns:
    A PIL image in RGB.
  """
  size = drawing_size(photo.shape[:2])
  photo_HWC = fit_photo(photo, size)
  below = photo_HWC if overlay else None
  drawn = draw(task, outputs, size, photo=below, categories=categories)
  tiles = [drawn]
  if side_by_side:
    tiles = [photo_HWC, drawn]
  _, tile_width = size
  num_gaps = len(tiles) - 1
  tiles_width = len(tiles) * tile_width + num_gaps * _GAP
  # A narrow image still has a legend that can be read.
  width = max(tiles_width, _SMALLEST_SIDE // 2)
  # Its text is as large as the names in the tiles, or larger if there are two.
  text_size = font_size(round(0.8 * width))
  explained = legend.draw_legend(
      task, [outputs], categories=categories, width=width,
      font_size=text_size)
  rows = [tiles]
  if explained is not None:
    rows.append([explained])
  return sheet.draw_sheet(rows, gap=_GAP)


def drawing_size(size_HW: tuple[int, int]) -> tuple[int, int]:
  """Height and width of the drawing of an image of this size."""
  if max(size_HW) > SIDE:
    return images.fitted_size(size_HW, SIDE)
  # A whole factor: its pixels stay squares.
  factor = math.ceil(_SMALLEST_SIDE / max(size_HW))
  factor = max(1, factor)
  height, width = size_HW
  return height * factor, width * factor


def fit_photo(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """The image as uint8 [*size, 3]."""
  from PIL import Image
  height, width = size
  small = images.fit(resize.to_bytes(photo), SIDE)
  image = Image.fromarray(small)
  return np.asarray(image.resize((width, height), Image.Resampling.BOX))


def font_size(side: int) -> int:
  """Pixels of a text in an image of this side."""
  return max(_SMALLEST_FONT, round(side * _FONT_SHARE))


def draw(task: AbstractTask, outputs: Mapping[str, np.ndarray],
         size: tuple[int, int], *, photo: np.ndarray | None = None,
         categories: Categories = None) -> Any:
  """One sample, its segments outlined and named.

  Args:
    task: draws the outputs.
    outputs: [H, W, …].
    size: height and width of the drawing.
    photo: what lies below it, uint8 [*size, 3]; None: nothing.
    categories: names of the classes; None: they have numbers.

  Returns:
    A PIL image in RGB.
  """
  from PIL import Image
  fitted = {}
  for key, output in outputs.items():
    fitted[key] = resize.resize_nearest(output, size)[None]
  drawn_HWC = task.render(fitted)[0]
  if photo is not None:
    drawn_HWC = blend(photo, drawn_HWC)
  pairs = segments.pairs_of(task, fitted)
  if pairs is None:
    return Image.fromarray(drawn_HWC)
  ids_HW, classes = coco_format.number_segments(pairs[0])
  is_border_HW = find_borders(ids_HW)
  drawn_HWC[is_border_HW] = _OUTLINE
  image = Image.fromarray(drawn_HWC)
  names = [segments.class_name(number, categories) for number in classes]
  write_names(image, ids_HW, names)
  return image


def blend(photo_HWC: np.ndarray, drawn_HWC: np.ndarray) -> np.ndarray:
  """The drawing, uint8, over the image; the image alone where it is black."""
  mixed = (1 - _OPACITY) * photo_HWC + _OPACITY * drawn_HWC
  is_known = drawn_HWC.any(-1, keepdims=True)
  blended = np.where(is_known, np.rint(mixed), photo_HWC)
  return blended.astype(np.uint8)


def find_borders(ids_HW: np.ndarray) -> np.ndarray:
  """Where the left or the upper neighbor has another id: bool [H, W]."""
  # The first column and the first row have no such neighbor: no difference.
  from_left_HW = np.diff(ids_HW, axis=1, prepend=ids_HW[:, :1])
  from_above_HW = np.diff(ids_HW, axis=0, prepend=ids_HW[:1])
  return (from_left_HW != 0) | (from_above_HW != 0)


# ── Names in segments ───────────────────────────────────────────────────────


class _Box(NamedTuple):
  """Where a text stands, in pixels."""
  left: float
  top: float
  right: float
  bottom: float

  def moved(self, right: float, down: float) -> "_Box":
    return _Box(self.left + right, self.top + down,
                self.right + right, self.bottom + down)

  def meets(self, other: "_Box") -> bool:
    beside = self.right < other.left or other.right < self.left
    above = self.bottom < other.top or other.bottom < self.top
    return not (beside or above)


def write_names(image: Any, ids_HW: np.ndarray, names: list[str]) -> None:
  """Writes a name into each larger segment, the largest first.

  A name that would cover another one is left out; the legend has it.

  Args:
    image: a PIL image, which is changed.
    ids_HW: the segment 1, 2, … of each pixel; 0 is void.
    names: of segment 1, 2, ….
  """
  from PIL import ImageDraw, ImageFont
  size = font_size(max(ids_HW.shape))
  font = ImageFont.load_default(size)
  pen = ImageDraw.Draw(image)
  outline = max(1, size // 8)
  taken_boxes = []
  for number in _named_segments(ids_HW, len(names)):
    x, y = _innermost(ids_HW == number)
    text = names[number - 1]
    box = _Box(*pen.textbbox((x, y), text, font=font, anchor="mm"))
    right, down = _way_inside(box, image.size)
    box = box.moved(right, down)
    if any(box.meets(taken) for taken in taken_boxes):
      continue
    taken_boxes.append(box)
    place = (x + right, y + down)
    pen.text(place, text, font=font, anchor="mm", fill="white",
             stroke_width=outline, stroke_fill=_DARK)


def _named_segments(ids_HW: np.ndarray, num_segments: int) -> list[int]:
  """The segments that are large enough for a name, the largest first."""
  ids_X = ids_HW.reshape(-1)
  areas = np.bincount(ids_X, minlength=num_segments + 1)
  # Void is no segment.
  areas[0] = 0
  smallest_area = _NAMED_SHARE * ids_HW.size
  by_area = np.argsort(-areas, kind="stable")
  return [number for number in by_area.tolist()
          if areas[number] > smallest_area]


def _innermost(mask_HW: np.ndarray) -> tuple[float, float]:
  """(x, y) of a pixel well inside a segment, near its middle."""
  from scipy import ndimage
  step = math.ceil(max(mask_HW.shape) / _SEARCH_SIDE)
  # A segment that falls between the steps is searched in full.
  if not mask_HW[::step, ::step].any():
    step = 1
  mask_HW = mask_HW[::step, ::step]
  # The edge of the image is an edge too.
  framed = np.pad(mask_HW, 1)
  framed_distance = ndimage.distance_transform_edt(framed)
  distance_HW = framed_distance[1:-1, 1:-1]
  least_distance = _INNER_SHARE * distance_HW.max()
  is_inside_HW = distance_HW >= least_distance
  # Of the places well inside, the one nearest to the middle.
  middle = np.argwhere(mask_HW).mean(0)
  places = np.argwhere(is_inside_HW)
  offsets = places - middle
  square_distances = np.square(offsets).sum(1)
  y, x = places[square_distances.argmin()].tolist()
  return x * step, y * step


def _way_inside(box: _Box, size: tuple[int, int]) -> tuple[float, float]:
  """How far to the right and down a box must go to lie within the image."""
  width, height = size
  right = min(0, width - box.right)
  down = min(0, height - box.bottom)
  # A text that is too long loses its end, and not its beginning.
  return max(right, -box.left), max(down, -box.top)
