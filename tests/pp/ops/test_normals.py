"""Normals of `rooms`: against its own depth, its camera, and its mirror."""

import numpy as np
import pytest
import tensorflow as tf

from pp import builder
from pp.ops import normals as ops_normals
from pp.rooms import render as rooms_render
from pp.rooms import scene as rooms_scene

SCENES = ((0, 5), (1, 3), (2, 11))
ID = 10**9


def example(stream, index):
  depth = rooms_render.render(stream, index)["depth"][..., None]
  return {"image/id": stream * ID + index, "depth": depth}


def rays(shape, focal):
  """Ways [H,W,3] from the camera to what is 1 m away along its axis."""
  h, w = shape
  x = np.broadcast_to((np.arange(w) + 0.5 - w / 2) / focal, shape)
  y = np.broadcast_to(((h / 2 - np.arange(h) - 0.5) / focal)[:, None], shape)
  return np.stack([x, y, -np.ones(shape)], -1)


def from_points(p):
  """Unit normals [H-2,W-2,3] of the surface through neighbouring points."""
  right = p[1:-1, 2:] - p[1:-1, :-2]
  up = p[:-2, 1:-1] - p[2:, 1:-1]
  n = np.cross(right, up)
  # All four are one point in a hole of the depth.
  return n / np.maximum(np.linalg.norm(n, axis=-1, keepdims=True), 1e-12)


@pytest.mark.parametrize("scene", SCENES)
def test_they_are_those_of_the_depth_seen_with_the_scenes_camera(scene):
  raw = example(*scene)
  normals = builder.build("rooms_normals")(raw)["labels"].numpy()
  assert normals.dtype == np.float32
  known = raw["depth"][..., 0] > 0
  length = np.linalg.norm(normals, axis=-1)
  np.testing.assert_allclose(length[known], 1, atol=1e-3)
  assert not normals[~known].any()
  # Steps of 4 mm in the depth, and borders: most pixels agree, not all.
  focal = rooms_scene.sample(rooms_render.generator(*scene)).focal
  ray = rays(known.shape, focal)
  rough = from_points(ray * raw["depth"].astype(np.float64))
  inner = known[1:-1, 1:-1]
  cosine = np.sum(rough * normals[1:-1, 1:-1], -1)[inner]
  assert np.median(np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))) < 6
  # What is seen faces the camera.
  assert np.mean(np.sum(normals * ray, -1)[known] < 0) > 0.99


def test_a_mirrored_wall_faces_the_other_way():
  text = ('rooms_normals|randu("fliplr")|copy("labels", "plain")|'
          'det_fliplr(key="labels")|mirror_normals')
  preprocess, raw = builder.build(text), example(0, 5)
  kinds = set()
  for seed in range(6):
    out = preprocess(raw, tf.constant([seed, 0], tf.int64))
    plain, got = out["plain"].numpy(), out["labels"].numpy()
    mirrored = bool(out["fliplr"] > 0.5)
    kinds.add(mirrored)
    want = plain[:, ::-1] * np.float32([-1, 1, 1]) if mirrored else plain
    np.testing.assert_array_equal(got, want)
  assert kinds == {True, False}


def test_a_scene_of_another_data_set_is_refused():
  raw = example(0, 5)
  with pytest.raises(ValueError, match="image/id 6 is no scene"):
    ops_normals.room_normals(6, raw["depth"])
  raw["depth"] = raw["depth"] + np.float32(0.1)
  with pytest.raises(ValueError, match="no scene"):
    builder.build("rooms_normals")(raw)
