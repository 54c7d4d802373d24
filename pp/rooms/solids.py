"""All shapes of a scene in one table, so that rays meet them in one go.

The shapes of all things are numbered together: first all spheres, then all
boxes, then all frusta, each in the order of the things. Such a number is called
the *solid* here; a solid belongs to one thing, its *owner*.

A ray is only compared with the solids it may meet. `pairs_inside` finds these
pairs of a solid and a ray; `enter` and `normals` take them sorted by solid,
with the number of pairs of each solid.

Axes: N rays or points, M things, K solids, P pairs of a solid and a ray (or a
point), L rays from each start, 3 = x (right), y (up), z (away from the front
wall). Arrays are float32. Lengths are metres.
"""

from typing import NamedTuple

import numpy as np

from pp.rooms.shapes import KINDS, bounds
from pp.rooms.vectors import (
  column_dots,
  rotate_y,
  take_columns,
  true_indices,
)

# Rows of `Solids.table_13K`: the frame of the thing, then the shape in it.
# The frame is the origin x, y, z and the cosine and sine of the yaw.
_FRAME = slice(0, 5)
_SHAPE = slice(5, 13)
_NO_COLORS = np.zeros((0, 3), np.float32)
# Which of the eight corners of a box are at its upper side, by axis.
_CORNERS_381 = np.indices((2, 2, 2)).reshape(3, 8, 1)
_IS_HIGH_381 = _CORNERS_381 == 1


class Solids(NamedTuple):
  """The solids of a scene, one column each."""
  owner_K: np.ndarray  # int, number of the thing.
  starts: tuple  # Numbers of the first sphere, box and frustum; K.
  table_13K: np.ndarray  # Frames and shapes, see _FRAME and _SHAPE.
  colors_3K: np.ndarray  # Linear RGB.
  corners_38K: np.ndarray  # Corners of the boxes around them, in the room.
  balls_4M: np.ndarray  # Centers and radii of balls around whole things.


def to_frame(frame_5P, point_3P):
  """Changes room coordinates to coordinates in the frames of things."""
  offset_3P = point_3P - frame_5P[:3]
  return _rotate_to_frame(frame_5P, offset_3P)


def _rotate_to_frame(frame_5P, vector_3P):
  """Changes directions of the room to directions in the frames of things."""
  cosine, sine = frame_5P[3:]
  return rotate_y(vector_3P, cosine, -sine)


def _rotate_to_room(frame_5P, vector_3P):
  """Changes directions in the frames of things to directions of the room."""
  cosine, sine = frame_5P[3:]
  return rotate_y(vector_3P, cosine, sine)


def make_solids(things):
  """The Solids of a list of Thing."""
  shapes_of_kinds, owner_K, colors_3K = _gather(things)
  starts = [0]
  for shapes in shapes_of_kinds:
    next_start = starts[-1] + len(shapes)
    starts.append(next_start)
  frames_5M = _thing_frames(things)

  num_solids = len(owner_K)
  table_13K = np.zeros((13, num_solids), np.float32)
  frame_5K = take_columns(frames_5M, owner_K)
  table_13K[_FRAME] = frame_5K
  _fill_shapes(table_13K[_SHAPE], starts, shapes_of_kinds)
  return Solids(
      owner_K=owner_K,
      starts=tuple(starts),
      table_13K=table_13K,
      colors_3K=colors_3K,
      corners_38K=_bounding_corners(shapes_of_kinds, frame_5K),
      balls_4M=_bounding_balls(things, frames_5M),
  )


def _gather(things):
  """Shapes by kind, and owners [K] and colors [3, K] of all shapes."""
  shapes_of_kinds = []
  owners = []
  # The empty arrays give a scene without things its types.
  colors = [_NO_COLORS]
  num_gathered = [0] * len(things)
  for kind in KINDS:
    no_shapes = np.zeros((0, kind.size), np.float32)
    shapes_of_kind = [no_shapes]
    for number, thing in enumerate(things):
      shapes = getattr(thing, kind.field)
      # The colors of a thing are in the order of its shapes, kind by kind.
      first = num_gathered[number]
      last = first + len(shapes)
      num_gathered[number] = last
      shapes_of_kind.append(shapes)
      colors.append(thing.colors[first:last])
      owners.extend([number] * len(shapes))
    joined_shapes = np.concatenate(shapes_of_kind)
    shapes_of_kinds.append(joined_shapes)
  owner_K = np.array(owners, int)
  color_K3 = np.concatenate(colors)
  return shapes_of_kinds, owner_K, color_K3.T


def _fill_shapes(rows_8K, starts, shapes_of_kinds):
  """Writes the columns of all shapes into the table; the rest stays 0."""
  for number, kind in enumerate(KINDS):
    columns = kind.columns(shapes_of_kinds[number])
    first = starts[number]
    last = starts[number + 1]
    num_rows = len(columns)
    rows_8K[:num_rows, first:last] = columns


def _thing_frames(things):
  """Frames of the things, [5, M]."""
  num_things = len(things)
  frames_5M = np.empty((5, num_things), np.float32)
  origins = np.array([thing.origin for thing in things])
  yaws = np.array([thing.yaw for thing in things])
  frames_5M[:3] = origins.reshape(-1, 3).T
  frames_5M[3] = np.cos(yaws)
  frames_5M[4] = np.sin(yaws)
  return frames_5M


