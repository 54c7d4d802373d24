"""The light that surfaces send to the camera: own color times light on them.

Light falls on a point from the lamp, unless solids are in the way, from
everywhere (less of it in corners and close to things), and from a weak lamp at
the camera. Glossy things show a highlight, and the window shows the sky.

Axes: N hits, L samples of the lamp, M things, K solids, P pairs of a solid and
a ray that may meet, 3 = x, y, z or R, G, B. float32; metres; linear light.
"""

import numpy as np

from pp.rooms import solids as solids_lib
from pp.rooms import surfaces
from pp.rooms.normals import hit_normals
from pp.rooms.scene import FLOOR, LEFT
from pp.rooms.trace import lamp_coordinates
from pp.rooms.vectors import (
  column_dots,
  set_columns,
  take_columns,
  true_indices,
)

_OFF_SURFACE = np.float32(4e-3)  # Rays to the lamp start above the surface.
_BAR_BRIGHTNESS = np.float32(1.15)  # Of window bars, relative to the wall.

# Strengths and reaches of the light.
_LAMP_STRENGTH = np.float32(4.8)
_LAMP_NEAR = np.float32(2.2)  # Square metres; no nearer point is much brighter.
_CAMERA_STRENGTH = np.float32(0.12)
_LEVEL_SHARE = np.float32(0.8)  # What a wall sees of the light from above.
_UP_SHARE = np.float32(0.2)  # What a floor sees more than a wall.
_PLANE_MIN = np.float32(3.2)  # Next to a plane 1 / this of the light is lost.
_PLANE_FALLOFF = 80  # Per square metre.
_THING_RADIUS = np.float32(0.8)  # Of the ball that holds it.
_THING_STRENGTH = np.float32(0.75)
_THING_REACH = 1 / 3  # Least size, radius by distance, that darkens.


def _own_color(prepared, hits):
  """The color [3, N] of each surface under white light."""
  scene = prepared.scene
  surface_N = hits.surface_N
  color_3N = np.empty_like(hits.point_3N)
  # All get the color of the ceiling; the other surfaces write over it.
  color_3N[:] = scene.ceiling[:, None]

  on_floor = true_indices(surface_N == FLOOR)
  point = take_columns(hits.point_3N, on_floor)
  depth = hits.depth_N.take(on_floor)
  floor_color = surfaces.floor_color(scene, point, depth)
  set_columns(color_3N, on_floor, floor_color)

  on_wall = true_indices(surface_N <= LEFT)  # The four walls come last.
  surface = surface_N.take(on_wall)
  point = take_columns(hits.point_3N, on_wall)
  depth = hits.depth_N.take(on_wall)
  wall_color = surfaces.wall_color(scene, surface, point, depth)
  set_columns(color_3N, on_wall, wall_color)

  on_solid = true_indices(surface_N >= 0)
  solid = surface_N.take(on_solid)
  solid_color = take_columns(prepared.solids.colors_3K, solid)
  set_columns(color_3N, on_solid, solid_color)
  return color_3N


def lit_share(prepared, point_3N, normal_3N, samples_3LN):
  """Share of the lamp that points of surfaces see, [N].

  Args:
    prepared: a PreparedScene.
    point_3N: the points.
    normal_3N: normals of their surfaces.
    samples_3LN: L samples of the lamp; [3, L, 1] for the same at all points.
  """
  lamp = prepared.scene.lamp
  solids = prepared.solids
  start_3N = point_3N + _OFF_SURFACE * normal_3N
  to_lamp_3N = lamp.center[:, None] - start_3N
  # A face may see the rim of the lamp when it does not see the middle.
  toward_lamp_N = column_dots(to_lamp_3N, normal_3N)
  is_facing_N = toward_lamp_N > -lamp.radius
  # What is above a solid is never in its shadow: the lamp is higher up.
  solid_top_K = solids.corners_38K[1].max(0)
  is_below_KN = start_3N[1] < solid_top_K[:, None]
  may_be_dark_KN = is_facing_N & is_below_KN
  first_N, second_N = lamp_coordinates(to_lamp_3N)
  count_K, point_P = solids_lib.pairs_inside(
      prepared.shadows, first_N, second_N, may_be_dark_KN)

  start_3P = take_columns(start_3N, point_P)
  if samples_3LN.shape[2] > 1:
    samples_3LN = samples_3LN.take(point_P, axis=2)
  ray_3LP = samples_3LN - start_3P[:, None]
  distance_LP = solids_lib.enter(solids, count_K, start_3P, ray_3LP)
  is_blocked_LP = distance_LP < 1  # The multiple 1 of a ray is the lamp.
  num_points = point_3N.shape[1]
  return _share_of_free(is_blocked_LP, point_P, num_points)


