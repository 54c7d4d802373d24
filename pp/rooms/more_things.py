"""Twelve more categories of things, for the data set `rooms/hard`.

Each looks like another one: a stool like a table, a bucket like a can. So a
category is hard to tell at a few pixels. See `parts` for what a maker is.
"""

from pp.rooms.parts import Parts, cylinder, frustum, legs


def _stool(rng, size):
  radius = size * rng.uniform(0.28, 0.36)
  seat = cylinder(radius, 0.86 * size, size)
  return Parts(
      boxes=legs(0.8 * radius, 0.8 * radius, 0.86 * size, 0.05 * size),
      frusta=[seat])


def _bench(rng, size):
  half_width = 0.5 * size
  half_depth = size * rng.uniform(0.15, 0.2)
  half_slab = 0.05 * size
  top = 0.42 * size
  slab = (0, top - half_slab, 0, half_width, half_slab, half_depth)
  return Parts(boxes=[
      slab, *legs(half_width, half_depth, top - 2 * half_slab, 0.05 * size)])


def _sofa(rng, size):
  half_width = 0.5 * size
  half_depth = size * rng.uniform(0.22, 0.28)
  half_seat = 0.11 * size
  half_back = size * rng.uniform(0.24, 0.3)
  half_arm = 0.06 * size
  seat = (0, half_seat, 0, half_width, half_seat, half_depth)
  back = (0, half_back, half_depth, half_width, half_back, half_arm)
  boxes = [seat, back]
  for side in (-1, 1):
    x = side * (half_width - half_arm)
    boxes.append((x, 0.17 * size, 0, half_arm, 0.17 * size, half_depth))
  return Parts(boxes=boxes)


def _shelf(rng, size):
  half_width = size * rng.uniform(0.24, 0.34)
  half_depth = 0.14 * size
  half_board = 0.03 * size
  boxes = []
  for side in (-1, 1):
    x = side * (half_width - half_board)
    boxes.append((x, size / 2, 0, half_board, size / 2, half_depth))
  for height in (0.05, 0.35, 0.65, 0.97):
    y = height * size
    boxes.append((0, y, 0, half_width, half_board, half_depth))
  return Parts(boxes=boxes)


def _stairs(rng, size):
  half_width = size * rng.uniform(0.25, 0.35)
  half_step = size / 6
  boxes = []
  for step in (0, 1, 2):
    half_height = size * (step + 1) / 8
    z = (step - 1) * 2 * half_step
    boxes.append((0, half_height, z, half_width, half_height, half_step))
  return Parts(boxes=boxes)


def _bottle(rng, size):
  radius = size * rng.uniform(0.17, 0.23)
  shoulder = size * rng.uniform(0.5, 0.62)
  neck_bottom = shoulder + 0.15 * size
  return Parts(frusta=[
      cylinder(radius, 0, shoulder),
      frustum(shoulder, neck_bottom, radius, 0.35 * radius),
      cylinder(0.35 * radius, neck_bottom, size)])


def _vase(rng, size):
  radius = size * rng.uniform(0.3, 0.38)
  waist = size * rng.uniform(0.6, 0.75)
  return Parts(frusta=[
      frustum(0, waist, radius, 0.4 * radius),
      frustum(waist, size, 0.4 * radius, 0.8 * radius)])


def _bucket(rng, size):
  radius = size * rng.uniform(0.4, 0.48)
  return Parts(frusta=[frustum(0, 0.85 * size, 0.65 * radius, radius)])


def _barrel(rng, size):
  radius = size * rng.uniform(0.32, 0.4)
  return Parts(frusta=[
      frustum(0, size / 2, 0.75 * radius, radius),
      frustum(size / 2, size, radius, 0.75 * radius)])


def _mushroom(rng, size):
  radius = size * rng.uniform(0.36, 0.44)
  brim = size * rng.uniform(0.5, 0.6)
  return Parts(frusta=[
      frustum(brim, size, radius, 0.3 * radius),
      cylinder(0.35 * radius, 0, brim)])


def _snowman(rng, size):
  spheres = []
  bottom = 0
  for radius in (0.25, 0.17, 0.12):
    radius = size * radius * rng.uniform(0.92, 1.0)
    spheres.append((0, bottom + radius, 0, radius))
    bottom += 1.85 * radius
  return Parts(spheres=spheres)


def _hourglass(rng, size):
  radius = size * rng.uniform(0.28, 0.36)
  waist = 0.25 * radius
  return Parts(frusta=[
      frustum(0, size / 2, radius, waist),
      frustum(size / 2, size, waist, radius)])


# As `things.CATEGORIES`; the labels go on where those end.
MORE_CATEGORIES = [
    (11, "stool", True),
    (12, "bench", True),
    (13, "sofa", True),
    (15, "shelf", True),
    (16, "stairs", True),
    (17, "bottle", True),
    (18, "vase", True),
    (20, "bucket", True),
    (21, "barrel", True),
    (22, "mushroom", True),
    (24, "snowman", True),
    (25, "hourglass", True),
]
# In the order of MORE_CATEGORIES.
MORE_MAKERS = [
    _stool,
    _bench,
    _sofa,
    _shelf,
    _stairs,
    _bottle,
    _vase,
    _bucket,
    _barrel,
    _mushroom,
    _snowman,
    _hourglass,
]