def _bounding_corners(shapes_of_kinds, frame_5K):
  """Corners, in the room, of the boxes around the shapes: [3, 8, K]."""
  low_K3, high_K3 = bounds(shapes_of_kinds)
  low_3K = low_K3.T
  high_3K = high_K3.T
  corners_38K = np.where(
      _IS_HIGH_381, high_3K[:, None], low_3K[:, None])
  corners_38K = _rotate_to_room(frame_5K, corners_38K)
  origin_3K = frame_5K[:3]
  return corners_38K + origin_3K[:, None]


def _bounding_balls(things, frames_5M):
  """Centers in the room and radii of balls around the things, [4, M]."""
  lows = [thing.low for thing in things]
  highs = [thing.high for thing in things]
  low = np.array(lows, np.float32)
  high = np.array(highs, np.float32)
  # With no things there are no rows to tell the 3 columns by.
  low_3M = low.reshape(-1, 3).T
  high_3M = high.reshape(-1, 3).T
  middle_3M = (low_3M + high_3M) / 2
  half_3M = high_3M - middle_3M
  center_3M = _rotate_to_room(frames_5M, middle_3M)
  center_3M = center_3M + frames_5M[:3]
  square_M = column_dots(half_3M, half_3M)
  radius_M = np.sqrt(square_M)
  return np.concatenate([center_3M, radius_M[None]])


class PlaneBoxes(NamedTuple):
  """Axis-parallel boxes in a plane, one around each solid's outline."""
  low_2K: np.ndarray
  high_2K: np.ndarray


def pairs_inside(boxes, first, second, allowed=None):
  """Finds all pairs of a box and a point inside it.

  Args:
    boxes: PlaneBoxes of K solids.
    first: first coordinate of the points.
    second: second coordinate; both are broadcast to the N points.
    allowed: bool [K, N], which pairs may count; None: all.

  Returns:
    How many points are in each box, [K], and the numbers of the points, [P],
    box by box.
  """
  # The solids get an axis in front of those of the points.
  point_axes = (1,) * first.ndim
  box_shape = boxes.low_2K.shape + point_axes
  low_first, low_second = boxes.low_2K.reshape(box_shape)
  high_first, high_second = boxes.high_2K.reshape(box_shape)
  in_first = (first > low_first) & (first < high_first)
  in_second = (second > low_second) & (second < high_second)
  inside = in_first & in_second
  if allowed is not None:
    inside &= allowed
  return _pairs_of(inside)


def _pairs_of(inside):
  """Counts [K] and points [P] of the pairs that bool [K, ...] marks."""
  num_boxes = len(inside)
  num_points = inside.size // max(num_boxes, 1)
  # Positions in the flattened array are sorted: those of box k lie between
  # k · num_points and the next multiple.
  positions = true_indices(inside.reshape(-1))
  box_starts = np.arange(num_boxes + 1) * num_points
  ends = positions.searchsorted(box_starts)
  count_K = ends[1:] - ends[:-1]
  start_K = box_starts[:-1]
  start_P = np.repeat(start_K, count_K)
  return count_K, positions - start_P


def _spread(solids, count_K):
  """Frames [5, P] and shapes [8, P] of the solid of each pair."""
  table_13P = np.repeat(solids.table_13K, count_K, axis=1)
  return table_13P[_FRAME], table_13P[_SHAPE]


def _kinds_of_pairs(solids, count_K):
  """(kind, slice of its pairs) for each kind that has pairs."""
  ends = [0, *count_K.cumsum().tolist()]
  spans = []
  for number, kind in enumerate(KINDS):
    first_solid = solids.starts[number]
    last_solid = solids.starts[number + 1]
    first = ends[first_solid]
    last = ends[last_solid]
    if first < last:
      spans.append((kind, slice(first, last)))
  return spans


def enter(solids, count_K, start_3P, ray_3LP):
  """Finds where rays enter the solids they are paired with.

  Args:
    solids: K Solids.
    count_K: how many of the P pairs each solid has.
    start_3P: starts of the rays, outside the solids; [3, 1] for one start that
      all share.
    ray_3LP: directions of L rays from each start, of any length.

  Returns:
    float32 [L, P]: the multiple of the direction that reaches the solid; FAR
    on a miss.
  """
  frame_5P, shape_8P = _spread(solids, count_K)
  start_3P = to_frame(frame_5P, start_3P)
  ray_3LP = _rotate_to_frame(frame_5P, ray_3LP)
  distance_LP = np.empty(ray_3LP.shape[1:], np.float32)
  for kind, span in _kinds_of_pairs(solids, count_K):
    distance_LP[:, span] = kind.enter(
        shape_8P[:, span],
        start_3P[:, span],
        ray_3LP[:, :, span])
  return distance_LP


def normals(solids, count_K, point_3P):
  """Finds the unit outward normals [3, P] at points on solids.

  Args:
    solids: K Solids.
    count_K: how many of the P points lie on each solid.
    point_3P: points in the room, solid by solid.
  """
  frame_5P, shape_8P = _spread(solids, count_K)
  point_3P = to_frame(frame_5P, point_3P)
  normal_3P = np.empty_like(point_3P)
  for kind, span in _kinds_of_pairs(solids, count_K):
    normal_3P[:, span] = kind.normals(
        shape_8P[:, span],
        point_3P[:, span])
  return _rotate_to_room(frame_5P, normal_3P)
