"""What is in a room: camera, light, surfaces, and things worth segmenting.

Everything is drawn from one numpy Generator, so a scene is a function of
(seed, index). The recipe serves one question, whether a model can tell
instances apart: most scenes hold several things of one category in one colour
that overlap in the picture, and no colour belongs to a category.

Axes: 3 = x, y (up), z or R, G, B. Lengths are metres, angles radians, colours
linear RGB.
"""

import math
from typing import NamedTuple

import numpy as np

from pp.rooms.shapes import rows
from pp.rooms.things import (
  CLUTTER,
  between,
  footprint,
  linear,
  make_thing,
)

# Of each number of things from 1 to 8, the share of scenes up to it.
_GOALS = np.cumsum((.06, .1, .16, .2, .18, .14, .1, .06))
_GOALS /= _GOALS[-1]
_PALETTE = linear((
    (214, 64, 56), (232, 126, 52), (240, 190, 66), (128, 178, 72),
    (52, 146, 108), (64, 170, 178), (58, 122, 196), (92, 88, 180),
    (160, 92, 176), (222, 112, 148), (240, 232, 214), (112, 78, 60),
    (84, 92, 104)))
_FLOORS = linear(((176, 134, 92), (138, 98, 66), (198, 172, 138),
                  (160, 160, 158), (112, 122, 132), (176, 150, 142)))
_WALLS = linear(((226, 218, 200), (196, 212, 214), (214, 196, 182),
                 (182, 196, 172), (206, 198, 216), (232, 222, 180),
                 (164, 182, 198), (222, 190, 176)))
_SKY = linear(((206, 226, 238), (120, 172, 224)))


class Window(NamedTuple):
  wall: int  # 0: x = 0, 1: x = width, 2: z = depth.
  center: tuple  # Along the wall, height.
  half: tuple  # Half width, half height.
  panes: tuple  # Panes across, panes up.
  sky: np.ndarray  # [2, 3] colour at the bottom and the top.


class Rug(NamedTuple):
  center: tuple  # x, z.
  half: tuple  # Half sizes.
  yaw: float
  round: bool
  bands: float  # Bands per half size.
  colors: np.ndarray  # [2, 3].


class Scene(NamedTuple):
  """All of a room; `noise` is a table of 256 uniform numbers for textures."""
  shape: tuple  # Image height, width in pixels.
  focal: float  # Pixels.
  eye: np.ndarray  # [3] camera position.
  yaw: float
  pitch: float  # Down is positive.
  turn: tuple  # Cosine and sine of yaw, cosine and sine of pitch.
  room: np.ndarray  # [3] width, height, depth; one corner is the origin.
  lamp: np.ndarray  # [3] middle of the light.
  spread: float  # Its radius.
  lights: np.ndarray  # [3, 3] samples on its rim.
  warmth: np.ndarray  # [3] colour of the light.
  ambient: float
  floor: tuple  # pattern, scale, colors [2, 3].
  wall: tuple  # pattern, scale, colors [2, 3].
  ceiling: np.ndarray  # [3].
  rug: Rug | None
  window: Window | None
  things: list  # [M] Thing.
  noise: np.ndarray  # [256].


def to_camera(scene, x, y, z):
  """Room → camera coordinates: x right, y down, z along the optical axis."""
  x, y, z = x - scene.eye[0], y - scene.eye[1], z - scene.eye[2]
  c, s, c_pitch, s_pitch = scene.turn
  x, z = c * x - s * z, s * x + c * z
  return x, -(c_pitch * y + s_pitch * z), c_pitch * z - s_pitch * y


def ray_directions(scene, u, v):
  """Room directions [3, ...] of the rays through pixel positions (u, v), with
  unit length along the optical axis: t counts planar depth in metres."""
  h, w = scene.shape
  x = (u - np.float32(w / 2)) / np.float32(scene.focal)
  y = (np.float32(h / 2) - v) / np.float32(scene.focal)
  c, s, c_pitch, s_pitch = scene.turn
  y, z = c_pitch * y - s_pitch, c_pitch + s_pitch * y
  return rows(c * x + s * z, y, c * z - s * x)


def _overlap(a, b):
  """Area common to two boxes (left, top, right, bottom)."""
  width = min(a[2], b[2]) - max(a[0], b[0])
  height = min(a[3], b[3]) - max(a[1], b[1])
  return width * height if width > 0 and height > 0 else 0


def _area(box):
  return (box[2] - box[0]) * (box[3] - box[1])


