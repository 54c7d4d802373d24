"""What stands in a room: camera, light, surfaces, and things worth segmenting.

Everything is drawn from one numpy Generator, so a scene is a function of
(seed, index). The recipe serves one question, whether a model can tell
instances apart: most scenes hold several things of one category in one colour
that overlap in the picture, and no colour belongs to a category.

Axes: K primitives, C candidates, M things placed so far, 3 = x, y (up), z.
Lengths are metres, angles radians, colours linear RGB.
"""

from typing import NamedTuple

import numpy as np

from pp.rooms_shapes import Thing, rows

# (id, name, isthing). The label of a segment is the position in this list;
# ids have gaps as COCO's do, so that nobody confuses the two unnoticed.
CATEGORIES = [
    (1, "ball", True),
    (2, "box", True),
    (4, "can", True),
    (5, "cone", True),
    (7, "chair", True),
    (8, "table", True),
    (9, "lamp", True),
    (92, "floor", False),
    (93, "wall", False),
    (95, "ceiling", False),
    (96, "rug", False),
    (98, "window", False),
]
LABEL = {name: label for label, (_, name, _) in enumerate(CATEGORIES)}
CLUTTER = -1
MAX_THINGS = 8

_PALETTE_SRGB = (
    (214, 64, 56), (232, 126, 52), (240, 190, 66), (128, 178, 72),
    (52, 146, 108), (64, 170, 178), (58, 122, 196), (92, 88, 180),
    (160, 92, 176), (222, 112, 148), (240, 232, 214), (112, 78, 60),
    (84, 92, 104),
)
_FLOORS_SRGB = ((176, 134, 92), (138, 98, 66), (198, 172, 138),
                (160, 160, 158), (112, 122, 132), (176, 150, 142))
_WALLS_SRGB = ((226, 218, 200), (196, 212, 214), (214, 196, 182),
               (182, 196, 172), (206, 198, 216), (232, 222, 180),
               (164, 182, 198), (222, 190, 176))


def linear(srgb):
  """8-bit sRGB → linear float32."""
  return ((np.asarray(srgb, np.float32) / 255) ** np.float32(2.2))


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


def _f32(values, width):
  return np.asarray(values, np.float32).reshape(-1, width)


def _cylinder(r, y0, y1, r_top=None, x=0.0, z=0.0):
  return (x, z, y0, y1, r, r if r_top is None else r_top)


def _legs(x, z, top, thick):
  return [(i * (x - thick), top / 2, j * (z - thick), thick, top / 2, thick)
          for i in (-1, 1) for j in (-1, 1)]


def _table(rng, s):
  w, d = s * rng.uniform(0.72, 0.95), s * rng.uniform(0.55, 0.75)
  slab, top = 0.07 * s, 0.8 * s
  if rng.random() < 0.5:
    return [], [(0, top - slab, 0, w, slab, d),
                *_legs(w, d, top - 2 * slab, 0.075 * s)], []
  return [], [], [_cylinder(w * 0.85, top - 2 * slab, top),
                  _cylinder(0.12 * s, 0.06 * s, top - 2 * slab),
                  _cylinder(0.42 * s, 0, 0.07 * s)]


def _chair(rng, s):
  w, seat, thick = s * rng.uniform(0.27, 0.33), 0.45 * s, 0.05 * s
  back = s * rng.uniform(0.24, 0.28)
  return [], [(0, seat, 0, w, thick, w),
              (0, s - back, w - thick, w, back, thick),
              *_legs(w, w, seat - thick, 0.055 * s)], []


def _lamp(rng, s):
  shade, rim = s * rng.uniform(0.5, 0.6), s * rng.uniform(0.27, 0.34)
  return [], [], [_cylinder(rim, shade, s, r_top=0.55 * rim),
                  _cylinder(0.055 * s, 0.05 * s, shade),
                  _cylinder(0.22 * s, 0, 0.06 * s)]


