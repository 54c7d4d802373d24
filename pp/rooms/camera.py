"""A pinhole camera: from points of the room to the image, and back to rays.

Camera axes: x to the right, y down, z along the optical axis. Room axes: x to
the right, y up, z away from the front wall. Lengths are metres.
"""

from typing import NamedTuple

import numpy as np

from pp.rooms.vectors import stack_xyz


class Camera(NamedTuple):
  """Where the camera stands and looks. It never rolls."""
  height: int  # Pixels of the image.
  width: int
  focal: float  # Focal length in pixels.
  eye: np.ndarray  # [3] position in the room.
  cos_yaw: np.float32  # Yaw: rotation about the vertical axis.
  sin_yaw: np.float32
  cos_pitch: np.float32  # Pitch: positive looks down.
  sin_pitch: np.float32


def make_camera(height, width, focal, eye, yaw, pitch):
  """The Camera at `eye`; `yaw` and `pitch` are radians."""
  return Camera(
      height=height,
      width=width,
      focal=focal,
      eye=eye,
      cos_yaw=np.float32(np.cos(yaw)),
      sin_yaw=np.float32(np.sin(yaw)),
      cos_pitch=np.float32(np.cos(pitch)),
      sin_pitch=np.float32(np.sin(pitch)),
  )


def move_camera(camera, way, yaw, pitch):
  """The Camera after a move.

  Args:
    camera: a Camera.
    way: [3], how far the eye goes.
    yaw: by how much it turns.
    pitch: likewise.
  """
  old_yaw = np.arctan2(camera.sin_yaw, camera.cos_yaw)
  old_pitch = np.arctan2(camera.sin_pitch, camera.cos_pitch)
  return make_camera(
      camera.height,
      camera.width,
      camera.focal,
      camera.eye + way,
      old_yaw + yaw,
      old_pitch + pitch,
  )


def to_camera(camera, x, y, z):
  """Changes room coordinates to camera coordinates.

  Args:
    camera: a Camera.
    x: first room coordinate, a number or an array.
    y: second room coordinate.
    z: third room coordinate.

  Returns:
    Distances to the right of, below and in front of the camera, in metres.
  """
  eye_x, eye_y, eye_z = camera.eye
  x = x - eye_x
  y = y - eye_y
  z = z - eye_z
  # Undo the yaw first, then the pitch.
  right = camera.cos_yaw * x - camera.sin_yaw * z
  level = camera.sin_yaw * x + camera.cos_yaw * z
  down = -(camera.cos_pitch * y + camera.sin_pitch * level)
  ahead = camera.cos_pitch * level - camera.sin_pitch * y
  return right, down, ahead


def ray_directions(camera, column, row):
  """Directions of the rays through positions in the image.

  Args:
    camera: a Camera.
    column: float32, horizontal positions in pixels; the middle of the first
      pixel is 0.5.
    row: float32, vertical positions; both are broadcast together.

  Returns:
    float32 [3, ...] in room axes. Each has unit length *along the optical
    axis*, so that the multiple of it that reaches a point is the planar depth
    of the point in metres.
  """
  focal = np.float32(camera.focal)
  middle_column = np.float32(camera.width / 2)
  middle_row = np.float32(camera.height / 2)
  x = (column - middle_column) / focal
  y = (middle_row - row) / focal
  # Pitch first, then yaw.
  level = camera.cos_pitch + camera.sin_pitch * y
  up = camera.cos_pitch * y - camera.sin_pitch
  room_x = camera.cos_yaw * x + camera.sin_yaw * level
  room_z = camera.cos_yaw * level - camera.sin_yaw * x
  return stack_xyz(room_x, up, room_z)