def _spots(rng, scene, num):
  """Floor positions (x, z) in view, drawn evenly in the picture."""
  h, w = scene.shape
  u = rng.uniform(0.08 * w, 0.92 * w, num).astype(np.float32)
  v = rng.uniform(0.3 * h, 0.97 * h, num).astype(np.float32)
  d = ray_directions(scene, u, v)
  t = scene.eye[1] / np.maximum(-d[1], 1e-3)
  return scene.eye[0] + t * d[0], scene.eye[2] + t * d[2]


class _Spot(NamedTuple):
  """Where a thing stands: an upright cylinder on the floor."""
  x: float
  z: float
  radius: float
  box: tuple  # Roughly in the image: left, top, right, bottom.
  area: float  # Of the box.
  group: int


class _Layout:
  """Things placed so far, and the rule for where the next may stand.

  Counted in Python's own numbers: on so few, numpy takes several times as
  long.
  """

  def __init__(self, rng, scene):
    self.rng, self.scene, self.things, self.spots = rng, scene, [], []
    self.plain = scene._replace(
        eye=scene.eye.tolist(), turn=[float(x) for x in scene.turn],
        room=scene.room.tolist())

  def place(self, thing, group, tries=16):
    """Adds `thing` where it fits; False when no spot does.

    A member of a group (an int ≥ 0) must overlap another member in the
    picture: that is what makes colour useless for telling them apart.
    """
    radius, height = footprint(thing), float(thing.high[1])
    mates = [spot for spot in self.spots if spot.group == group >= 0]
    spots = (self._beside(mates, radius, tries) if mates
             else _spots(self.rng, self.scene, tries))
    for x, z in np.transpose(spots).tolist():
      box = self._box(x, z, radius, height)
      if box:
        spot = _Spot(x, z, radius, box, _area(box), group)
        if self._fits(spot, mates):
          break
    else:
      return False
    self.spots.append(spot)
    self.things.append(thing._replace(
        origin=np.array([x, 0, z], np.float32),
        yaw=self.rng.uniform(-np.pi, np.pi)))
    return True

  def _beside(self, mates, radius, tries):
    """Floor positions (x, z) next to things that already stand."""
    rng = self.rng
    x, z, r = np.float32([spot[:3] for spot in mates]).T.take(
        rng.integers(0, len(mates), tries), axis=1)
    angle = rng.uniform(0, 2 * np.pi, tries)
    step = (r + radius) * rng.uniform(1.02, 1.5, tries)
    return x + step * np.cos(angle), z + step * np.sin(angle)

  def _box(self, x, z, r, height):
    """The image box of something at (x, z); None if not inside the room and
    well in front of the camera, mostly inside the picture and big enough."""
    scene, (h, w) = self.plain, self.scene.shape
    if not (r < x < scene.room[0] - r and z < scene.room[2] - r):
      return None
    across, down, far = to_camera(scene, x, 0, z)
    if far <= 1.3 + r:
      return None
    c, s = scene.turn[2:]
    up, near = down - c * height, max(far - s * height, 0.1)
    u, r = w / 2 + scene.focal * across / far, scene.focal * r / far
    box = (u - r, h / 2 + scene.focal * up / near,
           u + r, h / 2 + scene.focal * down / far + r * 0.4)
    area = _area(box)
    if area >= 0.3 * h * w:
      return None
    seen = _overlap(box, (0, 0, w, h))
    return box if seen > 0.75 * area and seen > 0.045 * h * w else None

  def _fits(self, spot, mates):
    """Whether there is room for it, in the room and in the picture."""
    most, mated = 0.72 if mates else 0.45, not mates
    for other in self.spots:
      gap = math.hypot(spot.x - other.x, spot.z - other.z)
      if gap <= spot.radius + other.radius:
        return False
      # Share of the smaller box that the other one covers.
      cover = _overlap(spot.box, other.box) / min(spot.area, other.area)
      if cover >= most:
        return False
      mated = mated or cover > 0.12 and other.group == spot.group
    return mated


def _furnish(rng, scene):
  """1–8 things: one or two groups of look-alikes, then singles."""
  layout = _Layout(rng, scene)
  colors = _PALETTE[rng.permutation(len(_PALETTE))]
  goal = int(np.searchsorted(_GOALS, rng.random(), side="right")) + 1
  kinds = rng.permutation(7)
  plan = []
  if goal > 1 and rng.random() < 0.9:
    plan += [(0, kinds[0], colors[0])] * int(rng.integers(2, min(goal, 4) + 1))
  if goal - len(plan) >= 2 and rng.random() < 0.5:
    # Same colour, other category: colour says nothing about the class either.
    plan += [(1, kinds[1], colors[rng.integers(2)])] * 2
  while len(plan) < goal:
    plan.append((-1, rng.integers(7), colors[rng.integers(3)]))
  for group, label, color in plan[:goal]:
    for _ in range(3):
      size = rng.uniform(0.65, 1.45)
      if layout.place(make_thing(rng, int(label), size, color), group):
        break
  if rng.random() < 0.12:
    layout.place(make_thing(rng, CLUTTER, rng.uniform(0.6, 0.9),
                        linear(rng.uniform(70, 170, 3))), -1)
  return layout.things


