"""Surface normals: of hits, for shading, and of a whole image, as labels.

Axes: H W pixels, N hits, K solids, 3 = x, y, z.
"""

import numpy as np

from pp.rooms import solids as solids_lib
from pp.rooms.camera import to_camera
from pp.rooms.trace import prepare, trace_pixels
from pp.rooms.vectors import set_columns, take_columns, true_indices

# Normals of the planes of a room, in the order of `scene.PLANES`.
_PLANE_NORMALS = np.float32([
    (0, 1, 0),
    (0, -1, 0),
    (1, 0, 0),
    (-1, 0, 0),
    (0, 0, -1),
    (0, 0, 1),
]).T


def hit_normals(prepared, hits):
  """Unit normals [3, N] of the surfaces at Hits, in room axes."""
  surface_N = hits.surface_N
  # Code -1 is the first plane. Solids get its normal too, for the moment.
  plane_N = -1 - np.minimum(surface_N, -1)
  normal_3N = take_columns(_PLANE_NORMALS, plane_N)
  on_solid = true_indices(surface_N >= 0)
  solid = surface_N.take(on_solid)
  # `solids.normals` wants the points solid by solid.
  on_solid = on_solid.take(solid.argsort(kind="stable"))
  count_K = np.bincount(solid, minlength=len(prepared.solids.owner_K))
  points = take_columns(hits.point_3N, on_solid)
  set_columns(normal_3N, on_solid,
              solids_lib.normals(prepared.solids, count_K, points))
  return normal_3N


def image_normals(scene):
  """Depth and normals of a Scene as its camera sees them.

  Returns:
    float32 [H, W, 1], planar depth in metres; float32 [H, W, 3], unit normals
    with x to the right, y up and z towards the camera.
  """
  camera = scene.camera
  prepared = prepare(scene)
  hits = trace_pixels(prepared)
  # A normal is the way from the eye to a point one normal away from it.
  x, y, z = camera.eye[:, None] + hit_normals(prepared, hits)
  right, down, ahead = to_camera(camera, x, y, z)
  normal_N3 = np.stack([right, -down, -ahead], -1)
  shape = (camera.height, camera.width)
  depth_HW1 = hits.depth_N.reshape(*shape, 1)
  return depth_HW1, normal_N3.reshape(*shape, 3)