def _share_of_free(blocked_LP, point_P, num_points):
  """Share of the L rays of each point that no solid blocks, [N]."""
  num_samples = len(blocked_LP)
  # Two solids in the way of one ray must not count twice.
  dark_LN = np.zeros((num_samples, num_points), np.int8)
  rays = zip(dark_LN, blocked_LP, strict=True)
  for dark_N, blocked_P in rays:
    dark_points = point_P.compress(blocked_P)
    dark_N[dark_points] = 1
  num_dark_N = dark_LN.sum(0, dtype=np.int8)
  return 1 - num_dark_N / np.float32(num_samples)


def _openness(prepared, hits, normal_3N):
  """Share of the light from everywhere that reaches each point, [N]."""
  up_N = normal_3N[1]
  from_above_N = _LEVEL_SHARE + _UP_SHARE * up_N
  # The floor throws some of it back to what faces down.
  from_below_N = -np.minimum(up_N, 0) / 2
  openness_N = from_above_N + from_below_N
  room = prepared.scene.room
  openness_N *= _away_from_planes(room, hits.point_3N, normal_3N)
  openness_N *= _away_from_things(prepared, hits, normal_3N)
  return openness_N


def _away_from_planes(room, point_3N, normal_3N):
  """A factor [N] that is lower close to floor, ceiling and walls."""
  to_far_3N = room[:, None] - point_3N
  distance_3N = np.minimum(point_3N, to_far_3N)
  # A plane darkens what is at a right angle to it, not what faces it.
  across_3N = 1 - np.abs(normal_3N)
  square_3N = distance_3N * distance_3N
  falloff_3N = square_3N * _PLANE_FALLOFF + _PLANE_MIN
  loss_3N = across_3N / falloff_3N
  factor_x, factor_y, factor_z = 1 - loss_3N
  return factor_x * factor_y * factor_z


def _away_from_things(prepared, hits, normal_3N):
  """A factor [N] that is lower close to things: each is taken as a ball."""
  balls_4M1 = prepared.solids.balls_4M[..., None]
  radius_M1 = balls_4M1[3] * _THING_RADIUS
  center_3M1 = balls_4M1[:3]
  to_ball_3MN = center_3M1 - hits.point_3N[:, None]
  square_MN = column_dots(to_ball_3MN, to_ball_3MN)
  # How large the ball looks from the point, and how far in front of it.
  distance_MN = np.sqrt(square_MN)
  size_MN = radius_M1 / distance_MN
  along_normal_MN = column_dots(to_ball_3MN, normal_3N[:, None])
  ahead_MN = np.maximum(along_normal_MN, 0)
  area_MN = np.minimum(size_MN * size_MN, 1)
  hidden_MN = ahead_MN * size_MN * area_MN
  # A thing does not hide the light from itself, nor from points far away.
  number_M = np.arange(len(size_MN), dtype=np.int8)
  is_other_MN = hits.owner_N != number_M[:, None]
  is_near_MN = size_MN > _THING_REACH
  hidden_MN *= is_other_MN & is_near_MN
  strength_M1 = _THING_STRENGTH / radius_M1
  factor_MN = 1 - strength_M1 * hidden_MN
  return np.multiply.reduce(factor_MN)


def _lamp_light(lit_N, to_lamp_3N, normal_3N):
  """Light of the lamp on points, [N].

  Args:
    lit_N: share of the lamp that each point sees.
    to_lamp_3N: ways from the points to the lamp.
    normal_3N: normals of their surfaces.
  """
  square_N = column_dots(to_lamp_3N, to_lamp_3N)
  distance_N = np.sqrt(square_N)
  toward_lamp_N = column_dots(to_lamp_3N, normal_3N)
  facing_N = np.maximum(toward_lamp_N, 0)
  cosine_N = facing_N / distance_N
  # By the square of the distance, but never too bright close to the lamp.
  strength_N = lit_N * cosine_N * _LAMP_STRENGTH
  return strength_N / (square_N + _LAMP_NEAR)


