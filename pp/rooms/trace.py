"""Casts rays into a scene: what each ray meets first, and where.

What a ray meets is called its *surface*: the number of a solid (≥ 0, see
`solids`) or the code of a plane of the room (< 0, see `scene`). The *owner* is
the number of the thing that a solid belongs to; a plane is its own owner.

Axes: N rays, K solids, P pairs of a solid and a ray that may meet, 3 = x, y, z.
Arrays are float32 unless noted. Lengths are metres.
"""

from typing import NamedTuple

import numpy as np

from pp.rooms import scene as scene_lib
from pp.rooms import solids as solids_lib
from pp.rooms.camera import ray_directions, to_camera
from pp.rooms.shapes import EPSILON, FAR, TINY
from pp.rooms.vectors import take_columns, true_indices

_HALF_PIXEL = np.float32(0.5)
_FLOOR = np.int8(scene_lib.FLOOR)
_LEFT = np.int8(scene_lib.LEFT)
_BACK = np.int8(scene_lib.BACK)
_NEAREST = 0.05  # What is closer to the camera has no outline in the image.


class PreparedScene(NamedTuple):
  """A scene, and what all rays into it need."""
  scene: scene_lib.Scene
  solids: solids_lib.Solids
  owners: np.ndarray  # int8 [K + 6], owner of each surface.
  outlines: solids_lib.PlaneBoxes  # Around the solids in the image.
  shadows: solids_lib.PlaneBoxes  # Around them in `lamp_coordinates`.


class Hits(NamedTuple):
  """What each ray meets first."""
  ray_3N: np.ndarray  # Direction of the ray.
  depth_N: np.ndarray  # Planar depth.
  point_3N: np.ndarray  # Where in the room.
  surface_N: np.ndarray  # int8
  owner_N: np.ndarray  # int8


def prepare(scene):
  """The PreparedScene of a Scene."""
  solids = solids_lib.make_solids(scene.things)
  # The codes of planes are negative: they index from the end.
  owners = np.concatenate([solids.owner_K, scene_lib.PLANES[::-1]])
  return PreparedScene(
      scene=scene,
      solids=solids,
      owners=owners.astype(np.int8),
      outlines=_outline_boxes(scene.camera, solids),
      shadows=_shadow_boxes(scene.lamp, solids),
  )


def _outline_boxes(camera, solids):
  """Boxes around the solids in the image, in pixels."""
  right, down, ahead = to_camera(camera, *solids.corners_38K)
  zoom = camera.focal / np.maximum(ahead, np.float32(_NEAREST))
  middle_column = camera.width / 2
  middle_row = camera.height / 2
  column = middle_column + right * zoom
  row = middle_row + down * zoom
  corners_28K = np.array([column, row])
  low_2K = corners_28K.min(1)
  high_2K = corners_28K.max(1)
  # The outline of what reaches behind the camera has no finite box.
  is_behind = ahead.min(0) <= _NEAREST
  low_2K[:, is_behind] = -FAR
  high_2K[:, is_behind] = FAR
  return solids_lib.PlaneBoxes(low_2K, high_2K)


def lamp_coordinates(to_lamp):
  """Two numbers that all points on a line through the lamp share.

  They hold for points below the lamp.

  Args:
    to_lamp: [3, ...], the ways from the points to the lamp.
  """
  x, y, z = to_lamp
  y = np.maximum(y, EPSILON)  # Nothing casts a shadow on what is above.
  return x / y, z / y


def _shadow_boxes(lamp, solids):
  """Boxes around the shadows of the solids, in `lamp_coordinates`."""
  corners_38K = solids.corners_38K
  center_311 = lamp.center[:, None, None]
  to_lamp = center_311 - corners_38K
  coordinates = lamp_coordinates(to_lamp)
  corners_28K = np.array(coordinates)
  # Seen from the rim of the lamp and not from its middle, shadows lie aside.
  lamp_height = lamp.center[1]
  solid_top_K = corners_38K[1].max(0)
  nearest_K = 1 / (lamp_height - solid_top_K)
  farthest = 1 / (lamp_height + 1)
  aside_K = lamp.radius * (nearest_K - farthest)
  low_2K = corners_28K.min(1)
  high_2K = corners_28K.max(1)
  return solids_lib.PlaneBoxes(
      low_2K=low_2K - aside_K,
      high_2K=high_2K + aside_K,
  )


