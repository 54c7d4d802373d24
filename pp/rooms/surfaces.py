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

_UNRESOLVED = np.float32(0.4)  # Thirds of a period in a pixel: none is seen.
_SKIRTING_HEIGHT = 0.09
_SKIRTING_COLOR = (0.72, 0.72, 0.72)

# Mixes of the two colors.
_FADED_FLOOR = np.float32(0.4)
_MAX_PLANK = np.float32(0.8)
_MAX_TILE = np.float32(0.25)
_CARPET_WAVE = np.float32(0.25)
_RAIL = np.float32(0.6)
_JOINT = np.float32(0.9)

# Sizes in metres, or as a share of what they belong to.
_PLANK_LENGTH = 1.4
_GROUT_WIDTH = 0.1
_RUG_BORDER = 0.93
_RAIL_HEIGHT = 0.95
_RAIL_HALF = 0.03
_JOINT_WIDTH = 0.17
_FRAME_ACROSS = 0.88
_FRAME_UP = 0.85
_BAR_ACROSS = 0.06
_BAR_UP = 0.08


def _visibility(camera, period, depth_N):
  """How much of a texture of this period a pixel still resolves, 0..1."""
  pixels = period * camera.focal / (3 * depth_N)
  resolved_N = pixels - _UNRESOLVED
  visibility_N = np.maximum(resolved_N, 0)
  return np.minimum(visibility_N, 1)


def _is_odd(whole):
  """1 where whole numbers are odd, else 0; `whole % 2` is slower."""
  pairs = np.floor(whole / 2)
  return whole - 2 * pairs


def _random_tone(noise, whole):
  """A random number for each whole number; equal ones get the same."""
  place = whole.astype(np.intp) & 255  # The table has 256 numbers.
  return noise.take(place)


def _blend(two_colors, mix_N):
  """Colors [3, N] from the first (mix 0) to the second (mix 1)."""
  first, second = two_colors[:, :, None]
  of_first = first * (1 - mix_N)
  of_second = second * mix_N
  return of_first + of_second


# Patterns of floors: (noise, x, z, size) → mix [N], period.


def _planks(noise, x, z, size):
  """Planks along z, each with its own tone."""
  width = size / 2
  plank = np.floor(x / width)
  # Each row of planks starts somewhere else.
  shift = _random_tone(noise, plank)
  along = np.floor(z / _PLANK_LENGTH + shift)
  number = plank * 37 + along * 11
  tone = _random_tone(noise, number)
  return tone * _MAX_PLANK, width


def _checkers(noise, x, z, size):
  del noise
  tile_x = np.floor(x / size)
  tile_z = np.floor(z / size)
  return _is_odd(tile_x + tile_z), size


def _tiles(noise, x, z, size):
  """Tiles of slightly different tones, with grout on two sides."""
  tiles_x = x / size
  tiles_z = z / size
  tile_x = np.floor(tiles_x)
  tile_z = np.floor(tiles_z)
  in_tile_x = tiles_x - tile_x
  in_tile_z = tiles_z - tile_z
  to_side = np.minimum(in_tile_x, in_tile_z)
  is_grout = to_side < _GROUT_WIDTH
  grout = is_grout.astype(np.float32)
  number = tile_x * 17 + tile_z * 5
  tone = _random_tone(noise, number)
  mix = np.maximum(grout, tone * _MAX_TILE)
  return mix, size


def _carpet(noise, x, z, size):
  """Slow waves."""
  del noise
  first_phase = x * 3 + z
  second_phase = z * 4 - x
  first_wave = np.sin(first_phase)
  second_wave = np.sin(second_phase)
  waves = 2 + first_wave + second_wave
  return _CARPET_WAVE * waves, size


_FLOOR_PATTERNS = (_planks, _checkers, _tiles, _carpet)


def floor_color(scene, point_3N, depth_N):
  """Colors [3, N] of points on the floor or the rug at these depths."""
  floor = scene.floor
  pattern = _FLOOR_PATTERNS[floor.pattern]
  x, _, z = point_3N
  size = np.float32(floor.size)
  mix_N, period = pattern(scene.noise, x, z, size)
  visibility_N = _visibility(scene.camera, period, depth_N)
  contrast_N = mix_N - _FADED_FLOOR
  mix_N = _FADED_FLOOR + contrast_N * visibility_N
  color_3N = _blend(floor.colors, mix_N)
  if scene.rug is not None:
    _lay_rug(scene.rug, point_3N, color_3N)
  return color_3N


