"""Chooses the things of a room, and where they stand.

The layout serves the one question that `rooms` is made for: can a model tell
instances apart? Most scenes hold a group of things of one category in one
color, and each member overlaps another one in the image.

Lengths are metres, angles radians.
"""

import math
from typing import NamedTuple

import numpy as np

from pp.rooms.camera import ray_directions, to_camera
from pp.rooms.colors import to_linear
from pp.rooms.kinds import NO_GROUP
from pp.rooms.things import CLUTTER, footprint, make_thing

_TRIES = 16  # Positions tried for one thing.
_MIN_INSIDE = 0.75  # Share of a thing's image box that is inside the image.
_MIN_STRETCH = 1.02  # Distance between mates; at 1 they would touch.


class _ImageBox(NamedTuple):
  """A box in the image, in pixels."""
  left: float
  top: float
  right: float
  bottom: float


def _overlap_area(one, other):
  """Area that two boxes have in common."""
  left = max(one.left, other.left)
  right = min(one.right, other.right)
  top = max(one.top, other.top)
  bottom = min(one.bottom, other.bottom)
  if right <= left or bottom <= top:
    return 0
  return (right - left) * (bottom - top)


def _box_area(box):
  return (box.right - box.left) * (box.bottom - box.top)


def floor_positions(rng, camera, count):
  """Draws `count` positions (x, z) on the floor, evenly in the image."""
  width = camera.width
  height = camera.height
  column = rng.uniform(0.08 * width, 0.92 * width, count)
  row = rng.uniform(0.3 * height, 0.97 * height, count)
  ray_x, ray_y, ray_z = ray_directions(
      camera, column.astype(np.float32), row.astype(np.float32))
  eye_x, eye_y, eye_z = camera.eye
  # Rays at or above the horizon are taken to meet the floor far away.
  fall = np.maximum(-ray_y, 1e-3)
  depth = eye_y / fall
  x = eye_x + depth * ray_x
  z = eye_z + depth * ray_z
  return x, z


class _Spot(NamedTuple):
  """Where a thing stands: an upright cylinder on the floor."""
  x: float
  z: float
  radius: float
  box: _ImageBox  # About where it is in the image.
  area: float  # Of the box.
  group: int  # Number of the group, or NO_GROUP.