def _image_shape(rng):
  """Height, width: around 96 × 128, three in ten upright."""
  long = int(rng.integers(112, 145))
  short = int(round(long / rng.uniform(1.1, 1.5)))
  return (long, short) if rng.random() < 0.3 else (short, long)


def _window(rng, room, yaw):
  wall = 2 if rng.random() < 0.6 else int(yaw > 0)
  span = room[0] if wall == 2 else room[2]
  half = (rng.uniform(0.5, 0.9), rng.uniform(0.4, 0.6))
  along = (span * rng.uniform(0.3, 0.7) if wall == 2
           else span - half[0] - rng.uniform(0.4, 1.2))
  sky = _SKY * rng.uniform(0.9, 1.25)
  return Window(wall, (along, rng.uniform(1.45, 1.7)), half,
                (int(rng.integers(1, 4)), int(rng.integers(1, 3))), sky)


def _rug(rng, x, z):
  pick = _PALETTE[rng.choice(len(_PALETTE), 2, False)]
  return Rug((x, z), tuple(between(rng, (0.9, 0.7), (1.6, 1.2)).tolist()),
             rng.uniform(-0.5, 0.5), bool(rng.random() < 0.4),
             rng.uniform(2, 4), pick * 0.8 + 0.04)


def _two_tones(rng, table, spread):
  base = table[rng.integers(len(table))]
  return np.array([base, base * rng.uniform(1 - spread, 1 - spread / 3)])


def sample(rng, height=None, width=None):
  """Draws a Scene; `height` and `width` in pixels override the drawn shape."""
  shape = _image_shape(rng)
  shape = (height or shape[0], width or shape[1])
  room = np.float32(between(rng, (3.6, 2.3, 4.2), (6.0, 2.9, 6.5)))
  eye = np.float32([room[0] * rng.uniform(0.3, 0.7), rng.uniform(1.1, 1.75),
                    rng.uniform(0.15, 0.5)])
  # Look across the room, not at the wall one stands next to.
  yaw = float(rng.uniform(-0.3, 0.3) + 0.9 * (0.5 - eye[0] / room[0]))
  center = np.float32([rng.uniform(0.25, 0.75) * room[0], room[1] - 0.15,
                       rng.uniform(0.25, 0.6) * room[2]])
  radius = rng.uniform(0.08, 0.22)
  spin = rng.uniform(0, 2 * np.pi) + np.arange(3) * 2 * np.pi / 3
  ring = np.array([np.cos(spin), 0 * spin, np.sin(spin)]).T
  warm = rng.uniform(-0.08, 0.12)
  focal, pitch = max(shape) * rng.uniform(0.68, 0.95), rng.uniform(0.1, 0.42)
  scene = Scene(
      shape=shape, focal=focal, eye=eye, yaw=yaw, pitch=pitch,
      turn=tuple(np.float32([np.cos(yaw), np.sin(yaw), np.cos(pitch),
                             np.sin(pitch)])), room=room,
      lamp=center, spread=radius, lights=np.float32(center + radius * ring),
      warmth=np.float32([1 + warm, 1, 1 - warm]),
      ambient=rng.uniform(0.28, 0.42),
      floor=(int(rng.integers(4)), rng.uniform(0.28, 0.5),
             _two_tones(rng, _FLOORS, 0.5)),
      wall=(int(rng.integers(4)), rng.uniform(0.4, 0.7),
            _two_tones(rng, _WALLS, 0.3)),
      ceiling=linear(rng.uniform(222, 244)) * np.ones(3, np.float32),
      rug=None, window=None, things=[], noise=np.float32(rng.random(256)))
  x, z = _spots(rng, scene, 1)
  x, z = np.clip(np.array([x[0], z[0]]), np.float32([1.2, 1.8]),
                 room[::2] - np.float32(1.2)).tolist()
  rug, window = _rug(rng, x, z), _window(rng, room, yaw)
  return scene._replace(
      rug=rug if rng.random() < 0.4 else None,
      window=window if rng.random() < 0.4 else None,
      things=_furnish(rng, scene))
