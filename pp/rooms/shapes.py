"""The three shapes that things are made of, and their closed formulas.

A shape is a sphere, a box or an upright frustum (a cylinder, a cone, or
anything between them). Its numbers are coordinates in the frame of its thing,
where y is up. Every kind of shape brings four functions; `KINDS` lists them:

  bounds    corners of the boxes around shapes
  columns   the numbers of shapes as the formulas below want them
  enter     where rays enter shapes
  normals   unit outward normals at points on shapes

Axes: K shapes of one kind, P pairs of a shape and a start (or a point), L rays
from each start, 3 = x, y, z, 2 = bottom and top. Arrays are float32. A shape is
a row (`spheres_K4`) where things describe it and a column (`sphere_4P`) where
it meets rays.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pp.rooms.vectors import column_dots, stack_xyz, true_indices

EPSILON = np.float32(1e-3)  # Rays meet nothing closer than this multiple.
FAR = np.float32(1e9)  # The distance of a miss.
TINY = np.float32(1e-20)  # Keeps a divisor from being 0.
_LID_TOLERANCE = np.float32(2e-3)  # Metres from a lid that still are on it.
_NO_RADIUS = np.float32(1e-6)  # Metres; keeps the axis from dividing by 0.


def _far_unless(is_hit, distance):
  """`np.where(is_hit, distance, FAR)` for distances ≥ 0 at hits, but faster."""
  return np.maximum(distance, ~is_hit * FAR)


def _solve(a, b, c):
  """Discriminant of a · t² + 2 · b · t + c = 0, and its square root.

  The root is 0 where there is no solution.
  """
  discriminant = b * b - a * c
  root = np.sqrt(np.maximum(discriminant, 0))
  return discriminant, root


# Spheres: center x, y, z; radius.


def _sphere_enter(sphere_4P, start_3P, ray_3LP):
  radius = sphere_4P[3]
  offset = start_3P - sphere_4P[:3]
  # |offset + t · ray|² = radius²
  a = column_dots(ray_3LP, ray_3LP)
  b = column_dots(offset[:, None], ray_3LP)
  c = column_dots(offset, offset) - radius * radius
  discriminant, root = _solve(a, b, c)
  distance = (-b - root) / a
  is_hit = (discriminant > 0) & (distance > EPSILON)
  return _far_unless(is_hit, distance)


def _sphere_normals(sphere_4P, point_3P):
  return (point_3P - sphere_4P[:3]) / sphere_4P[3]


# Boxes: center x, y, z; half sizes along x, y, z.


def _center_bounds(shapes_KW):
  """Bounds of shapes that are a center and how far they reach from it."""
  center = shapes_KW[:, :3]
  reach = shapes_KW[:, 3:]
  return center - reach, center + reach


def _box_enter(box_6P, start_3P, ray_3LP):
  center = box_6P[:3]
  half = box_6P[3:6]
  # A ray exactly parallel to a side would otherwise make 0 · inf.
  inverse = 1 / (ray_3LP + TINY)
  low = center - half - start_3P
  high = center + half - start_3P
  to_low = low[:, None] * inverse
  to_high = high[:, None] * inverse
  # The ray is inside where it is between both sides of all three axes.
  first = np.minimum(to_low, to_high)
  second = np.maximum(to_low, to_high)
  enters = np.maximum.reduce(first)
  leaves = np.minimum.reduce(second)
  is_hit = (enters < leaves) & (enters > EPSILON)
  return _far_unless(is_hit, enters)


def _box_normals(box_6P, point_3P):
  scaled = (point_3P - box_6P[:3]) / box_6P[3:6]
  size = np.abs(scaled)
  is_face = size == np.maximum.reduce(size)
  return np.sign(scaled) * is_face


# Frusta: center x, z; heights of bottom and top; radii of bottom and top.
# As columns: center of the bottom x, y, z; slope of the side, in metres of
# radius per metre of height; heights of both lids above the bottom; their
# radii.


def _frustum_bounds(frusta_K6):
  x, z, bottom, top, bottom_radius, top_radius = frusta_K6.T
  radius = np.maximum(bottom_radius, top_radius)
  low = np.array([x - radius, bottom, z - radius])
  high = np.array([x + radius, top, z + radius])
  return low.T, high.T


def _frustum_columns(frusta_K6):
  x, z, bottom, top, bottom_radius, top_radius = frusta_K6.T
  height = top - bottom
  slope = (top_radius - bottom_radius) / height
  return np.array([
      x,
      bottom,
      z,
      slope,
      np.zeros_like(top),
      height,
      bottom_radius,
      top_radius,
  ])


def _frustum_enter(frustum_8P, start_3P, ray_3LP):
  offset = start_3P - frustum_8P[:3]
  through_side = _side_enter(frustum_8P, offset, ray_3LP)
  through_bottom, through_top = _lids_enter(frustum_8P, offset, ray_3LP)
  through_lid = np.minimum(through_bottom, through_top)
  return np.minimum(through_side, through_lid)


def _side_enter(frustum_8P, offset_3P, ray_3LP):
  """Where rays enter the round side; offsets are from the bottom's center."""
  x, y, z = offset_3P
  ray_x, ray_y, ray_z = ray_3LP
  slope = frustum_8P[3]
  top_height = frustum_8P[5]
  bottom_radius = frustum_8P[6]
  # x² + z² = radius², and the radius is linear in y. So it has a value at the
  # start and a change along the ray, as x and z do.
  radius = bottom_radius + slope * y
  ray_radius = slope * ray_y
  a = ray_x * ray_x + ray_z * ray_z - ray_radius * ray_radius
  b = x * ray_x + z * ray_z - radius * ray_radius
  c = x * x + z * z - radius * radius
  discriminant, root = _solve(a, b, c)
  a = a + TINY
  distance = (-b - root) / a
  # The equation also holds on the mirror cone above the tip. A ray steeper
  # than the side meets it once, and the cone itself at the other root.
  hit_radius = radius + distance * ray_radius
  on_mirror = (a < 0) & (hit_radius < 0)
  steep = true_indices(on_mirror.reshape(-1))
  if len(steep):
    other_distance = (root - b) / a
    np.put(distance, steep, other_distance.take(steep))
  height = y + distance * ray_y
  is_hit = (discriminant > 0) & (distance > EPSILON)
  is_hit &= height >= 0
  is_hit &= height <= top_height
  return _far_unless(is_hit, distance)


