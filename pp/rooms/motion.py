"""How the camera and the things of a clip move.

Everything goes to and fro at an even speed: from where it stands in the first
frame to its far point, and back. So a motion is drawn once, and where things
are follows from the number of the frame alone.

Lengths are metres, angles radians, times frames. M things, P points of a path.
"""

from typing import NamedTuple

import numpy as np

from pp.rooms.camera import move_camera
from pp.rooms.things import CLUTTER, draw_between, footprint

_MOVING_SHARE = 0.75  # Of the things.
_TRIES = 12  # Ways tried for one thing.
_REACHES = (0.5, 1.6)  # Length of a way.
_PERIODS = (24, 60)  # Of things, to the far point and back.
_CAMERA_PERIODS = (30, 72)
_MAX_TURN = 0.1  # Of a thing, from a frame to the next.
_CAMERA_DISTANCE = 1.0  # From the camera to the rim of a thing.
_NUM_POINTS = 9  # That stand for a path.

# Sideways, up, forward; yaw; pitch.
_CAMERA_LOW = (-0.5, -0.1, 0.0, -0.3, -0.07)
_CAMERA_HIGH = (0.5, 0.1, 0.3, 0.3, 0.07)


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
  # At first, the path of a thing is where it stands.
  paths = [thing.origin[None, ::2] for thing in scene.things]
  motions = []
  for number, thing in enumerate(scene.things):
    is_free = _make_test(scene, number, paths, camera_path)
    motion = _draw_thing_motion(rng, thing, is_free)
    paths[number] = _path(thing.origin, motion.way)
    motions.append(motion)
  return Motion(camera, motions)


def _draw_camera_motion(rng):
  *way, yaw, pitch = draw_between(rng, _CAMERA_LOW, _CAMERA_HIGH)
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
  angles = rng.uniform(0, 2 * np.pi, _TRIES)
  reaches = rng.uniform(*_REACHES, _TRIES)
  turn = rng.uniform(-_MAX_TURN, _MAX_TURN)
  period = rng.uniform(*_PERIODS)
  still = ThingMotion(np.zeros(3, np.float32), 0.0, period)
  if thing.label == CLUTTER or not wants_to_move:
    return still
  for angle, reach in zip(angles, reaches, strict=True):
    direction = np.float32([np.cos(angle), 0, np.sin(angle)])
    way = np.float32(reach) * direction
    path = _path(thing.origin, way)
    if is_free(path):
      return ThingMotion(way, turn, period)
  return still


def _path(start, way):
  """Points x, z from a start to its far point: float [P, 2]."""
  shares = np.linspace(0, 1, _NUM_POINTS)
  start_x, _, start_z = start
  way_x, _, way_z = way
  x = start_x + shares * way_x
  z = start_z + shares * way_z
  return np.stack([x, z], -1)


def _make_test(scene, number, paths, camera_path):
  """The test of a path for thing `number`: path [P, 2] → bool.

  The upright cylinder around the thing must stay inside the room, and away from
  all places where the camera or another thing may be at any time.
  """
  radius = footprint(scene.things[number])
  room_width, _, room_depth = scene.room
  far_corner = np.array([room_width, room_depth])
  obstacles = [(camera_path, radius + _CAMERA_DISTANCE)]
  for other, path in enumerate(paths):
    if other != number:
      distance = radius + footprint(scene.things[other])
      obstacles.append((path, distance))

  def is_free(path):
    to_wall = np.minimum(path, far_corner - path)
    if to_wall.min() < radius:
      return False
    for points, distance in obstacles:
      if _least_distance(path, points) < distance:
        return False
    return True

  return is_free


def _least_distance(path, other):
  """Between any point of one path and any of another."""
  between = path[:, None] - other[None]
  distances = np.linalg.norm(between, axis=-1)
  return distances.min()


def _to_and_fro(frame, period):
  """The share of its way that something has gone: 0 to 1 and back."""
  share = (frame / period) % 1
  return 1 - abs(1 - 2 * share)


def move(scene, motion, frame):
  """The Scene at a frame of the clip.

  Args:
    scene: at frame 0.
    motion: its Motion.
    frame: the number, an int ≥ 0.
  """
  share = _to_and_fro(frame, motion.camera.period)
  camera = move_camera(
      scene.camera,
      np.float32(share) * motion.camera.way,
      yaw=share * motion.camera.yaw,
      pitch=share * motion.camera.pitch)
  things = []
  for thing, thing_motion in zip(scene.things, motion.things, strict=True):
    share = _to_and_fro(frame, thing_motion.period)
    things.append(thing._replace(
        origin=thing.origin + np.float32(share) * thing_motion.way,
        yaw=thing.yaw + frame * thing_motion.turn))
  return scene._replace(camera=camera, things=things)