def _parts(rng, label, s):
  """Spheres, boxes and frusta of a thing whose largest extent is about s."""
  name = "clutter" if label == CLUTTER else CATEGORIES[label][1]
  if name == "ball":
    return [(0, s / 2, 0, s / 2)], [], []
  if name == "box":
    w, h, d = s * rng.uniform((0.32, 0.28, 0.32), (0.5, 0.46, 0.5))
    return [], [(0, h, 0, w, h, d)], []
  if name == "can":
    r = s * rng.uniform(0.26, 0.38)
    return [], [], [_cylinder(r, 0, 0.93 * s),
                    _cylinder(0.86 * r, 0.93 * s, s)]
  if name == "cone":
    r = s * rng.uniform(0.34, 0.44)
    return [], [], [_cylinder(r, 0, s, r_top=0.0)]
  if name in ("table", "chair", "lamp"):
    return {"table": _table, "chair": _chair, "lamp": _lamp}[name](rng, s)
  bumps = rng.uniform((-0.3, 0.1, -0.3, 0.16), (0.3, 0.2, 0.3, 0.26), (4, 4))
  return (s * bumps).tolist(), [], []


def _thing(rng, label, s, color):
  """A thing of `label` at the origin; `_placed` moves it."""
  balls, boxes, cones = _parts(rng, label, s)
  balls, boxes, cones = _f32(balls, 4), _f32(boxes, 6), _f32(cones, 6)
  low = np.concatenate([
      balls[:, :3] - balls[:, 3:], boxes[:, :3] - boxes[:, 3:],
      np.stack([cones[:, 0], cones[:, 2], cones[:, 1]], 1)
      - cones[:, 4:].max(1, initial=0, keepdims=True) * _f32([1, 0, 1], 3)])
  high = np.concatenate([
      balls[:, :3] + balls[:, 3:], boxes[:, :3] + boxes[:, 3:],
      np.stack([cones[:, 0], cones[:, 3], cones[:, 1]], 1)
      + cones[:, 4:].max(1, initial=0, keepdims=True) * _f32([1, 0, 1], 3)])
  # The main part keeps the colour, legs and rims are a touch darker: a hue
  # of their own would give the category away.
  tone = np.full((len(low), 1), 0.72, np.float32)
  tone[:2 if len(boxes) > 1 else 1] = 1
  if label == CLUTTER:
    tone = rng.uniform(0.5, 1.2, tone.shape).astype(np.float32)
  return Thing(label, np.zeros(3, np.float32), 0.0, balls, boxes, cones,
               tone * color, float(rng.choice((0.06, 0.5))), low.min(0),
               high.max(0))


def _footprint(thing):
  """Radius of the upright cylinder that holds `thing`."""
  reach = np.maximum(-thing.low, thing.high)
  r = np.hypot(reach[0], reach[2])
  return float(min(r, reach[[0, 2]].max() * 1.15))


def to_camera(scene, x_3N):
  """Room → camera coordinates: x right, y down, z along the optical axis."""
  x, y, z = (x_3N[i] - scene.eye[i] for i in range(3))
  c, s = np.float32(np.cos(scene.yaw)), np.float32(np.sin(scene.yaw))
  x, z = c * x - s * z, s * x + c * z
  c, s = np.float32(np.cos(scene.pitch)), np.float32(np.sin(scene.pitch))
  return rows(x, -(c * y + s * z), c * z - s * y)


def ray_directions(scene, u, v):
  """Room directions [3, N] of the rays through pixel positions (u, v), with
  unit length along the optical axis: t counts planar depth in metres."""
  h, w = scene.shape
  x = (u - np.float32(w / 2)) / np.float32(scene.focal)
  y = (np.float32(h / 2) - v) / np.float32(scene.focal)
  c, s = np.float32(np.cos(scene.pitch)), np.float32(np.sin(scene.pitch))
  y, z = c * y - s, c + s * y
  c, s = np.float32(np.cos(scene.yaw)), np.float32(np.sin(scene.yaw))
  return rows(c * x + s * z, y, c * z - s * x)