def _lids_enter(frustum_8P, offset_3P, ray_3LP):
  """Where rays pass through bottom and top, [2, L, P]."""
  x, y, z = offset_3P
  ray_x, ray_y, ray_z = ray_3LP
  heights_2P = frustum_8P[4:6]
  radii_2P = frustum_8P[6:]
  squares_2P = radii_2P * radii_2P
  inverse = 1 / (ray_y + TINY)
  to_lids_2P = heights_2P - y
  distance_2LP = to_lids_2P[:, None] * inverse
  hit_x = x + distance_2LP * ray_x
  hit_z = z + distance_2LP * ray_z
  is_inside = hit_x * hit_x + hit_z * hit_z < squares_2P[:, None]
  is_hit = is_inside & (distance_2LP > EPSILON)
  return _far_unless(is_hit, distance_2LP)


def _frustum_normals(frustum_8P, point_3P):
  x, y, z = point_3P - frustum_8P[:3]
  slope = frustum_8P[3]
  heights_2P = frustum_8P[4:6]
  radii_2P = frustum_8P[6:]
  radius = np.sqrt(x * x + z * z) + _NO_RADIUS
  # A point on a lid is on its plane and inside its rim.
  on_plane = np.abs(y - heights_2P) < _LID_TOLERANCE
  inside_rim = radius < radii_2P - _LID_TOLERANCE / 2
  on_bottom, on_top = on_plane & inside_rim
  on_side = ~(on_top | on_bottom)
  # The normal of the side is (x / radius, -slope, z / radius), made unit.
  side = on_side / np.sqrt(1 + slope * slope)
  lid = on_top.astype(np.float32) - on_bottom
  return stack_xyz(
      x / radius * side,
      lid - slope * side,
      z / radius * side)


class Kind(NamedTuple):
  """A kind of shape; see the top of the file."""
  field: str  # The field of a Thing that holds shapes of this kind.
  size: int  # How many numbers describe one.
  bounds: Callable  # shapes [K, size] → low [K, 3], high [K, 3]
  columns: Callable  # shapes [K, size] → [4..8, K]
  enter: Callable  # columns, start_3P, ray_3LP → distances [L, P], or FAR
  normals: Callable  # columns, point_3P → [3, P]


# The order is that in which a thing and a scene number their shapes.
KINDS = (
    Kind(
        field="spheres",
        size=4,
        bounds=_center_bounds,
        columns=np.transpose,
        enter=_sphere_enter,
        normals=_sphere_normals,
    ),
    Kind(
        field="boxes",
        size=6,
        bounds=_center_bounds,
        columns=np.transpose,
        enter=_box_enter,
        normals=_box_normals,
    ),
    Kind(
        field="frusta",
        size=6,
        bounds=_frustum_bounds,
        columns=_frustum_columns,
        enter=_frustum_enter,
        normals=_frustum_normals,
    ),
)


def bounds(shapes_of_kinds):
  """Boxes around shapes.

  Args:
    shapes_of_kinds: for each of KINDS the shapes, [K of the kind, size].

  Returns:
    Lower and upper corners, float32 [K, 3] each, for the K shapes of all kinds
    in order.
  """
  lows = [np.zeros((0, 3), np.float32)]
  highs = [np.zeros((0, 3), np.float32)]
  for kind, shapes in zip(KINDS, shapes_of_kinds, strict=True):
    if len(shapes):
      low, high = kind.bounds(shapes)
      lows.append(low)
      highs.append(high)
  return np.concatenate(lows), np.concatenate(highs)
