"""Polygons and run lengths of annotation files as masks, by pycocotools.

pycocotools is the implementation by COCO's authors, so masks equal those that
other programs make of the same file. It is written in C and believes what it
is given: run lengths that do not fit make it read or write where it must not.
All numbers are therefore checked here first.

H W pixels of an image · N points
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from uvim.registry import ConfigError

# A mask in COCO's compressed form: {"size": [H, W], "counts": bytes}. It takes
# some hundred bytes, so all masks of a data set fit into memory.
Rle = dict[str, Any]

# pycocotools needs 40 bytes for each pixel along the line of a polygon.
_LONGEST_LINE = 2_000_000
_FARTHEST = 1e6
# The text of run lengths: 5 bits a letter, from the letter "0" on. A sixth bit
# says that the number goes on.
_FIRST_LETTER = ord("0")
_LETTER_BITS = 5
_GOES_ON = 1 << _LETTER_BITS
_IS_NEGATIVE = 1 << (_LETTER_BITS - 1)
_MOST_BITS = 35


def from_polygon(points: Sequence[float], size_HW: tuple[int, int]) -> Rle:
  """The pixels inside of a polygon.

  Args:
    points: x and y in turn, in pixels. The first pixel reaches from 0 to 1.
      Points may lie outside of the image.
    size_HW: height and width of the image.

  Raises:
    ConfigError: what is wrong with the points, as half a sentence.
  """
  num_numbers = len(points)
  if num_numbers < 6 or num_numbers % 2:
    raise ConfigError(f"{num_numbers} numbers; a polygon has an even number, 6 "
                      "or more.")
  _check_numbers(points)
  line_length = _line_length(points)
  if line_length > _LONGEST_LINE:
    raise ConfigError(f"its line is {line_length:,.0f} pixels long; allowed: "
                      f"{_LONGEST_LINE:,}.")
  height, width = size_HW
  # One at a time: a first polygon of 4 numbers would make boxes of all.
  [rle] = coco_mask.frPyObjects([list(points)], height, width)
  return rle


def _check_numbers(values: Iterable[float]) -> None:
  """Raises a ConfigError for what is no place, size or angle of an image."""
  for value in values:
    # Not a number compares as false.
    if not -_FARTHEST <= value <= _FARTHEST:
      raise ConfigError(f"{value} is no place in or near an image.")


def _line_length(points: Sequence[float]) -> float:
  """How many pixels lie along the line of a polygon, about."""
  points_N2 = np.asarray(points, np.float64).reshape(-1, 2)
  next_points_N2 = np.roll(points_N2, -1, axis=0)
  steps_N2 = np.abs(next_points_N2 - points_N2)
  # A diagonal passes as many pixels as its longer side.
  return steps_N2.max(axis=1).sum()


def from_ellipse(center: tuple[float, float], radii: tuple[float, float],
                 size_HW: tuple[int, int], degrees: float = 0) -> Rle:
  """The pixels inside of an ellipse, as a polygon of 100 corners.

  Args:
    center: x and y in pixels.
    radii: along x and along y, in pixels.
    size_HW: height and width of the image.
    degrees: by how much it is turned, clockwise.

  Raises:
    ConfigError: see `from_polygon`.
  """
  _check_numbers([*center, *radii, degrees])
  angles = np.linspace(0, 2 * np.pi, 100, endpoint=False)
  circle_N2 = np.stack([np.cos(angles), np.sin(angles)], -1)
  points_N2 = _turned(circle_N2 * radii, degrees) + center
  return from_polygon(points_N2.ravel().tolist(), size_HW)


def from_rectangle(corner: tuple[float, float], sides: tuple[float, float],
                   size_HW: tuple[int, int], degrees: float = 0) -> Rle:
  """The pixels inside of a rectangle.

  Args:
    corner: x and y of one corner, in pixels; the rectangle is turned about it.
    sides: from there to the opposite corner, along x and along y, before the
      rectangle is turned.
    size_HW: height and width of the image.
    degrees: by how much it is turned, clockwise.

  Raises:
    ConfigError: see `from_polygon`.
  """
  _check_numbers([*corner, *sides, degrees])
  square_N2 = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
  points_N2 = _turned(square_N2 * sides, degrees) + corner
  return from_polygon(points_N2.ravel().tolist(), size_HW)


def _turned(points_N2: np.ndarray, degrees: float) -> np.ndarray:
  """Points (x, y), turned about (0, 0), clockwise as y points down."""
  radians = math.radians(degrees)
  cosine = math.cos(radians)
  sine = math.sin(radians)
  x_N, y_N = points_N2.T
  turned_x_N = cosine * x_N - sine * y_N
  turned_y_N = sine * x_N + cosine * y_N
  return np.stack([turned_x_N, turned_y_N], -1)


def from_runs(runs: Sequence[int], size_HW: tuple[int, int]) -> Rle:
  """The mask of COCO's run lengths.

  Args:
    runs: lengths of runs in turn outside and inside, column by column.
    size_HW: height and width of the image.

  Raises:
    ConfigError: they do not fill the image exactly.
  """
  height, width = size_HW
  total = sum(runs)
  if total != height * width or min(runs, default=0) < 0:
    raise ConfigError(
        f"{len(runs):,} run lengths of together {total:,} pixels; allowed: "
        f"whole numbers from 0 that fill {height}x{width} = "
        f"{height * width:,} pixels.")
  uncompressed = {"size": [height, width], "counts": list(runs)}
  return coco_mask.frPyObjects(uncompressed, height, width)


def runs_of(text: str) -> list[int]:
  """The run lengths that COCO's compressed form holds as a text.

  Raises:
    ConfigError: the text holds other letters, or ends within a number.
  """
  runs = []
  number = 0
  num_bits = 0
  for letter in text:
    value = ord(letter) - _FIRST_LETTER
    if not 0 <= value < 2 * _GOES_ON:
      raise ConfigError(f"the letter {letter!r} does not occur in compressed "
                        "run lengths.")
    number |= (value % _GOES_ON) << num_bits
    num_bits += _LETTER_BITS
    if num_bits > _MOST_BITS:
      raise ConfigError("it holds a run length of too many letters.")
    if value & _GOES_ON:
      continue
    if value & _IS_NEGATIVE:
      number -= 1 << num_bits
    # From the fourth on, a number is the difference to the last but one.
    if len(runs) > 2:
      number += runs[-2]
    runs.append(number)
    number = 0
    num_bits = 0
  if num_bits:
    raise ConfigError("it ends within a run length.")
  return runs


def from_mask(mask_HW: np.ndarray) -> Rle:
  """The compressed form of a mask of booleans."""
  return coco_mask.encode(np.asfortranarray(mask_HW, np.uint8))


def union(rles: Sequence[Rle]) -> Rle:
  """The pixels of any of some masks of one size."""
  return coco_mask.merge(list(rles))


def area(rle: Rle) -> int:
  """The number of its pixels."""
  return int(coco_mask.area(rle))


def to_mask(rle: Rle) -> np.ndarray:
  """The mask as bool [H, W]."""
  return coco_mask.decode(rle).astype(bool)
