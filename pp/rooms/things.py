"""What stands in a room: categories, and the solids their things are made of.

Every thing is drawn from a numpy Generator, in some size and colour: no colour
belongs to a category. Lengths are metres, angles radians, colours linear RGB.
"""

import numpy as np

from pp.rooms.shapes import Thing, bounds

# (id, name, isthing). The label of a segment is the position in this list;
# ids have gaps as COCO's do, so that nobody confuses the two unnoticed.
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
LABEL = {name: label for label, (_, name, _) in enumerate(CATEGORIES)}
CLUTTER = -1


def linear(srgb):
  """8-bit sRGB → linear float32."""
  return ((np.asarray(srgb, np.float32) / 255) ** np.float32(2.2))


def between(rng, low, high):
  """`rng.uniform` for tuples, four times as fast."""
  low, high = np.array(low), np.array(high)
  return low + (high - low) * rng.random(len(low))


def _f32(values, width):
  return np.asarray(values, np.float32).reshape(-1, width)


def _cylinder(r, y0, y1, r_top=None, x=0.0, z=0.0):
  return (x, z, y0, y1, r, r if r_top is None else r_top)


def _legs(x, z, top, thick):
  return [(i * (x - thick), top / 2, j * (z - thick), thick, top / 2, thick)
          for i in (-1, 1) for j in (-1, 1)]


def _table(rng, s):
  w, d = s * rng.uniform(0.72, 0.95), s * rng.uniform(0.55, 0.75)
  slab, top = 0.07 * s, 0.8 * s
  if rng.random() < 0.5:
    return [], [(0, top - slab, 0, w, slab, d),
                *_legs(w, d, top - 2 * slab, 0.075 * s)], []
  return [], [], [_cylinder(w * 0.85, top - 2 * slab, top),
                  _cylinder(0.12 * s, 0.06 * s, top - 2 * slab),
                  _cylinder(0.42 * s, 0, 0.07 * s)]


def _chair(rng, s):
  w, seat, thick = s * rng.uniform(0.27, 0.33), 0.45 * s, 0.05 * s
  back = s * rng.uniform(0.24, 0.28)
  return [], [(0, seat, 0, w, thick, w),
              (0, s - back, w - thick, w, back, thick),
              *_legs(w, w, seat - thick, 0.055 * s)], []


def _lamp(rng, s):
  shade, rim = s * rng.uniform(0.5, 0.6), s * rng.uniform(0.27, 0.34)
  return [], [], [_cylinder(rim, shade, s, r_top=0.55 * rim),
                  _cylinder(0.055 * s, 0.05 * s, shade),
                  _cylinder(0.22 * s, 0, 0.06 * s)]


def _parts(rng, label, s):
  """Spheres, boxes and frusta of a thing whose largest extent is about s."""
  name = "clutter" if label == CLUTTER else CATEGORIES[label][1]
  if name == "ball":
    return [(0, s / 2, 0, s / 2)], [], []
  if name == "box":
    w, h, d = s * between(rng, (0.32, 0.28, 0.32), (0.5, 0.46, 0.5))
    return [], [(0, h, 0, w, h, d)], []
  if name == "can":
    r = s * rng.uniform(0.26, 0.38)
    return [], [], [_cylinder(r, 0, 0.93 * s),
                    _cylinder(0.86 * r, 0.93 * s, s)]
  if name == "cone":
    r = s * rng.uniform(0.34, 0.44)
    return [], [], [_cylinder(r, 0, s, r_top=0.0)]
  if name in ("table", "chair", "lamp"):
    return {"table": _table, "chair": _chair, "lamp": _lamp}[name](rng, s)
  bumps = rng.uniform((-0.3, 0.1, -0.3, 0.16), (0.3, 0.2, 0.3, 0.26), (4, 4))
  return (s * bumps).tolist(), [], []


def make_thing(rng, label, s, color):
  """A thing of `label` at the origin; `_Layout` moves it."""
  balls, boxes, cones = _parts(rng, label, s)
  balls, boxes, cones = _f32(balls, 4), _f32(boxes, 6), _f32(cones, 6)
  low, high = bounds(balls, boxes, cones)
  # The main part keeps the colour, legs and rims are a touch darker: a hue
  # of their own would give the category away.
  tone = np.full((len(low), 1), 0.72, np.float32)
  tone[:2 if len(boxes) > 1 else 1] = 1
  if label == CLUTTER:
    tone = rng.uniform(0.5, 1.2, tone.shape).astype(np.float32)
  return Thing(label, np.zeros(3, np.float32), 0.0, balls, boxes, cones,
               tone * color, (0.06, 0.5)[rng.integers(2)], low.min(0),
               high.max(0))


def footprint(thing):
  """Radius of the upright cylinder that holds `thing`."""
  x, _, z = np.maximum(-thing.low, thing.high)
  return float(min(np.hypot(x, z), max(x, z) * 1.15))
