"""Colours of what bounds a room: floor, rug, walls, window.

Axes: N points, 3 = x, y, z or R, G, B. float32; metres.
"""

import numpy as np

from pp.rooms.shapes import at, put, where
from pp.rooms.trace import BACK, LEFT, RIGHT


def on_rug(rug, p):
  """Distance of floor points from the middle of the rug (1 at the rim)."""
  x, z = p[0] - rug.center[0], p[2] - rug.center[1]
  c, s = np.float32(np.cos(rug.yaw)), np.float32(np.sin(rug.yaw))
  a, b = (c * x - s * z) / rug.half[0], (s * x + c * z) / rug.half[1]
  return (np.sqrt(a * a + b * b) if rug.round
          else np.maximum(np.abs(a), np.abs(b)))


def in_window(window, part, p):
  """Which points are in the window, [N'], and their coordinates (±1 at its
  frame) [N'] across and up."""
  wall = where(part == (LEFT, RIGHT, BACK)[window.wall])
  along = p[0 if window.wall == 2 else 2].take(wall)
  a = (along - window.center[0]) / window.half[0]
  b = (p[1].take(wall) - window.center[1]) / window.half[1]
  inside = where((np.abs(a) < 1) & (np.abs(b) < 1))
  return wall.take(inside), a.take(inside), b.take(inside)


def _fade(scene, size, t):
  """How much of a texture of this period (metres) a pixel still resolves."""
  periods = size * scene.focal / (3 * t)
  return np.minimum(np.maximum(periods - np.float32(0.4), 0), 1)


def _odd(x):
  """1 where whole numbers are odd, else 0: `x % 2` without its slowness."""
  return x - 2 * np.floor(x / 2)


def _noise(scene, x):
  """A random number for every whole number."""
  return scene.noise.take(x.astype(np.intp) & 255)


def _blend(pair, mix):
  """[3, N] colours from the first (mix 0) to the second (mix 1) of `pair`."""
  one, two = pair[:, :, None]
  return one * (1 - mix) + two * mix


def floor_color(scene, p, t):
  """Colours [3, N] of floor points at depth t."""
  pattern, size, colors = scene.floor
  size = np.float32(size)
  i, j = np.floor(p[0] / size), np.floor(p[2] / size)
  if pattern == 0:  # Planks along z, each with its own tone.
    i = np.floor(p[0] / (size / 2))
    row = np.floor(p[2] / 1.4 + _noise(scene, i))
    mix = _noise(scene, i * 37 + row * 11) * np.float32(0.8)
    size = size / 2
  elif pattern == 1:  # Chequered.
    mix = _odd(i + j)
  elif pattern == 2:  # Tiles with grout.
    x, z = p[0] / size - i, p[2] / size - j
    grout = (np.minimum(x, z) < 0.1).astype(np.float32)
    mix = np.maximum(grout, _noise(scene, i * 17 + j * 5) * np.float32(0.25))
  else:  # Carpet: slow waves.
    mix = np.float32(0.25) * (2 + np.sin(p[0] * 3 + p[2]) + np.sin(
        p[2] * 4 - p[0]))
  mix = np.float32(0.4) + (mix - np.float32(0.4)) * _fade(scene, size, t)
  color = _blend(colors, mix)
  if scene.rug is not None:
    r = on_rug(scene.rug, p)
    on = where(r < 1)
    r = r.take(on)
    band = (_odd(np.floor(r * scene.rug.bands)) == 0) ^ (r > 0.93)
    put(color, on, at(scene.rug.colors.T, 1 - band))
  return color


def wall_color(scene, part, p, t):
  """Colours [3, N] of points at depth t on walls `part`."""
  pattern, size, colors = scene.wall
  size, side = np.float32(size), (part == LEFT) | (part == RIGHT)
  x = p[0] * ~side + p[2] * side  # Along the wall.
  if pattern == 0:
    mix = np.zeros_like(x)
  elif pattern == 1:  # Wallpaper stripes.
    mix = _odd(np.floor(x / size)) * _fade(scene, size, t)
  elif pattern == 2:  # Wainscot below a rail.
    mix = (p[1] < 0.95) + np.float32(0.6) * (np.abs(p[1] - 0.95) < 0.03)
  else:  # Painted bricks.
    row = np.floor(p[1] / (size / 2))
    a = x / size + row / 2
    joint = np.minimum(2 * (a - np.floor(a)), p[1] / size * 2 - row) < 0.17
    mix = joint * np.float32(0.9) * _fade(scene, size / 3, t)
  color = _blend(colors, mix)
  put(color, where(p[1] < 0.09), (0.72,) * 3)  # Skirting board.
  return color


def sky(window, a, b):
  """Light through a window [3, N] and which points are its white bars [N]."""
  bar = (np.abs(a) > 0.88) | (np.abs(b) > 0.85)
  for x, count, width in ((a, window.panes[0], 0.06),
                          (b, window.panes[1], 0.08)):
    cell = (x + 1) / 2 * count
    bar |= np.abs(cell - np.round(cell)) * 2 / count < width
  return _blend(window.sky, (b + 1) / 2), bar
