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
_TINY = np.float32(1e-20)  # Keeps a divisor from being 0.
_LID_TOLERANCE = np.float32(2e-3)  # Metres from a lid that still are on it.


def _far_unless(is_hit, distance):
  """`np.where(is_hit, distance, FAR)` for distances ≥ 0 at hits, but faster."""
  return np.maximum(distance, ~is_hit * FAR)


# Spheres: center x, y, z; radius.


def _sphere_enter(sphere_4P, start_3P, ray_3LP):
  radius = sphere_4P[3]
  offset = start_3P - sphere_4P[:3]
  # |offset + t · ray|² = radius² is a · t² + 2 · b · t + c = 0.
  a = column_dots(ray_3LP, ray_3LP)
  b = column_dots(offset[:, None], ray_3LP)
  c = column_dots(offset, offset) - radius * radius
  discriminant = b * b - a * c
  root = np.sqrt(np.maximum(discriminant, 0))
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
  inverse = 1 / (ray_3LP + _TINY)
  to_low = (center - half - start_3P)[:, None] * inverse
  to_high = (center + half - start_3P)[:, None] * inverse
  # The ray is inside where it is between both sides of all three axes.
  enters = np.maximum.reduce(np.minimum(to_low, to_high))
  leaves = np.minimum.reduce(np.maximum(to_low, to_high))
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
      x, bottom, z, slope, np.zeros_like(top), height, bottom_radius,
      top_radius])


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
  # x² + z² = radius(y)², and the radius is linear in y: with the radius at the
  # start and its change along the ray this is a · t² + 2 · b · t + c = 0.
  radius = frustum_8P[6] + slope * y
  ray_radius = slope * ray_y
  a = ray_x * ray_x + ray_z * ray_z - ray_radius * ray_radius
  b = x * ray_x + z * ray_z - radius * ray_radius
  c = x * x + z * z - radius * radius
  discriminant = b * b - a * c
  root = np.sqrt(np.maximum(discriminant, 0))
  a = a + _TINY
  distance = (-b - root) / a
  # The equation also holds on the mirror cone above the tip. A ray steeper
  # than the side meets it once, and the cone itself at the other root.
  on_mirror = (a < 0) & (radius + distance * ray_radius < 0)
  steep = true_indices(on_mirror.reshape(-1))
  if len(steep):
    other_distance = (root - b) / a
    np.put(distance, steep, other_distance.take(steep))
  height = y + distance * ray_y
  is_hit = ((discriminant > 0) & (distance > EPSILON)
            & (height >= 0) & (height <= top_height))
  return _far_unless(is_hit, distance)


def _lids_enter(frustum_8P, offset_3P, ray_3LP):
  """Where rays pass through bottom and top, [2, L, P]."""
  x, y, z = offset_3P
  ray_x, ray_y, ray_z = ray_3LP
  heights_2P = frustum_8P[4:6]
  radii_2P = frustum_8P[6:]
  squares_21P = (radii_2P * radii_2P)[:, None]
  distance_2LP = (heights_2P - y)[:, None] * (1 / (ray_y + _TINY))
  at_x = x + distance_2LP * ray_x
  at_z = z + distance_2LP * ray_z
  is_inside = at_x * at_x + at_z * at_z < squares_21P
  is_hit = (distance_2LP > EPSILON) & is_inside
  return _far_unless(is_hit, distance_2LP)


def _frustum_normals(frustum_8P, point_3P):
  x, y, z = point_3P - frustum_8P[:3]
  slope = frustum_8P[3]
  heights_2P = frustum_8P[4:6]
  radii_2P = frustum_8P[6:]
  radius = np.sqrt(x * x + z * z) + np.float32(1e-6)
  # A point on a lid is on its plane and inside its rim.
  on_plane = np.abs(y - heights_2P) < _LID_TOLERANCE
  inside_rim = radius < radii_2P - _LID_TOLERANCE / 2
  on_bottom, on_top = on_plane & inside_rim
  on_side = ~(on_top | on_bottom)
  # The normal of the side is (x / radius, -slope, z / radius), made unit.
  side = on_side / np.sqrt(1 + slope * slope)
  up = on_top.astype(np.float32) - on_bottom - slope * side
  return stack_xyz(x / radius * side, up, z / radius * side)


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
    Kind("spheres", 4, _center_bounds, np.transpose, _sphere_enter,
         _sphere_normals),
    Kind("boxes", 6, _center_bounds, np.transpose, _box_enter, _box_normals),
    Kind("frusta", 6, _frustum_bounds, _frustum_columns, _frustum_enter,
         _frustum_normals),
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
