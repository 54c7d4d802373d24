"""Colors of what bounds a room: floor, rug, walls and window.

A texture is a mix of two colors: 0 at a point is the first color, 1 the second.
Where a texture gets too fine for the pixels of the image it fades to an even
color, since it would flicker otherwise.

Axes: N points, 3 = x, y, z or R, G, B. float32; metres.
"""

from typing import NamedTuple

import numpy as np

from pp.rooms.scene import BACK, LEFT, RIGHT
from pp.rooms.vectors import set_columns, take_columns, true_indices

_EVEN = np.float32(0.4)  # The mix to which floors fade.
_SKIRTING_HEIGHT = 0.09
_SKIRTING_COLOR = (0.72, 0.72, 0.72)


def _visibility(camera, period, depth_N):
  """How much of a texture of this period a pixel still resolves, 0..1."""
  pixels_per_third = period * camera.focal / (3 * depth_N)
  return np.minimum(np.maximum(pixels_per_third - np.float32(0.4), 0), 1)


def _is_odd(whole):
  """1 where whole numbers are odd, else 0; `whole % 2` is slower."""
  return whole - 2 * np.floor(whole / 2)


def _random_tone(noise, whole):
  """A random number for each whole number; equal ones get the same."""
  return noise.take(whole.astype(np.intp) & 255)


def _blend(two_colors, mix_N):
  """Colors [3, N] from the first (mix 0) to the second (mix 1)."""
  first, second = two_colors[:, :, None]
  return first * (1 - mix_N) + second * mix_N


# Patterns of floors: (noise, x, z, size) → mix [N], period.


def _planks(noise, x, z, size):
  """Planks along z, each with its own tone."""
  width = size / 2
  plank = np.floor(x / width)
  # Each row of planks starts somewhere else.
  along = np.floor(z / 1.4 + _random_tone(noise, plank))
  tone = _random_tone(noise, plank * 37 + along * 11)
  return tone * np.float32(0.8), width


def _checkers(noise, x, z, size):
  del noise
  return _is_odd(np.floor(x / size) + np.floor(z / size)), size


def _tiles(noise, x, z, size):
  """Tiles of slightly different tones, with grout on two sides."""
  tile_x = np.floor(x / size)
  tile_z = np.floor(z / size)
  in_tile = np.minimum(x / size - tile_x, z / size - tile_z)
  grout = (in_tile < 0.1).astype(np.float32)
  tone = _random_tone(noise, tile_x * 17 + tile_z * 5)
  return np.maximum(grout, tone * np.float32(0.25)), size


def _carpet(noise, x, z, size):
  """Slow waves."""
  del noise
  waves = 2 + np.sin(x * 3 + z) + np.sin(z * 4 - x)
  return np.float32(0.25) * waves, size


_FLOOR_PATTERNS = (_planks, _checkers, _tiles, _carpet)


def floor_color(scene, point_3N, depth_N):
  """Colors [3, N] of points on the floor or the rug at these depths."""
  floor = scene.floor
  pattern = _FLOOR_PATTERNS[floor.pattern]
  mix_N, period = pattern(
      scene.noise, point_3N[0], point_3N[2], np.float32(floor.size))
  visibility_N = _visibility(scene.camera, period, depth_N)
  mix_N = _EVEN + (mix_N - _EVEN) * visibility_N
  color_3N = _blend(floor.colors, mix_N)
  if scene.rug is not None:
    _lay_rug(scene.rug, point_3N, color_3N)
  return color_3N


def rug_distance(rug, point_3N):
  """Distance of floor points from the middle of the rug; 1 at its rim."""
  x = point_3N[0] - rug.center[0]
  z = point_3N[2] - rug.center[1]
  cosine = np.float32(np.cos(rug.yaw))
  sine = np.float32(np.sin(rug.yaw))
  across = (cosine * x - sine * z) / rug.half[0]
  along = (sine * x + cosine * z) / rug.half[1]
  if rug.is_round:
    return np.sqrt(across * across + along * along)
  return np.maximum(np.abs(across), np.abs(along))