def rug_distance(rug, point_3N):
  """Distance of floor points from the middle of the rug; 1 at its rim."""
  x, _, z = point_3N
  center_x, center_z = rug.center
  half_across, half_along = rug.half
  x = x - center_x
  z = z - center_z
  cosine = np.float32(np.cos(rug.yaw))
  sine = np.float32(np.sin(rug.yaw))
  rotated_x = cosine * x - sine * z
  rotated_z = sine * x + cosine * z
  across = rotated_x / half_across
  along = rotated_z / half_along
  if rug.is_round:
    square = across * across + along * along
    return np.sqrt(square)
  return np.maximum(np.abs(across), np.abs(along))


def _lay_rug(rug, point_3N, color_3N):
  """Writes the colors of the rug over those of the floor, in place."""
  distance = rug_distance(rug, point_3N)
  on_rug = true_indices(distance < 1)
  distance = distance.take(on_rug)
  band = np.floor(distance * rug.bands)
  is_even = _is_odd(band) == 0
  is_border = distance > _RUG_BORDER  # The border swaps the colors.
  color_number = 1 - (is_even ^ is_border)
  rug_color = take_columns(rug.colors.T, color_number)
  set_columns(color_3N, on_rug, rug_color)


# Patterns of walls: (scene, along, height, depth) → mix [N], where `along` is
# the position along the wall.


def _plain(scene, along, height, depth):
  del scene, height, depth
  return np.zeros_like(along)


def _stripes(scene, along, height, depth):
  """Upright stripes of wallpaper."""
  del height
  size = np.float32(scene.wall.size)
  number = np.floor(along / size)
  stripe = _is_odd(number)
  visibility = _visibility(scene.camera, size, depth)
  return stripe * visibility


def _wainscot(scene, along, height, depth):
  """The second color below a rail, and some of it on the rail."""
  del scene, along, depth
  is_below = height < _RAIL_HEIGHT
  to_rail = np.abs(height - _RAIL_HEIGHT)
  is_rail = to_rail < _RAIL_HALF
  return is_below + _RAIL * is_rail


def _bricks(scene, along, height, depth):
  """Painted bricks; every other row is shifted by half a brick."""
  size = np.float32(scene.wall.size)
  brick_height = size / 2
  row = np.floor(height / brick_height)
  shifted = along / size + row / 2
  brick = np.floor(shifted)
  in_brick = 2 * (shifted - brick)
  in_row = height / size * 2 - row
  to_joint = np.minimum(in_brick, in_row)
  is_joint = to_joint < _JOINT_WIDTH
  visibility = _visibility(scene.camera, size / 3, depth)
  return is_joint * _JOINT * visibility


_WALL_PATTERNS = (_plain, _stripes, _wainscot, _bricks)


def wall_color(scene, surface_N, point_3N, depth_N):
  """Colors [3, N] of points on walls.

  Args:
    scene: a Scene.
    surface_N: codes of the walls.
    point_3N: the points.
    depth_N: their depths.
  """
  x_N, height_N, z_N = point_3N
  is_left = surface_N == LEFT
  is_right = surface_N == RIGHT
  is_side = is_left | is_right
  along_N = x_N * ~is_side + z_N * is_side
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
  x_N, y_N, z_N = point_3N
  along_N = x_N if window.wall == BACK else z_N
  along = along_N.take(on_wall)
  height = y_N.take(on_wall)
  center_along, center_height = window.center
  half_width, half_height = window.half
  across = (along - center_along) / half_width
  up = (height - center_height) / half_height
  is_across = np.abs(across) < 1
  is_up = np.abs(up) < 1
  inside = true_indices(is_across & is_up)
  return WindowHits(
      index=on_wall.take(inside),
      across=across.take(inside),
      up=up.take(inside),
  )


def sky_color(window, hits):
  """Light [3, N] that comes through the window at WindowHits."""
  height = (hits.up + 1) / 2
  return _blend(window.sky, height)


def is_window_bar(window, hits):
  """Which WindowHits are on the frame or on a bar between panes."""
  across = hits.across
  up = hits.up
  panes_across, panes_up = window.panes
  is_bar = np.abs(across) > _FRAME_ACROSS
  is_bar |= np.abs(up) > _FRAME_UP
  is_bar |= _is_pane_border(across, panes_across, _BAR_ACROSS)
  is_bar |= _is_pane_border(up, panes_up, _BAR_UP)
  return is_bar


def _is_pane_border(position, num_panes, width):
  """Whether positions in -1..1 are close to a border of a pane."""
  panes = (position + 1) / 2 * num_panes
  border = np.round(panes)
  to_border = np.abs(panes - border)
  return to_border * 2 / num_panes < width
