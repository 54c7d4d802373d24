"""A scene: camera, light, surfaces and things, all drawn from one Generator.

A scene is a function of its stream (`seed`) and its number in the stream
(`index`). The order of the random draws is part of that function: another order
makes other scenes, which would need another version of the data set.

Room axes: x to the right, y up, z away from the front wall; one lower corner is
the origin. Lengths are metres, angles radians, colors linear RGB. 3 = x, y, z
or R, G, B; L samples of the light.
"""

from typing import NamedTuple

import numpy as np

from pp.rooms.camera import Camera, make_camera
from pp.rooms.colors import FLOORS, PALETTE, SKY, WALLS, to_linear
from pp.rooms.kinds import PLAIN, kind_of
from pp.rooms.layout import floor_positions, furnish
from pp.rooms.parts import draw_between

_IDS_PER_STREAM = 10**9

# The planes that bound a room. A ray meets a solid (a number ≥ 0) or one of
# these codes.
FLOOR = -1
CEILING = -2
LEFT = -3
RIGHT = -4
BACK = -5
FRONT = -6
PLANES = (FLOOR, CEILING, LEFT, RIGHT, BACK, FRONT)

_LAMP_SAMPLES = 3
_NUM_PATTERNS = 4  # Of floors, and of walls; see `surfaces`.


class Lamp(NamedTuple):
  """The light: a disk below the ceiling."""
  center: np.ndarray  # [3]
  radius: float
  samples_3L: np.ndarray  # Points on its rim that stand for all of it.
  color: np.ndarray  # [3]


class Texture(NamedTuple):
  """How a floor or the walls are painted."""
  pattern: int  # Which pattern of `surfaces`.
  size: float  # Of what repeats in it.
  colors: np.ndarray  # [2, 3]


class Rug(NamedTuple):
  """A rug on the floor."""
  center: tuple  # x, z.
  half: tuple  # Half sizes.
  yaw: float
  is_round: bool
  bands: float  # Colored bands from the middle to the rim.
  colors: np.ndarray  # [2, 3]


class Window(NamedTuple):
  """A window in a wall."""
  wall: int  # LEFT, RIGHT or BACK.
  center: tuple  # Position along the wall, height.
  half: tuple  # Half width, half height.
  panes: tuple  # Panes across, panes up.
  sky: np.ndarray  # [2, 3] colors at the bottom and at the top.


class Scene(NamedTuple):
  """All that there is to see."""
  camera: Camera
  room: np.ndarray  # [3] width, height, depth.
  lamp: Lamp
  ambient: float  # Strength of the light from everywhere.
  floor: Texture
  wall: Texture
  ceiling: np.ndarray  # [3] color.
  rug: Rug | None
  window: Window | None
  things: list  # [M] Thing.
  noise: np.ndarray  # [256] uniform numbers for the textures.


def image_id(seed, index):
  """The number `image/id` of a scene; no two scenes share one."""
  return seed * _IDS_PER_STREAM + index


def seed_and_index(image_id):
  """The stream and the number of the scene with this `image/id`."""
  return divmod(int(image_id), _IDS_PER_STREAM)


def make_rng(seed, index):
  """The one source of randomness of scene `index` of stream `seed`."""
  sequence = np.random.SeedSequence((seed, index))
  return np.random.Generator(np.random.Philox(sequence))


def _draw_image_shape(rng, height, width):
  """Height and width, drawn where None is given.

  They are around 96 × 128 pixels, and three images in ten are upright.
  """
  long_side = int(rng.integers(112, 145))
  short_side = int(round(long_side / rng.uniform(1.1, 1.5)))
  is_upright = rng.random() < 0.3
  drawn_height = long_side if is_upright else short_side
  drawn_width = short_side if is_upright else long_side
  return height or drawn_height, width or drawn_width


def _draw_eye(rng, room):
  """Where the camera stands: near the front wall, at the height of eyes."""
  x = room[0] * rng.uniform(0.3, 0.7)
  y = rng.uniform(1.1, 1.75)
  z = rng.uniform(0.15, 0.5)
  return np.float32([x, y, z])


def _draw_yaw(rng, eye, room):
  """Looks across the room, not at the wall that the camera is close to."""
  to_middle = 0.9 * (0.5 - eye[0] / room[0])
  return float(rng.uniform(-0.3, 0.3) + to_middle)


