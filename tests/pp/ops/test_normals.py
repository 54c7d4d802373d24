"""Normals of `rooms`: against its own depth, its camera, and its mirror."""

import numpy as np
import pytest
import tensorflow as tf

from pp import builder
from pp.ops.normals import room_normals
from pp.rooms.render import render
from pp.rooms.scene import draw_scene, image_id, make_rng

SCENES = ((0, 5), (1, 3), (2, 11))


def example(seed, index):
  depth = render(seed, index)["depth"][..., None]
  return {"image/id": image_id(seed, index), "depth": depth}


def camera_rays(shape, focal):
  """Ways [H,W,3] from the camera to what is 1 m away along its axis.

  Written anew and not taken from `rooms`: the camera is part of what is tested.
  """
  height, width = shape
  right = (np.arange(width) + 0.5 - width / 2) / focal
  up = (height / 2 - np.arange(height) - 0.5) / focal
  return np.stack([
      np.broadcast_to(right, shape),
      np.broadcast_to(up[:, None], shape),
      -np.ones(shape),
  ], -1)


def normals_of_points(points):
  """Unit normals [H-2,W-2,3] of the surface through neighboring points."""
  right = points[1:-1, 2:] - points[1:-1, :-2]
  up = points[:-2, 1:-1] - points[2:, 1:-1]
  normals = np.cross(right, up)
  length = np.linalg.norm(normals, axis=-1, keepdims=True)
  # In a hole of the depth all four are one point.
  return normals / np.maximum(length, 1e-12)


@pytest.mark.parametrize("scene", SCENES)
def test_they_are_those_of_the_depth_seen_with_the_scenes_camera(scene):
  raw = example(*scene)
  normals = builder.build("rooms_normals")(raw)["labels"].numpy()
  assert normals.dtype == np.float32
  is_known = raw["depth"][..., 0] > 0
  length = np.linalg.norm(normals, axis=-1)
  np.testing.assert_allclose(length[is_known], 1, atol=1e-3)
  assert not normals[~is_known].any()
  # Steps of 4 mm in the depth, and borders: most pixels agree, not all.
  focal = draw_scene(make_rng(*scene)).camera.focal
  rays = camera_rays(is_known.shape, focal)
  rough = normals_of_points(rays * raw["depth"].astype(np.float64))
  cosine = np.sum(rough * normals[1:-1, 1:-1], -1)[is_known[1:-1, 1:-1]]
  degrees = np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))
  assert np.median(degrees) < 6
  # What is seen faces the camera.
  facing = np.sum(normals * rays, -1)[is_known]
  assert np.mean(facing < 0) > 0.99


def test_a_mirrored_wall_faces_the_other_way():
  text = ('rooms_normals|randu("fliplr")|copy("labels", "plain")|'
          'det_fliplr(key="labels")|mirror_normals')
  preprocess = builder.build(text)
  raw = example(0, 5)
  outcomes = set()
  for seed in range(6):
    out = preprocess(raw, tf.constant([seed, 0], tf.int64))
    is_mirrored = bool(out["fliplr"] > 0.5)
    outcomes.add(is_mirrored)
    expected = out["plain"].numpy()
    if is_mirrored:
      expected = expected[:, ::-1] * np.float32([-1, 1, 1])
    np.testing.assert_array_equal(out["labels"].numpy(), expected)
  assert outcomes == {True, False}


def test_a_scene_of_another_data_set_is_refused():
  raw = example(0, 5)
  with pytest.raises(ValueError, match="image/id 6 is no scene"):
    room_normals(6, raw["depth"])
  raw["depth"] = raw["depth"] + np.float32(0.1)
  with pytest.raises(ValueError, match="no scene"):
    builder.build("rooms_normals")(raw)