def _screen_boxes(scene, x, z, radius, height):
  """Rough image boxes (left, top, right, bottom) of upright cylinders, [4, N],
  and their distance [N]; x, z, radius, height are [N]."""
  base = to_camera(scene, (x, 0, z))
  top = to_camera(scene, (x, height, z))
  far = np.maximum(base[2], 0.1)
  h, w = scene.shape
  f = np.float32(scene.focal)
  u, r = w / 2 + f * base[0] / far, f * radius / far
  up = h / 2 + f * top[1] / np.maximum(top[2], 0.1)
  down = h / 2 + f * base[1] / far + r * 0.4
  return np.stack([u - r, up, u + r, down]), base[2]


def _overlap(a_4C, b_4M):
  """Share of the smaller box that the other one covers, [C, M]."""
  a, b = a_4C[:, :, None], b_4M[:, None, :]
  w = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
  h = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
  area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
  return np.maximum(w, 0) * np.maximum(h, 0) / np.minimum(*area)


def _spots(rng, scene, num):
  """Floor positions (x, z) in view, drawn evenly in the picture."""
  h, w = scene.shape
  u = rng.uniform(0.08 * w, 0.92 * w, num).astype(np.float32)
  v = rng.uniform(0.3 * h, 0.97 * h, num).astype(np.float32)
  d = ray_directions(scene, u, v)
  t = scene.eye[1] / np.maximum(-d[1], 1e-3)
  return scene.eye[0] + t * d[0], scene.eye[2] + t * d[2]


class _Layout:
  """Things placed so far, and the rule for where the next may stand."""

  def __init__(self, rng, scene):
    self.rng, self.scene, self.things = rng, scene, []
    self.spots = np.zeros((0, 3), np.float32)  # x, z, footprint radius.
    self.boxes_4M = np.zeros((4, 0), np.float32)
    self.group = []

  def place(self, thing, group, tries=16):
    """Adds `thing` where it fits; False when no spot does.

    A member of a group (an int ≥ 0) must overlap another member in the
    picture: that is what makes colour useless for telling them apart.
    """
    rng, scene = self.rng, self.scene
    r, height = _footprint(thing), float(thing.high[1])
    mates = [i for i, g in enumerate(self.group) if g == group >= 0]
    if mates:
      near = self.spots[rng.choice(mates, tries)]
      angle = rng.uniform(0, 2 * np.pi, tries)
      step = (near[:, 2] + r) * rng.uniform(1.02, 1.5, tries)
      x, z = near[:, 0] + step * np.cos(angle), near[:, 1] + step * np.sin(
          angle)
    else:
      x, z = _spots(rng, scene, tries)
    boxes, far = _screen_boxes(scene, x, z, r, height)
    w, h = scene.room[0], scene.room[2]
    ok = (x > r) & (x < w - r) & (z < h - r) & (far > 1.3 + r)
    ok &= self._framed(boxes)
    cover = _overlap(boxes, self.boxes_4M)
    if len(self.things):
      gap = np.hypot(x[:, None] - self.spots[None, :, 0],
                     z[:, None] - self.spots[None, :, 1])
      ok &= (gap > r + self.spots[None, :, 2]).all(1)
      ok &= (cover < (0.72 if mates else 0.45)).all(1)
    if mates:
      ok &= (cover[:, mates] > 0.12).any(1)
    if not ok.any():
      return False
    best = int(np.argmax(ok))
    self.things.append(thing._replace(
        origin=np.array([x[best], 0, z[best]], np.float32),
        yaw=rng.uniform(-np.pi, np.pi)))
    self.spots = np.concatenate([self.spots, np.float32(
        [[x[best], z[best], r]])])
    self.boxes_4M = np.concatenate([self.boxes_4M, boxes[:, [best]]], 1)
    self.group.append(group)
    return True

  def _framed(self, boxes):
    """Which boxes are mostly inside the picture and big enough in it."""
    h, w = self.scene.shape
    frame = np.float32([[0], [0], [w], [h]])
    size = (boxes[2] - boxes[0]) * (boxes[3] - boxes[1])
    wide = np.minimum(boxes[2], w) - np.maximum(boxes[0], 0)
    tall = np.minimum(boxes[3], h) - np.maximum(boxes[1], 0)
    seen = np.maximum(wide, 0) * np.maximum(tall, 0)
    fits = _overlap(boxes, frame)[:, 0] > 0
    return fits & (seen > 0.75 * size) & (seen > 0.025 * h * w) & (
        size < 0.22 * h * w)


