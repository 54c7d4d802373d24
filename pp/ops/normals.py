"""Surface normals: x right, y up, z at the camera; zeros where unknown."""

import numpy as np
import tensorflow as tf

from pp.builder import get, register
from pp.rooms import (
  render as rooms_render,
)
from pp.rooms import (
  scene as rooms_scene,
)
from pp.rooms import (
  shade as rooms_shade,
)
from pp.rooms import (
  trace as rooms_trace,
)


def room_normals(image_id, depth):
  """float32 [H,W,3] of a scene of `rooms`; 0 where its `depth` [H,W,1] is 0.

  From the geometry: the depth has steps of 4 mm, and no camera comes with it.
  """
  rng = rooms_render.generator(*divmod(int(image_id), 10**9))
  view = rooms_trace.prepare(scene := rooms_scene.sample(rng))
  v, u = (np.arange(n, dtype=np.float32) + np.float32(.5) for n in scene.shape)
  hits = rooms_trace.trace(view, u[None], v[:, None])
  t, known = hits.t.reshape(*scene.shape, 1), depth > 0
  if depth.shape != t.shape or np.abs(t - depth)[known].max(initial=0) > 0.01:
    raise ValueError(f"image/id {image_id} is no scene of the present rooms.")
  _, n = rooms_shade._albedo_and_normals(view, hits)
  x, y, z = rooms_scene.to_camera(scene, *(n + scene.eye[:, None]))
  return np.stack([x, -y, -z], -1).reshape(*scene.shape, 3) * known


@register()
def rooms_normals():
  """`image/id` and `depth` of `rooms` → `labels`, float32 [H, W, 3]."""
  def fn(data):
    known = get(data, "image/id"), get(data, "depth")
    labels = tf.numpy_function(room_normals, known, tf.float32)
    return {**data, "labels": tf.ensure_shape(labels, [None, None, 3])}
  return fn


@register()
def mirror_normals(key="labels", randkey="fliplr"):
  """Negates x where `det_fliplr` of the same `randkey` mirrors."""
  def fn(data):
    sign = tf.where(get(data, randkey) > 0.5, [-1.0, 1.0, 1.0], [1.0] * 3)
    return {**data, key: get(data, key) * sign}
  return fn
