"""Casts rays into a room: what each meets first, and where.

Axes: N rays, K primitives, P pairs of a primitive and a ray that may meet,
3 = x, y, z. float32; metres.
"""

from typing import NamedTuple

import numpy as np

from pp.rooms import scene as rooms_scene
from pp.rooms import shapes
from pp.rooms.shapes import at

# What a ray meets is a primitive (≥ 0) or one of these.
PLANES = FLOOR, CEILING, LEFT, RIGHT, BACK, FRONT = range(-1, -7, -1)


class View(NamedTuple):
  """A scene and what all rays into it need."""
  scene: rooms_scene.Scene
  solids: shapes.Solids
  owner: np.ndarray  # [K + 6] primitive → thing; planes' codes stay.
  screen: tuple  # [2, K], [2, K]: boxes around the primitives in the image.
  shadow: tuple  # Likewise around their shadows, see `lamp_coordinates`.


class Hits(NamedTuple):
  """What each ray meets first."""
  d: np.ndarray  # [3, N] direction.
  t: np.ndarray  # [N] distance = planar depth, metres.
  p: np.ndarray  # [3, N] where.
  part: np.ndarray  # [N] int8: number of the primitive, or a plane's code.
  who: np.ndarray  # [N] int8: number of the thing, or a plane's code < 0.


def prepare(scene):
  """The View of a scene."""
  solids = shapes.solids(scene.things)
  # Codes < 0 index from the end.
  owner = np.concatenate([solids.owner, PLANES[::-1]]).astype(np.int8)
  return View(scene, solids, owner, _screen_boxes(scene, solids),
              _shadow_boxes(scene, solids))


def _screen_boxes(scene, solids):
  x, y, z = rooms_scene.to_camera(scene, *solids.corners_38K)
  h, w = scene.shape
  zoom = scene.focal / np.maximum(z, np.float32(0.05))
  uv = np.array([w / 2 + x * zoom, h / 2 + y * zoom])
  low, high = uv.min(1), uv.max(1)
  behind = z.min(0) <= 0.05  # The outline has no finite box.
  low[:, behind], high[:, behind] = -shapes.FAR, shapes.FAR
  return low, high


def lamp_coordinates(to_lamp):
  """Two numbers that all points on a line through the lamp share, for points
  below it; `to_lamp` holds the ways from them to the lamp."""
  x, y, z = to_lamp
  y = np.maximum(y, shapes.EPS)  # Nothing casts shadows on what is above.
  return x / y, z / y


def _shadow_boxes(scene, solids):
  corners = solids.corners_38K
  ab = np.array(lamp_coordinates(scene.lamp[:, None, None] - corners))
  # Seen from the rim of the light instead of its middle they lie aside.
  aside = scene.spread * (1 / (scene.lamp[1] - corners[1].max(0))
                          - 1 / (scene.lamp[1] + 1))
  return ab.min(1) - aside, ab.max(1) + aside


def _room_hits(scene, d):
  """Distance and plane code of the room's own surface along each ray."""
  inv = 1 / (d + np.float32(1e-20))
  # Seen from inside, the wall ahead is the larger of two crossings.
  tx, ty, tz = np.maximum((scene.room - scene.eye)[:, None] * inv,
                          -scene.eye[:, None] * inv)
  t = np.minimum(np.minimum(tx, ty), tz)
  level = ty == t
  side = (tx == t) & ~level
  part = ((np.int8(FLOOR) - (d[1] > 0)) * level
          + (np.int8(LEFT) - (d[0] > 0)) * side
          + (np.int8(BACK) - (d[2] <= 0)) * ~(level | side))
  return t, part


def trace(view, u, v):
  """First hits of the rays through pixel positions (u, v): float32 arrays
  of the same rank that are broadcast to N rays."""
  scene, solids = view.scene, view.solids
  d = rooms_scene.ray_directions(scene, u, v).reshape(3, -1)
  t, part = _room_hits(scene, d)
  count, ray = shapes.pairs(u, v, *view.screen)
  hit = shapes.intersect(
      solids, count, scene.eye[:, None], at(d, ray)[:, None])[0]
  which = np.repeat(np.arange(len(count)), count)
  closer = shapes.where(hit < t.take(ray))
  hit, ray, which = hit.take(closer), ray.take(closer), which.take(closer)
  np.minimum.at(t, ray, hit)
  # Of primitives at the same distance the first: the last one written stays.
  first = shapes.where(hit == t.take(ray))[::-1]
  part[ray.take(first)] = which.take(first)
  return Hits(d, t, scene.eye[:, None] + t * d, part, view.owner.take(part))