def _furnish(rng, scene):
  """1–8 things: one or two groups of look-alikes, then singles."""
  layout = _Layout(rng, scene)
  colors = linear(_PALETTE_SRGB)[rng.permutation(len(_PALETTE_SRGB))]
  goal = int(rng.choice(8, p=(.06, .1, .16, .2, .18, .14, .1, .06))) + 1
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
      size = rng.uniform(0.45, 1.15)
      if layout.place(_thing(rng, int(label), size, color), group):
        break
  if rng.random() < 0.12:
    layout.place(_thing(rng, CLUTTER, rng.uniform(0.6, 0.9),
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
  sky = linear(((206, 226, 238), (120, 172, 224))) * rng.uniform(0.9, 1.25)
  return Window(wall, (along, rng.uniform(1.45, 1.7)), half,
                (int(rng.integers(1, 4)), int(rng.integers(1, 3))), sky)


def _rug(rng, x, z):
  pick = linear(_PALETTE_SRGB)[rng.choice(len(_PALETTE_SRGB), 2, False)]
  return Rug((x, z), tuple(rng.uniform((0.9, 0.7), (1.6, 1.2)).tolist()),
             rng.uniform(-0.5, 0.5), bool(rng.random() < 0.4),
             rng.uniform(2, 4), pick * 0.8 + 0.04)


def _two_tones(rng, table, spread):
  base = linear(table[rng.integers(len(table))])
  return np.stack([base, base * rng.uniform(1 - spread, 1 - spread / 3)])


def sample(rng, height=None, width=None):
  """Draws a Scene; `height` and `width` in pixels override the drawn shape."""
  shape = _image_shape(rng)
  shape = (height or shape[0], width or shape[1])
  room = np.float32(rng.uniform((3.6, 2.3, 4.2), (6.0, 2.9, 6.5)))
  eye = np.float32([room[0] * rng.uniform(0.3, 0.7), rng.uniform(1.1, 1.75),
                    rng.uniform(0.15, 0.5)])
  # Look across the room, not at the wall one stands next to.
  yaw = float(rng.uniform(-0.3, 0.3) + 0.9 * (0.5 - eye[0] / room[0]))
  center = np.float32([rng.uniform(0.25, 0.75) * room[0], room[1] - 0.15,
                       rng.uniform(0.25, 0.6) * room[2]])
  radius = rng.uniform(0.08, 0.22)
  spin = rng.uniform(0, 2 * np.pi) + np.arange(3) * 2 * np.pi / 3
  ring = np.stack([np.cos(spin), 0 * spin, np.sin(spin)], 1)
  warm = rng.uniform(-0.08, 0.12)
  scene = Scene(
      shape=shape, focal=max(shape) * rng.uniform(0.68, 0.95), eye=eye,
      yaw=yaw, pitch=rng.uniform(0.1, 0.42), room=room,
      lamp=center, spread=radius, lights=np.float32(center + radius * ring),
      warmth=np.float32([1 + warm, 1, 1 - warm]),
      ambient=rng.uniform(0.28, 0.42),
      floor=(int(rng.integers(4)), rng.uniform(0.28, 0.5),
             _two_tones(rng, _FLOORS_SRGB, 0.5)),
      wall=(int(rng.integers(4)), rng.uniform(0.4, 0.7),
            _two_tones(rng, _WALLS_SRGB, 0.3)),
      ceiling=linear(rng.uniform(222, 244)) * np.ones(3, np.float32),
      rug=None, window=None, things=[], noise=np.float32(rng.random(256)))
  x, z = _spots(rng, scene, 1)
  x = float(np.clip(x[0], 1.2, room[0] - 1.2))
  z = float(np.clip(z[0], 1.8, room[2] - 1.2))
  rug, window = _rug(rng, x, z), _window(rng, room, yaw)
  return scene._replace(
      rug=rug if rng.random() < 0.4 else None,
      window=window if rng.random() < 0.4 else None,
      things=_furnish(rng, scene))
