"""Draws rows of images with titles as one image.

For columns of unlike images, draw each column as a sheet of its own, and then
these sheets as one row.

H W pixels of one image · C channels
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

WHITE = (255, 255, 255)
BLACK = (0, 0, 0)

Color = tuple[int, int, int]
Rows = Sequence[Sequence[Any]]


class Margin(NamedTuple):
  """Empty pixels between the images and each edge of the sheet."""
  left: int = 0
  top: int = 0
  right: int = 0
  bottom: int = 0


def draw_sheet(rows: Rows, *, titles: Sequence[Sequence[str]] = (),
               row_names: Sequence[str] = (), gap: int = 4,
               margin: int | Margin = 0, background: Color = WHITE,
               text_color: Color = BLACK, title_height: int = 18,
               font_size: int = 12):
  """Lays out images in rows, each image to the right of the one before it.

  The images of a row share their upper edge. Rows may differ in length, and
  images in size.

  Args:
    rows: images: uint8 [H, W] or [H, W, 3], or PIL images.
    titles: for each row the titles of its images, or an empty list; may be
      fewer than the rows. A row without titles has no space for them.
    row_names: texts to the left of the rows; may be fewer than the rows.
    gap: pixels between neighbors, and beside the row names.
    margin: pixels around everything; one number for all four sides.
    background, text_color: red, green and blue, 0 to 255.
    title_height: pixels from the top of a title to its image.
    font_size: in pixels.

  Returns:
    A PIL image in RGB.
  """
  from PIL import Image, ImageDraw, ImageFont
  font = ImageFont.load_default(font_size)
  margin = _four_sides(margin)
  # The names of the rows have a column of their own, left of all images.
  left = margin.left + _width_of_names(row_names, font, gap)
  cells, row_tops = _lay_out(rows, titles, left, margin.top, gap, title_height)
  sheet = Image.new("RGB", _size(cells, margin), background)

  # The texts come first: a text that is too long leaves the images whole.
  pen = ImageDraw.Draw(sheet)
  style = {"font": font, "fill": text_color}
  for name, row_top in zip(row_names, row_tops, strict=False):
    pen.text((margin.left, row_top), name, **style)
  for cell in cells:
    pen.text((cell.left, cell.title_top), cell.title, **style)
  for cell in cells:
    sheet.paste(cell.image, (cell.left, cell.top))
  return sheet


class _Cell(NamedTuple):
  """An image with its title, and where they go on the sheet."""
  image: Any
  title: str
  left: int
  top: int
  title_top: int

  @property
  def right(self) -> int:
    """The right edge of the image."""
    return self.left + self.image.width

  @property
  def bottom(self) -> int:
    """The lower edge of the image."""
    return self.top + self.image.height


def _lay_out(rows, titles, left, top, gap, title_height):
  """(all cells, the upper edge of the images of each row)."""
  cells = []
  row_tops = []
  row_top = top
  # The titles may end before the rows do.
  for row, row_titles in itertools.zip_longest(rows, titles, fillvalue=()):
    if row_titles:
      # `row_top` is the upper edge of the images. The titles go above it.
      row_top += title_height
    else:
      # No text, and no space for one.
      row_titles = [""] * len(row)
    row_tops.append(row_top)
    title_top = row_top - title_height
    cell_left = left
    row_height = 0
    for image, title in zip(row, row_titles, strict=True):
      image = _as_pil(image)
      cells.append(_Cell(image, title, cell_left, row_top, title_top))
      cell_left += image.width + gap
      # The highest image of a row decides where the next row begins.
      row_height = max(row_height, image.height)
    row_top += row_height + gap
  return cells, row_tops


def _size(cells, margin) -> tuple[int, int]:
  """(width, height) of a sheet that holds all cells."""
  # Measured from the cells, so no gap is left after the last one.
  right = 0
  bottom = 0
  for cell in cells:
    right = max(right, cell.right)
    bottom = max(bottom, cell.bottom)
  return right + margin.right, bottom + margin.bottom


def _as_pil(image):
  from PIL import Image
  if isinstance(image, Image.Image):
    return image
  return Image.fromarray(np.asarray(image))


def _four_sides(margin) -> Margin:
  if isinstance(margin, int):
    return Margin(margin, margin, margin, margin)
  return margin


def _width_of_names(row_names, font, gap) -> int:
  """Pixels that the longest name takes, with the gap behind it."""
  if not row_names:
    return 0
  widths = map(font.getlength, row_names)
  return math.ceil(max(widths)) + gap
