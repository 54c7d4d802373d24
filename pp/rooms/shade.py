"""The colour of what rays meet: its own, and how much light reaches it.

Axes: N hits, L samples of the light, K primitives, P pairs of a primitive and
a ray, 3 = x, y, z or R, G, B. float32; metres; linear light.
"""

import numpy as np

from pp.rooms import shapes, surfaces
from pp.rooms.shapes import at, dot, put, where
from pp.rooms.trace import FLOOR, LEFT, lamp_coordinates

_PLANE_NORMALS = np.float32([
    (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0), (0, 0, -1), (0, 0, 1)]).T


def _albedo_and_normals(view, hits):
  """Own colour and unit normal of every hit, [3, N] each."""
  scene, solids, part, p = view.scene, view.solids, hits.part, hits.p
  albedo = np.empty_like(p)
  albedo[:] = scene.ceiling[:, None]
  floor = where(part == FLOOR)
  put(albedo, floor, surfaces.floor_color(
      scene, at(p, floor), hits.t.take(floor)))
  wall = where(part <= LEFT)
  put(albedo, wall, surfaces.wall_color(
      scene, part.take(wall), at(p, wall), hits.t.take(wall)))
  n = at(_PLANE_NORMALS, -1 - np.minimum(part, -1))
  solid = where(part >= 0)
  mine = part.take(solid)
  solid = solid.take(mine.argsort(kind="stable"))
  count = np.bincount(mine, minlength=len(solids.owner))
  put(n, solid, shapes.normals(solids, count, at(p, solid)))
  put(albedo, solid, np.repeat(solids.colors_3K, count, axis=1))
  return albedo, n


def lit(view, p, n, lamps_3LN):
  """Share of the light samples that reach the surface points, [N].

  `lamps_3LN` holds L samples, the same for all points (N = 1) or one per
  point.
  """
  scene, solids = view.scene, view.solids
  start = p + np.float32(4e-3) * n
  to_lamp = scene.lamp[:, None] - start
  facing = dot(to_lamp, n) > -scene.spread
  # What is above a solid is never in its shadow: the lamp is higher up.
  below = start[1] < solids.corners_38K[1].max(0)[:, None]
  count, near = shapes.pairs(*lamp_coordinates(to_lamp), *view.shadow,
                             facing & below)
  start = at(start, near)
  if lamps_3LN.shape[2] > 1:
    lamps_3LN = lamps_3LN.take(near, axis=2)
  hit = shapes.intersect(solids, count, start, lamps_3LN - start[:, None]) < 1
  dark = np.zeros((len(hit), p.shape[1]), np.int8)
  for row, mine in zip(dark, hit, strict=True):
    row[near.compress(mine)] = 1
  return 1 - dark.sum(0, dtype=np.int8) / np.float32(len(hit))


def _ambient(view, hits, n):
  """Share of the sky each point sees: darker in corners and under things."""
  scene, solids, p = view.scene, view.solids, hits.p
  # Light from above, and half as much again thrown back by the floor.
  open_ = np.float32(0.8) + np.float32(0.2) * n[1] - np.minimum(n[1], 0) / 2
  side = np.minimum(p, scene.room[:, None] - p)
  side = 1 - (1 - np.abs(n)) / (side * side * 80 + np.float32(3.2))
  open_ *= side[0] * side[1] * side[2]
  # M things at once.
  balls_4M1 = solids.balls_4M[..., None]
  to, radius_M1 = balls_4M1[:3] - p[:, None], balls_4M1[3] * np.float32(0.8)
  size = radius_M1 / np.sqrt(dot(to, to))
  block = np.maximum(dot(to, n[:, None]), 0) * size * np.minimum(
      size * size, 1)
  others = hits.who != np.arange(len(size), dtype=np.int8)[:, None]
  block *= others & (size > 1 / 3)  # None far away.
  return open_ * np.multiply.reduce(1 - np.float32(0.75) / radius_M1 * block)


def _shine(to, view, n):
  """Highlights [N] of light from `to` in the eye that looks along `view`."""
  half = to / np.sqrt(dot(to, to)) - view / np.sqrt(dot(view, view))
  shine = np.maximum(dot(half, n), 0) / np.sqrt(dot(half, half))
  for _ in range(5):  # To the 32nd power.
    shine = shine * shine
  return shine


def shade(view, hits, lamps_3LN):
  """Linear RGB [3, N] of what the rays hit, lit by the given light samples."""
  scene = view.scene
  albedo, n = _albedo_and_normals(view, hits)
  share = lit(view, hits.p, n, lamps_3LN)
  to = scene.lamp[:, None] - hits.p
  square = dot(to, to)
  toward = np.maximum(dot(to, n), 0) / np.sqrt(square)
  direct = share * toward * np.float32(4.8) / (square + np.float32(2.2))
  # A weak lamp at the camera: faces in shadow keep their shape.
  fill = np.abs(dot(hits.d, n)) / np.sqrt(dot(hits.d, hits.d))
  soft = (np.float32(scene.ambient) * _ambient(view, hits, n)
          + np.float32(0.12) * fill)
  color = albedo * (direct * scene.warmth[:, None] + soft)
  solid = where(hits.part >= 0)
  shine = _shine(at(to, solid), at(hits.d, solid), at(n, solid))
  gloss = np.float32([thing.gloss for thing in scene.things] + [0])
  shine *= gloss.take(hits.who.take(solid)) * share.take(solid)
  put(color, solid, at(color, solid) + shine)
  if scene.window is not None:
    here, a, b = surfaces.in_window(scene.window, hits.part, hits.p)
    sky, bar = surfaces.sky(scene.window, a, b)
    put(color, here, np.where(bar, at(color, here) * np.float32(1.15), sky))
  return color
