"""What stands in a room: the categories, and the shapes of their things.

A thing is drawn from a numpy Generator, in some size and color. No color
belongs to a category. Lengths are metres, angles radians, colors linear RGB.

Here a size `size` is about the largest extent of a thing; all measures are
fractions of it.
"""

from typing import NamedTuple

import numpy as np

from pp.rooms import shapes
from pp.rooms.more_things import MORE_CATEGORIES, MORE_MAKERS
from pp.rooms.parts import Parts, cylinder, draw_between, frustum, legs

# (id, name, isthing). The label of a segment is the position in this list. Ids
# have gaps, as those of COCO do: a mix-up of id and label cannot go unnoticed.
CATEGORIES = [
    (1, "ball", True),
    (2, "box", True),
    (4, "can", True),
    (5, "cone", True),
    (7, "chair", True),
    (8, "table", True),
    (9, "lamp", True),
    (92, "floor", False),
    (93, "wall", False),
    (95, "ceiling", False),
    (96, "rug", False),
    (98, "window", False),
]
# Those of `rooms/hard`: the labels of `rooms` mean the same there.
HARD_CATEGORIES = [*CATEGORIES, *MORE_CATEGORIES]
LABEL = {name: label for label, (_, name, _) in enumerate(HARD_CATEGORIES)}
NUM_THING_LABELS = sum(isthing for _, _, isthing in CATEGORIES)
HARD_THING_LABELS = [
    label for label, (_, _, isthing) in enumerate(HARD_CATEGORIES) if isthing]
CLUTTER = -1  # The label of things that nobody labelled.

_MATT = 0.06
_GLOSSY = 0.5
_DARKER = 0.72  # Legs and rims, relative to the main shape.


class Thing(NamedTuple):
  """One solid object, made of shapes in a frame of its own.

  Its shapes are numbered spheres first, then boxes, then frusta.
  """
  label: int  # Position in HARD_CATEGORIES, or CLUTTER.
  origin: np.ndarray  # [3] where the frame stands in the room.
  yaw: float  # Rotation about the vertical axis.
  spheres: np.ndarray  # [K, 4] center x, y, z; radius.
  boxes: np.ndarray  # [K, 6] center x, y, z; half sizes.
  frusta: np.ndarray  # [K, 6] center x, z; bottom, top; radius at each.
  colors: np.ndarray  # [K, 3] of all its shapes.
  gloss: float  # Strength of the highlight, 0..1.
  low: np.ndarray  # [3] lower corner of the box around it, in its frame.
  high: np.ndarray  # [3] upper corner.


def _ball(rng, size):
  del rng  # All balls are alike.
  return Parts(spheres=[(0, size / 2, 0, size / 2)])


def _box(rng, size):
  half_width, half_height, half_depth = size * draw_between(
      rng, (0.32, 0.28, 0.32), (0.5, 0.46, 0.5))
  return Parts(boxes=[
      (0, half_height, 0, half_width, half_height, half_depth)])


def _can(rng, size):
  radius = size * rng.uniform(0.26, 0.38)
  body = cylinder(radius, 0, 0.93 * size)
  lid = cylinder(0.86 * radius, 0.93 * size, size)
  return Parts(frusta=[body, lid])


def _cone(rng, size):
  radius = size * rng.uniform(0.34, 0.44)
  return Parts(frusta=[frustum(0, size, radius, 0.0)])


def _chair(rng, size):
  half_width = size * rng.uniform(0.27, 0.33)
  half_back = size * rng.uniform(0.24, 0.28)
  seat_height = 0.45 * size
  half_thickness = 0.05 * size
  seat = (0, seat_height, 0, half_width, half_thickness, half_width)
  back = (0, size - half_back, half_width - half_thickness,
          half_width, half_back, half_thickness)
  seat_bottom = seat_height - half_thickness
  boxes = [seat, back]
  boxes += legs(half_width, half_width, seat_bottom, 0.055 * size)
  return Parts(boxes=boxes)