def _camera_light(ray_3N, normal_3N):
  """Light of a weak lamp at the camera, [N].

  Thanks to it, faces in shadow keep their shape.
  """
  along_normal_N = column_dots(ray_3N, normal_3N)
  cosine_N = np.abs(along_normal_N) / _lengths(ray_3N)
  return _CAMERA_STRENGTH * cosine_N


def _lengths(vector_3N):
  square_N = column_dots(vector_3N, vector_3N)
  return np.sqrt(square_N)


def _highlight(to_lamp_3N, ray_3N, normal_3N):
  """Strength [N] of the lamp's mirror image for an eye that looks along rays.

  The closer the normal is to the middle between both ways, the stronger.
  """
  unit_lamp_3N = to_lamp_3N / _lengths(to_lamp_3N)
  unit_ray_3N = ray_3N / _lengths(ray_3N)
  middle_3N = unit_lamp_3N - unit_ray_3N
  along_normal_N = column_dots(middle_3N, normal_3N)
  facing_N = np.maximum(along_normal_N, 0)
  shine_N = facing_N / _lengths(middle_3N)
  for _ in range(5):  # To the 32nd power.
    shine_N = shine_N * shine_N
  return shine_N


def _add_highlights(scene, hits, to_lamp_3N, normal_3N, lit_N, color_3N):
  """Adds the highlights of things to their colors, in place."""
  on_solid = true_indices(hits.surface_N >= 0)
  shine = _highlight(
      take_columns(to_lamp_3N, on_solid),
      take_columns(hits.ray_3N, on_solid),
      take_columns(normal_3N, on_solid))
  glosses = [thing.gloss for thing in scene.things]
  # The 0 at the end gives a scene without things a table.
  gloss_of_thing = np.float32([*glosses, 0])
  thing_number = hits.owner_N.take(on_solid)
  gloss = gloss_of_thing.take(thing_number)
  lit = lit_N.take(on_solid)
  shine *= gloss * lit
  without = take_columns(color_3N, on_solid)
  set_columns(color_3N, on_solid, without + shine)


def _open_window(window, hits, color_3N):
  """Writes the sky, and the bars of the window, over the wall, in place."""
  in_window = surfaces.window_hits(window, hits.surface_N, hits.point_3N)
  wall = take_columns(color_3N, in_window.index)
  bars = wall * _BAR_BRIGHTNESS
  sky = surfaces.sky_color(window, in_window)
  is_bar = surfaces.is_window_bar(window, in_window)
  visible = np.where(is_bar, bars, sky)
  set_columns(color_3N, in_window.index, visible)


def shade(prepared, hits, samples_3LN):
  """Shades what rays meet.

  Args:
    prepared: a PreparedScene.
    hits: its Hits.
    samples_3LN: points of the lamp, see `lit_share`.

  Returns:
    float32 [3, N], linear RGB; above 1 where it is too bright.
  """
  scene = prepared.scene
  lamp = scene.lamp
  normal_3N = hit_normals(prepared, hits)
  to_lamp_3N = lamp.center[:, None] - hits.point_3N
  lit_N = lit_share(prepared, hits.point_3N, normal_3N, samples_3LN)
  direct_N = _lamp_light(lit_N, to_lamp_3N, normal_3N)
  openness_N = _openness(prepared, hits, normal_3N)
  ambient_N = np.float32(scene.ambient) * openness_N
  soft_N = ambient_N + _camera_light(hits.ray_3N, normal_3N)
  direct_3N = direct_N * lamp.color[:, None]
  light_3N = direct_3N + soft_N
  color_3N = _own_color(prepared, hits) * light_3N
  _add_highlights(scene, hits, to_lamp_3N, normal_3N, lit_N, color_3N)
  if scene.window is not None:
    _open_window(scene.window, hits, color_3N)
  return color_3N