def _draw_lamp(rng, room):
  center = np.float32([
      rng.uniform(0.25, 0.75) * room[0],
      room[1] - 0.15,
      rng.uniform(0.25, 0.6) * room[2],
  ])
  radius = rng.uniform(0.08, 0.22)
  steps = np.arange(_LAMP_SAMPLES) * 2 * np.pi / _LAMP_SAMPLES
  angle = rng.uniform(0, 2 * np.pi) + steps
  ring = np.array([np.cos(angle), 0 * angle, np.sin(angle)]).T
  warmth = rng.uniform(-0.08, 0.12)
  return Lamp(
      center=center,
      radius=radius,
      samples_3L=np.float32(center + radius * ring).T,
      color=np.float32([1 + warmth, 1, 1 - warmth]),
  )


def _draw_texture(rng, size_range, colors, contrast):
  """A pattern in a color of the table and a darker tone of it."""
  pattern = int(rng.integers(_NUM_PATTERNS))
  size = rng.uniform(*size_range)
  base = colors[rng.integers(len(colors))]
  darker = base * rng.uniform(1 - contrast, 1 - contrast / 3)
  return Texture(pattern, size, np.array([base, darker]))


def _draw_rug(rng, camera, room):
  x, z = floor_positions(rng, camera, 1)
  spot = np.array([x[0], z[0]])
  low = np.float32([1.2, 1.8])
  high = room[::2] - np.float32(1.2)
  center = np.clip(spot, low, high)
  colors = PALETTE[rng.choice(len(PALETTE), 2, replace=False)]
  half = draw_between(rng, (0.9, 0.7), (1.6, 1.2))
  return Rug(
      center=tuple(center.tolist()),
      half=tuple(half.tolist()),
      yaw=rng.uniform(-0.5, 0.5),
      is_round=bool(rng.random() < 0.4),
      bands=rng.uniform(2, 4),
      colors=colors * 0.8 + 0.04,
  )


def _draw_window(rng, room, yaw):
  """A window in the back wall, or in the side wall that the camera faces."""
  is_back = rng.random() < 0.6
  half_width = rng.uniform(0.5, 0.9)
  half_height = rng.uniform(0.4, 0.6)
  if is_back:
    wall = BACK
    along = room[0] * rng.uniform(0.3, 0.7)
  else:
    wall = RIGHT if yaw > 0 else LEFT
    # Far from the camera, where it is likely to be seen.
    along = room[2] - half_width - rng.uniform(0.4, 1.2)
  sky = SKY * rng.uniform(0.9, 1.25)
  height = rng.uniform(1.45, 1.7)
  panes_across = int(rng.integers(1, 4))
  panes_up = int(rng.integers(1, 3))
  return Window(
      wall=wall,
      center=(along, height),
      half=(half_width, half_height),
      panes=(panes_across, panes_up),
      sky=sky,
  )


def scene_at(seed, index):
  """The Scene of these numbers, as the data sets have it."""
  return draw_scene(make_rng(seed, index), kind=kind_of(seed))


def draw_scene(rng, height=None, width=None, kind=PLAIN):
  """Draws a Scene.

  Args:
    rng: a Generator, from `make_rng`.
    height: pixels of the image; None: as the kind has it, or drawn.
    width: pixels, likewise.
    kind: the Kind of the scene.
  """
  height, width = _draw_image_shape(
      rng, height or kind.image_side, width or kind.image_side)
  room = np.float32(draw_between(rng, (3.6, 2.3, 4.2), (6.0, 2.9, 6.5)))
  eye = _draw_eye(rng, room)
  yaw = _draw_yaw(rng, eye, room)
  lamp = _draw_lamp(rng, room)
  focal = max(height, width) * rng.uniform(0.68, 0.95)
  pitch = rng.uniform(0.1, 0.42)
  camera = make_camera(height, width, focal, eye, yaw, pitch)
  ambient = rng.uniform(0.28, 0.42)
  floor = _draw_texture(rng, (0.28, 0.5), FLOORS, contrast=0.5)
  wall = _draw_texture(rng, (0.4, 0.7), WALLS, contrast=0.3)
  ceiling = to_linear(rng.uniform(222, 244)) * np.ones(3, np.float32)
  noise = np.float32(rng.random(256))
  # Drawn in every scene, so that all scenes use as many random numbers.
  rug = _draw_rug(rng, camera, room)
  window = _draw_window(rng, room, yaw)
  has_rug = rng.random() < 0.4
  has_window = rng.random() < 0.4
  return Scene(
      camera=camera,
      room=room,
      lamp=lamp,
      ambient=ambient,
      floor=floor,
      wall=wall,
      ceiling=ceiling,
      rug=rug if has_rug else None,
      window=window if has_window else None,
      things=furnish(rng, camera, room, kind),
      noise=noise,
  )
