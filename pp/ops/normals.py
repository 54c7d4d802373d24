"""Ops for surface normals: x right, y up, z towards the camera; 0 = unknown."""

import numpy as np
import tensorflow as tf

from pp.builder import get, register
from pp.rooms.normals import image_normals
from pp.rooms.scene import scene_at, seed_and_index

_MAX_DEPTH_ERROR = 0.01  # Meters. Stored depth has steps of 4 mm.


def room_normals(image_id, depth):
  """Computes the normals of a scene of `rooms`.

  They come from the geometry of the scene and not from its depth: the depth has
  steps of 4 mm, and the data set does not store the camera.

  Args:
    image_id: the number `image/id` of the example.
    depth: its depth, float32 [H, W, 1] in meters, 0 = hole.

  Returns:
    Unit normals, float32 [H, W, 3]; 0 where the depth is 0.

  Raises:
    ValueError: when the depth is not that of the scene with this number. The
      example then comes from another data set, or from another version.
  """
  # The number of an example says how its scene was drawn.
  seed, index = seed_and_index(image_id)
  scene = scene_at(seed, index)
  true_depth, normals = image_normals(scene)
  is_known = depth > 0
  if not _agrees(depth, true_depth, is_known):
    raise ValueError(
        f"image/id {image_id} is no scene of this version of rooms.")
  # [H, W, 3] times [H, W, 1]: a hole has no normal.
  return normals * is_known


def _agrees(depth, true_depth, is_known):
  """Whether both depths are about the same where they are known."""
  if depth.shape != true_depth.shape:
    return False
  error = np.abs(true_depth - depth)[is_known]
  # A depth map may be all holes; then there is no error to take.
  return error.max(initial=0) <= _MAX_DEPTH_ERROR


@register()
def rooms_normals():
  """`image/id` and `depth` of `rooms` → `labels`, float32 [H, W, 3]."""
  def fn(data):
    known = get(data, "image/id"), get(data, "depth")
    # The geometry of `rooms` is numpy code, so TensorFlow calls Python.
    labels = tf.numpy_function(room_normals, known, tf.float32)
    return {**data, "labels": tf.ensure_shape(labels, [None, None, 3])}
  return fn


@register()
def mirror_normals(key="labels", randkey="fliplr"):
  """Negates x where `det_fliplr` of the same `randkey` mirrors."""
  def fn(data):
    is_mirrored = get(data, randkey) > 0.5
    # x points right, so a mirror negates it. y and z stay.
    sign = tf.where(is_mirrored, [-1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    return {**data, key: get(data, key) * sign}
  return fn