def _meet_planes(scene, ray_3N):
  """Depth [N] and code [N] of the plane of the room that each ray meets."""
  eye_31 = scene.camera.eye[:, None]
  room_31 = scene.room[:, None]
  safe_ray_3N = ray_3N + TINY  # Nothing is divided by 0.
  inverse_3N = 1 / safe_ray_3N
  to_high_3N = (room_31 - eye_31) * inverse_3N
  to_low_3N = -eye_31 * inverse_3N
  # From inside the room, the wall ahead is the farther one of two crossings.
  depth_x, depth_y, depth_z = np.maximum(to_high_3N, to_low_3N)
  depth_xy = np.minimum(depth_x, depth_y)
  depth_N = np.minimum(depth_xy, depth_z)
  is_level = depth_y == depth_N
  is_side = depth_x == depth_N
  is_side = is_side & ~is_level
  is_end = ~(is_level | is_side)
  # Each pair of planes has two codes in sequence: the first less 0 or 1.
  ray_x, ray_y, ray_z = ray_3N
  level = _FLOOR - (ray_y > 0)
  side = _LEFT - (ray_x > 0)
  end = _BACK - (ray_z <= 0)
  code_N = level * is_level + side * is_side
  code_N = code_N + end * is_end
  return depth_N, code_N


def trace(prepared, column, row):
  """Traces rays through positions in the image.

  Args:
    prepared: a PreparedScene.
    column: float32, horizontal positions in pixels.
    row: float32, vertical positions. Both have the same rank and are broadcast
      to the N rays.

  Returns:
    Hits of the N rays, the last axis running fastest.
  """
  scene = prepared.scene
  solids = prepared.solids
  eye_31 = scene.camera.eye[:, None]
  rays = ray_directions(scene.camera, column, row)
  ray_3N = rays.reshape(3, -1)
  depth_N, surface_N = _meet_planes(scene, ray_3N)

  count_K, ray_P = solids_lib.pairs_inside(prepared.outlines, column, row)
  ray_3P = take_columns(ray_3N, ray_P)
  ray_31P = ray_3P[:, None]
  (distance_P,) = solids_lib.enter(solids, count_K, eye_31, ray_31P)
  solid_K = np.arange(len(count_K))
  solid_P = np.repeat(solid_K, count_K)
  _keep_closest(depth_N, surface_N, distance_P, ray_P, solid_P)
  return Hits(
      ray_3N=ray_3N,
      depth_N=depth_N,
      point_3N=eye_31 + depth_N * ray_3N,
      surface_N=surface_N,
      owner_N=prepared.owners.take(surface_N),
  )


def _keep_closest(depth_N, surface_N, distance_P, ray_P, solid_P):
  """Writes the closest solid of each ray over its plane, in place."""
  depth_P = depth_N.take(ray_P)
  closer = true_indices(distance_P < depth_P)
  distance_P = distance_P.take(closer)
  ray_P = ray_P.take(closer)
  solid_P = solid_P.take(closer)
  np.minimum.at(depth_N, ray_P, distance_P)
  # Of solids at the same distance the first one counts. The last value that is
  # written to an element stays, so they are written backwards.
  least_depth_P = depth_N.take(ray_P)
  closest = true_indices(distance_P == least_depth_P)
  backwards = closest[::-1]
  written = ray_P.take(backwards)
  surface_N[written] = solid_P.take(backwards)


def pixel_centers(index):
  """Positions of the middles of the pixels with these indices."""
  return index.astype(np.float32) + _HALF_PIXEL


def trace_pixels(prepared):
  """Hits of one ray through the middle of each pixel, row by row."""
  camera = prepared.scene.camera
  column_numbers = np.arange(camera.width)
  row_numbers = np.arange(camera.height)
  column = pixel_centers(column_numbers)
  row = pixel_centers(row_numbers)
  return trace(prepared, column[None], row[:, None])
