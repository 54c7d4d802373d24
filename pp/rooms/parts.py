"""What the makers of things share: shapes as tuples of numbers.

A maker takes a numpy Generator and a size, about the largest extent of the
thing in metres; all measures are fractions of it.
"""

from typing import NamedTuple

import numpy as np


class Parts(NamedTuple):
  """The shapes of a thing as tuples of numbers; see `things.Thing`."""
  spheres: list | tuple = ()
  boxes: list | tuple = ()
  frusta: list | tuple = ()


def draw_between(rng, low, high):
  """`rng.uniform` for tuples of numbers, four times as fast."""
  low = np.array(low)
  high = np.array(high)
  return low + (high - low) * rng.random(len(low))


def cylinder(radius, bottom, top):
  """A frustum on the axis of the thing."""
  return frustum(bottom, top, radius, radius)


def frustum(bottom, top, bottom_radius, top_radius):
  """A frustum on the axis of the thing, between two heights."""
  return (0.0, 0.0, bottom, top, bottom_radius, top_radius)


def legs(half_width, half_depth, top, half_thickness):
  """Four boxes under the corners of a table or a seat."""
  boxes = []
  for side_x in (-1, 1):
    for side_z in (-1, 1):
      x = side_x * (half_width - half_thickness)
      z = side_z * (half_depth - half_thickness)
      boxes.append(
          (x, top / 2, z, half_thickness, top / 2, half_thickness))
  return boxes