def _table(rng, size):
  half_width = size * rng.uniform(0.72, 0.95)
  half_depth = size * rng.uniform(0.55, 0.75)
  half_slab = 0.07 * size
  top = 0.8 * size
  if rng.random() < 0.5:
    slab = (0, top - half_slab, 0, half_width, half_slab, half_depth)
    slab_bottom = top - 2 * half_slab
    boxes = [slab]
    boxes += legs(half_width, half_depth, slab_bottom, 0.075 * size)
    return Parts(boxes=boxes)
  # A round table on one leg.
  slab = cylinder(half_width * 0.85, top - 2 * half_slab, top)
  leg = cylinder(0.12 * size, 0.06 * size, top - 2 * half_slab)
  foot = cylinder(0.42 * size, 0, 0.07 * size)
  return Parts(frusta=[slab, leg, foot])


def _lamp(rng, size):
  shade_bottom = size * rng.uniform(0.5, 0.6)
  rim = size * rng.uniform(0.27, 0.34)
  shade = frustum(shade_bottom, size, rim, 0.55 * rim)
  pole = cylinder(0.055 * size, 0.05 * size, shade_bottom)
  foot = cylinder(0.22 * size, 0, 0.06 * size)
  return Parts(frusta=[shade, pole, foot])


def _clutter(rng, size):
  """A heap of four bumps."""
  low = (-0.3, 0.1, -0.3, 0.16)
  high = (0.3, 0.2, 0.3, 0.26)
  bumps = rng.uniform(low, high, (4, 4))
  return Parts(spheres=(size * bumps).tolist())


_MAKERS = {
    LABEL["ball"]: _ball,
    LABEL["box"]: _box,
    LABEL["can"]: _can,
    LABEL["cone"]: _cone,
    LABEL["chair"]: _chair,
    LABEL["table"]: _table,
    LABEL["lamp"]: _lamp,
    CLUTTER: _clutter,
}
_MAKERS |= dict(enumerate(MORE_MAKERS, start=len(CATEGORIES)))


def _tones(rng, label, num_shapes, num_boxes):
  """How bright each shape is relative to the color of the thing, [K, 1]."""
  if label == CLUTTER:
    tones = rng.uniform(0.5, 1.2, (num_shapes, 1))
    return tones.astype(np.float32)
  # Legs and rims are a touch darker. A hue of their own would give the category
  # away. The first two boxes of furniture are the seat and the back of a chair,
  # or the top and a leg of a table.
  num_bright = 2 if num_boxes > 1 else 1
  tones = np.full((num_shapes, 1), _DARKER, np.float32)
  tones[:num_bright] = 1
  return tones


def make_thing(rng, label, size, color):
  """Draws a Thing that stands at the origin.

  Args:
    rng: a numpy Generator.
    label: position in HARD_CATEGORIES, or CLUTTER.
    size: about its largest extent.
    color: float32 [3].
  """
  parts = _MAKERS[label](rng, size)
  shapes_of_kinds = []
  for kind in shapes.KINDS:
    rows = np.asarray(getattr(parts, kind.field), np.float32)
    shapes_of_kinds.append(rows.reshape(-1, kind.size))
  spheres, boxes, frusta = shapes_of_kinds
  low, high = shapes.bounds(shapes_of_kinds)
  tones = _tones(rng, label, len(low), len(boxes))
  gloss = (_MATT, _GLOSSY)[rng.integers(2)]
  return Thing(
      label=label,
      origin=np.zeros(3, np.float32),
      yaw=0.0,
      spheres=spheres,
      boxes=boxes,
      frusta=frusta,
      colors=tones * color,
      gloss=gloss,
      low=low.min(0),
      high=high.max(0),
  )


def footprint(thing):
  """Radius of the upright cylinder that holds `thing` at any yaw."""
  reach_x, _, reach_z = np.maximum(-thing.low, thing.high)
  to_corner = np.hypot(reach_x, reach_z)
  # Most things are round or nearly so: their corners are empty.
  to_side = max(reach_x, reach_z) * 1.15
  return float(min(to_corner, to_side))
