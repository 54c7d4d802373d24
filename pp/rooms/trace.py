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
  column = camera.width / 2 + right * zoom
  row = camera.height / 2 + down * zoom
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
  to_lamp = lamp.center[:, None, None] - corners_38K
  corners_28K = np.array(lamp_coordinates(to_lamp))
  # Seen from the rim of the lamp and not from its middle, shadows lie aside.
  lamp_height = lamp.center[1]
  solid_top_K = corners_38K[1].max(0)
  nearest_K = 1 / (lamp_height - solid_top_K)
  farthest = 1 / (lamp_height + 1)
  aside_K = lamp.radius * (nearest_K - farthest)
  return solids_lib.PlaneBoxes(
      low_2K=corners_28K.min(1) - aside_K,
      high_2K=corners_28K.max(1) + aside_K,
  )


def _meet_planes(scene, ray_3N):
  """Depth [N] and code [N] of the plane of the room that each ray meets."""
  eye_31 = scene.camera.eye[:, None]
  room_31 = scene.room[:, None]
  inverse_3N = 1 / (ray_3N + TINY)
  to_high_3N = (room_31 - eye_31) * inverse_3N
  to_low_3N = -eye_31 * inverse_3N
  # From inside the room, the wall ahead is the farther one of two crossings.
  depth_x, depth_y, depth_z = np.maximum(to_high_3N, to_low_3N)
  depth_N = np.minimum(np.minimum(depth_x, depth_y), depth_z)
  is_level = depth_y == depth_N
  is_side = (depth_x == depth_N) & ~is_level
  is_end = ~(is_level | is_side)
  # Each pair of planes has two codes in sequence: the first less 0 or 1.
  ray_x, ray_y, ray_z = ray_3N
  level = np.int8(scene_lib.FLOOR) - (ray_y > 0)
  side = np.int8(scene_lib.LEFT) - (ray_x > 0)
  end = np.int8(scene_lib.BACK) - (ray_z <= 0)
  code_N = level * is_level + side * is_side + end * is_end
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
  ray_3N = ray_directions(scene.camera, column, row).reshape(3, -1)
  depth_N, surface_N = _meet_planes(scene, ray_3N)

  count_K, ray_P = solids_lib.pairs_inside(prepared.outlines, column, row)
  rays_31P = take_columns(ray_3N, ray_P)[:, None]
  (distance_P,) = solids_lib.enter(solids, count_K, eye_31, rays_31P)
  solid_P = np.repeat(np.arange(len(count_K)), count_K)
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
  closer = true_indices(distance_P < depth_N.take(ray_P))
  distance_P = distance_P.take(closer)
  ray_P = ray_P.take(closer)
  solid_P = solid_P.take(closer)
  np.minimum.at(depth_N, ray_P, distance_P)
  # Of solids at the same distance the first one counts. The last value that is
  # written to an element stays, so they are written backwards.
  closest = true_indices(distance_P == depth_N.take(ray_P))[::-1]
  surface_N[ray_P.take(closest)] = solid_P.take(closest)


def pixel_centers(index):
  """Positions of the middles of the pixels with these indices."""
  return index.astype(np.float32) + _HALF_PIXEL


def trace_pixels(prepared):
  """Hits of one ray through the middle of each pixel, row by row."""
  camera = prepared.scene.camera
  column = pixel_centers(np.arange(camera.width))
  row = pixel_centers(np.arange(camera.height))
  return trace(prepared, column[None], row[:, None])