class _Layout:
  """The things placed so far, and the rule for where the next may stand.

  It counts in Python's own numbers: for so few, numpy takes several times as
  long.
  """

  def __init__(self, rng, camera, room, kind):
    self.things = []
    self._rng = rng
    self._kind = kind
    self._spots = []
    self._room_width, _, self._room_depth = room.tolist()
    self._camera = camera
    self._plain_camera = camera._replace(
        eye=camera.eye.tolist(),
        cos_yaw=float(camera.cos_yaw),
        sin_yaw=float(camera.sin_yaw),
        cos_pitch=float(camera.cos_pitch),
        sin_pitch=float(camera.sin_pitch))

  def place(self, thing, group):
    """Adds `thing` where it fits; returns False when it fits nowhere.

    A member of a group must overlap another member in the image. This is what
    makes color useless for telling them apart.
    """
    mates = []
    if group != NO_GROUP:
      mates = [spot for spot in self._spots if spot.group == group]
    spot = self._find_spot(thing, group, mates)
    if spot is None:
      return False
    self._spots.append(spot)
    origin = np.array([spot.x, 0, spot.z], np.float32)
    yaw = self._rng.uniform(-np.pi, np.pi)
    self.things.append(thing._replace(origin=origin, yaw=yaw))
    return True

  def _find_spot(self, thing, group, mates):
    """The first of some random spots where `thing` fits; None: no such."""
    radius = footprint(thing)
    height = float(thing.high[1])
    if mates:
      x, z = self._beside(mates, radius)
    else:
      x, z = floor_positions(self._rng, self._camera, _TRIES)
    for spot_x, spot_z in zip(x.tolist(), z.tolist(), strict=True):
      box = self._image_box(spot_x, spot_z, radius, height)
      if box is None:
        continue
      spot = _Spot(spot_x, spot_z, radius, box, _box_area(box), group)
      if self._is_free(spot, mates) and self._meets_mates(spot, mates):
        return spot
    return None

  def _beside(self, mates, radius):
    """Draws floor positions (x, z) next to things that already stand."""
    rng = self._rng
    mates_3M = np.float32([(mate.x, mate.z, mate.radius) for mate in mates]).T
    chosen = rng.integers(0, len(mates), _TRIES)
    mate_x, mate_z, mate_radius = mates_3M.take(chosen, axis=1)
    angle = rng.uniform(0, 2 * np.pi, _TRIES)
    stretch = rng.uniform(_MIN_STRETCH, self._kind.max_stretch, _TRIES)
    distance = (mate_radius + radius) * stretch
    x = mate_x + distance * np.cos(angle)
    z = mate_z + distance * np.sin(angle)
    return x, z

  def _image_box(self, x, z, radius, height):
    """About the image box of something that stands at (x, z).

    It is None unless the thing is inside the room, well in front of the camera,
    mostly inside the image, and neither too small nor too large.
    """
    if not radius < x < self._room_width - radius:
      return None
    if z >= self._room_depth - radius:
      return None
    box = self._project(x, z, radius, height)
    if box is None:
      return None
    camera = self._plain_camera
    image_area = camera.height * camera.width
    area = _box_area(box)
    min_share, max_share = self._kind.image_shares
    if area >= max_share * image_area:
      return None
    image = _ImageBox(0, 0, camera.width, camera.height)
    seen = _overlap_area(box, image)
    if seen <= _MIN_INSIDE * area:
      return None
    if seen <= min_share * image_area:
      return None
    return box

  def _project(self, x, z, radius, height):
    """Image box of an upright cylinder; None when it is too close."""
    camera = self._plain_camera
    focal = camera.focal
    right, down, ahead = to_camera(camera, x, 0, z)
    if ahead <= 1.3 + radius:
      return None
    # The top is closer to the camera, which looks down.
    top_down = down - camera.cos_pitch * height
    top_ahead = max(ahead - camera.sin_pitch * height, 0.1)
    reach = focal * radius / ahead
    middle = camera.width / 2 + focal * right / ahead
    top = camera.height / 2 + focal * top_down / top_ahead
    foot = camera.height / 2 + focal * down / ahead
    return _ImageBox(
        left=middle - reach,
        top=top,
        right=middle + reach,
        # The front of the foot is seen below its middle.
        bottom=foot + reach * 0.4,
    )

  def _is_free(self, spot, mates):
    """Whether nothing else stands there or hides too much, or is hidden."""
    kind = self._kind
    max_cover = kind.max_cover_in_group if mates else kind.max_cover
    for other in self._spots:
      distance = math.hypot(spot.x - other.x, spot.z - other.z)
      if distance <= spot.radius + other.radius:
        return False
      if _cover(spot, other) >= max_cover:
        return False
    return True

  def _meets_mates(self, spot, mates):
    """Whether it overlaps a member of its group, if it has any yet."""
    if not mates:
      return True
    min_cover = self._kind.min_cover_in_group
    return any(_cover(spot, mate) > min_cover for mate in mates)


def _cover(one, other):
  """Share of the smaller of two image boxes that the other one covers."""
  return _overlap_area(one.box, other.box) / min(one.area, other.area)


def furnish(rng, camera, room, kind):
  """Draws the things of a scene.

  Args:
    rng: a numpy Generator.
    camera: the Camera; things are placed by how they look from it.
    room: float32 [3], width, height and depth.
    kind: the Kind of the scene.

  Returns:
    A list of Thing, the last perhaps unlabelled clutter: at most nine in a
    plain scene, fifteen in a hard one.
  """
  layout = _Layout(rng, camera, room, kind)
  for wish in kind.draw_wishes(rng):
    for _ in range(kind.num_sizes):
      size = rng.uniform(*kind.sizes)
      thing = make_thing(rng, wish.label, size, wish.color)
      if layout.place(thing, wish.group):
        break
  if rng.random() < 0.12:
    size = rng.uniform(0.6, 0.9)
    color = to_linear(rng.uniform(70, 170, 3))
    clutter = make_thing(rng, CLUTTER, size, color)
    layout.place(clutter, NO_GROUP)
  return layout.things
