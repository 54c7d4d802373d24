"""How the camera and the things of a clip move.

Everything goes to and fro at an even speed: from where it stands in the first
frame to its far point, and back. So a motion is drawn once, and where things
are follows from the number of the frame alone.

Lengths are metres, angles radians, times frames. M things, P points of a path.
"""

from typing import NamedTuple

import numpy as np

from pp.rooms.camera import move_camera
from pp.rooms.parts import draw_between
from pp.rooms.things import CLUTTER, footprint

_MOVING_SHARE = 0.75  # Of the things.
_TRIES = 12  # Ways tried for one thing.
_REACHES = (0.5, 1.6)  # Length of a way.
_PERIODS = (24, 60)  # Of things, to the far point and back.
_CAMERA_PERIODS = (30, 72)
_MAX_TURN = 0.1  # Of a thing, from a frame to the next.
_CAMERA_DISTANCE = 1.0  # From the camera to the rim of a thing.
_NUM_POINTS = 9  # That stand for a path.

# Between these, the camera goes and turns up to its far point.
_CAMERA_LOW = (
    -0.5, -0.1, 0.0,  # Sideways, up, forward.
    -0.3,  # Yaw.
    -0.07,  # Pitch.
)
_CAMERA_HIGH = (
    0.5, 0.1, 0.3,
    0.3,
    0.07,
)


class CameraMotion(NamedTuple):
  """The motion of the camera."""
  way: np.ndarray  # [3] from the first position to the far point.
  yaw: float  # By how much it looks elsewhere there.
  pitch: float
  period: float


class ThingMotion(NamedTuple):
  """The motion of a thing on the floor."""
  way: np.ndarray  # [3] from the first position to the far point.
  turn: float  # About the vertical axis, from a frame to the next.
  period: float


class Motion(NamedTuple):
  """All that moves in a clip."""
  camera: CameraMotion
  things: list  # [M] ThingMotion.


def draw_motion(rng, scene):
  """Draws a Motion that leads no thing through another or through a wall.

  Args:
    rng: a numpy Generator.
    scene: the Scene of the first frame.
  """
  camera = _draw_camera_motion(rng)
  camera_path = _path(scene.camera.eye, camera.way)
  # At first, the path of a thing is the one point where it stands.
  paths = []
  for thing in scene.things:
    place_xz = thing.origin[::2]
    paths.append(place_xz[None])
  motions = []
  for number, thing in enumerate(scene.things):
    is_free = _make_test(scene, number, paths, camera_path)
    motion = _draw_thing_motion(rng, thing, is_free)
    paths[number] = _path(thing.origin, motion.way)
    motions.append(motion)
  return Motion(
      camera=camera,
      things=motions,
  )


def _draw_camera_motion(rng):
  drawn = draw_between(rng, _CAMERA_LOW, _CAMERA_HIGH)
  *way, yaw, pitch = drawn
  return CameraMotion(
      way=np.float32(way),
      yaw=yaw,
      pitch=pitch,
      period=rng.uniform(*_CAMERA_PERIODS),
  )


def _draw_thing_motion(rng, thing, is_free):
  """The first of some random ways that is free; else the thing stands still.

  Args:
    rng: a numpy Generator.
    thing: a Thing.
    is_free: path [P, 2] → whether the thing may go there.
  """
  # As many random numbers for each thing, whatever becomes of it.
  wants_to_move = rng.random() < _MOVING_SHARE
  full_turn = 2 * np.pi
  angles = rng.uniform(0, full_turn, _TRIES)
  reaches = rng.uniform(*_REACHES, _TRIES)
  turn = rng.uniform(-_MAX_TURN, _MAX_TURN)
  period = rng.uniform(*_PERIODS)
  still = ThingMotion(
      way=np.zeros(3, np.float32),
      turn=0.0,
      period=period,
  )
  if not wants_to_move or thing.label == CLUTTER:
    return still
  for angle, reach in zip(angles, reaches, strict=True):
    way = _way(angle, reach)
    path = _path(thing.origin, way)
    if is_free(path):
      return ThingMotion(way, turn, period)
  return still


def _way(angle, reach):
  """float32 [3], so far over the floor in a direction."""
  x = np.cos(angle)
  z = np.sin(angle)
  direction = np.float32([x, 0, z])
  return np.float32(reach) * direction


def _path(start, way):
  """Points x, z from a start to its far point: float [P, 2]."""
  start_xz = start[::2]
  way_xz = way[::2]
  shares = np.linspace(0, 1, _NUM_POINTS)
  return start_xz + np.outer(shares, way_xz)


def _make_test(scene, number, paths, camera_path):
  """The test of a path for thing `number`: path [P, 2] → bool.

  The upright cylinder around the thing must stay inside the room, and away from
  all places where the camera or another thing may be at any time.
  """
  radius = footprint(scene.things[number])
  room_width, _, room_depth = scene.room
  far_corner = np.array([room_width, room_depth])
  camera_distance = radius + _CAMERA_DISTANCE
  # Each is a path, and how far from it the thing must stay.
  obstacles = [(camera_path, camera_distance)]
  for other, path in enumerate(paths):
    if other == number:
      continue
    other_radius = footprint(scene.things[other])
    distance = radius + other_radius
    obstacles.append((path, distance))

  def is_free(path):
    # From each point to the nearer of two walls, for both pairs of walls.
    to_far_walls = far_corner - path
    to_wall = np.minimum(path, to_far_walls)
    if to_wall.min() < radius:
      return False
    for points, distance in obstacles:
      if _least_distance(path, points) < distance:
        return False
    return True

  return is_free


def _least_distance(path, other):
  """Between any point of one path and any of another."""
  # Each point of the path with each of the other.
  between = path[:, None] - other
  distances = np.linalg.norm(between, axis=-1)
  return distances.min()


def move(scene, motion, frame):
  """The Scene at a frame of the clip.

  Args:
    scene: at frame 0.
    motion: its Motion.
    frame: the number, an int ≥ 0.
  """
  camera = _move_camera(scene.camera, motion.camera, frame)
  things = []
  for thing, thing_motion in zip(scene.things, motion.things, strict=True):
    moved = _move_thing(thing, thing_motion, frame)
    things.append(moved)
  return scene._replace(camera=camera, things=things)


def _move_camera(camera, motion, frame):
  share = _to_and_fro(frame, motion.period)
  return move_camera(
      camera,
      way=np.float32(share) * motion.way,
      yaw=share * motion.yaw,
      pitch=share * motion.pitch,
  )


def _move_thing(thing, motion, frame):
  share = _to_and_fro(frame, motion.period)
  way = np.float32(share) * motion.way
  # A thing turns on and on; only its way leads back.
  turn = frame * motion.turn
  return thing._replace(
      origin=thing.origin + way,
      yaw=thing.yaw + turn,
  )


def _to_and_fro(frame, period):
  """The share of its way that something has gone: 0 to 1 and back."""
  share_of_period = (frame / period) % 1
  to_far_point = abs(1 - 2 * share_of_period)
  return 1 - to_far_point