def _lay_rug(rug, point_3N, color_3N):
  """Writes the colors of the rug over those of the floor, in place."""
  distance = rug_distance(rug, point_3N)
  on_rug = true_indices(distance < 1)
  distance = distance.take(on_rug)
  is_even_band = _is_odd(np.floor(distance * rug.bands)) == 0
  # A border in the other color.
  is_second = is_even_band ^ (distance > 0.93)
  set_columns(color_3N, on_rug, take_columns(rug.colors.T, 1 - is_second))


# Patterns of walls: (scene, along, height, depth) → mix [N], where `along` is
# the position along the wall.


def _plain(scene, along, height, depth):
  del scene, height, depth
  return np.zeros_like(along)


def _stripes(scene, along, height, depth):
  """Upright stripes of wallpaper."""
  del height
  size = np.float32(scene.wall.size)
  stripe = _is_odd(np.floor(along / size))
  return stripe * _visibility(scene.camera, size, depth)


def _wainscot(scene, along, height, depth):
  """The second color below a rail, and some of it on the rail."""
  del scene, along, depth
  is_rail = np.abs(height - 0.95) < 0.03
  return (height < 0.95) + np.float32(0.6) * is_rail


def _bricks(scene, along, height, depth):
  """Painted bricks; every other row is shifted by half a brick."""
  size = np.float32(scene.wall.size)
  row = np.floor(height / (size / 2))
  shifted = along / size + row / 2
  in_brick = 2 * (shifted - np.floor(shifted))
  in_row = height / size * 2 - row
  joint = np.minimum(in_brick, in_row) < 0.17
  visibility = _visibility(scene.camera, size / 3, depth)
  return joint * np.float32(0.9) * visibility


_WALL_PATTERNS = (_plain, _stripes, _wainscot, _bricks)


def wall_color(scene, surface_N, point_3N, depth_N):
  """Colors [3, N] of points on walls.

  Args:
    scene: a Scene.
    surface_N: codes of the walls.
    point_3N: the points.
    depth_N: their depths.
  """
  height_N = point_3N[1]
  is_side = (surface_N == LEFT) | (surface_N == RIGHT)
  along_N = point_3N[0] * ~is_side + point_3N[2] * is_side
  pattern = _WALL_PATTERNS[scene.wall.pattern]
  mix_N = pattern(scene, along_N, height_N, depth_N)
  color_3N = _blend(scene.wall.colors, mix_N)
  skirting = true_indices(height_N < _SKIRTING_HEIGHT)
  set_columns(color_3N, skirting, _SKIRTING_COLOR)
  return color_3N


class WindowHits(NamedTuple):
  """The hits that lie in the window."""
  index: np.ndarray  # Their numbers among all hits.
  across: np.ndarray  # Horizontal position, ±1 at the frame.
  up: np.ndarray  # Vertical position, likewise.


def window_hits(window, surface_N, point_3N):
  """The WindowHits among hits with these surfaces and points."""
  on_wall = true_indices(surface_N == window.wall)
  axis = 0 if window.wall == BACK else 2
  along = point_3N[axis].take(on_wall)
  height = point_3N[1].take(on_wall)
  across = (along - window.center[0]) / window.half[0]
  up = (height - window.center[1]) / window.half[1]
  inside = true_indices((np.abs(across) < 1) & (np.abs(up) < 1))
  return WindowHits(
      index=on_wall.take(inside),
      across=across.take(inside),
      up=up.take(inside),
  )


def sky_color(window, hits):
  """Light [3, N] that comes through the window at WindowHits."""
  return _blend(window.sky, (hits.up + 1) / 2)


def is_window_bar(window, hits):
  """Which WindowHits are on the frame or on a bar between panes."""
  panes_across, panes_up = window.panes
  is_frame = (np.abs(hits.across) > 0.88) | (np.abs(hits.up) > 0.85)
  is_upright = _is_bar(hits.across, panes_across, 0.06)
  is_level = _is_bar(hits.up, panes_up, 0.08)
  return is_frame | is_upright | is_level


def _is_bar(position, num_panes, width):
  """Whether positions in -1..1 are close to a border of a pane."""
  in_panes = (position + 1) / 2 * num_panes
  to_border = np.abs(in_panes - np.round(in_panes)) * 2 / num_panes
  return to_border < width
