"""Rays: they meet solids where these are, and shadows fall where they should.
"""

import numpy as np
import pytest

from pp.rooms import solids as solids_lib
from pp.rooms import things
from pp.rooms.normals import hit_normals
from pp.rooms.scene import draw_scene, make_rng
from pp.rooms.shade import lit_share
from pp.rooms.solids import PlaneBoxes
from pp.rooms.things import LABEL, Thing
from pp.rooms.trace import prepare, trace

NUM_RAYS = 300


def test_depth_of_a_thing_is_before_what_it_hides(scenes):
  data, scene = scenes[0]
  empty = scene._replace(things=[])
  grid = np.indices(data["depth"].shape, np.float32).reshape(2, -1)
  row, column = grid + np.float32(0.5)
  with_things = trace(prepare(scene), column, row)
  without = trace(prepare(empty), column, row)
  is_thing = with_things.owner_N >= 0
  assert is_thing.any()
  assert (with_things.depth_N[is_thing] < without.depth_N[is_thing]).all()
  np.testing.assert_array_equal(
      with_things.depth_N[~is_thing], without.depth_N[~is_thing])


def test_only_pairs_that_may_meet_are_left_out(scenes):
  """Boxes around solids and shadows change nothing but the time."""
  rng = np.random.default_rng(0)
  for _, scene in scenes[:12]:
    fast = prepare(scene)
    num_solids = len(fast.solids.owner_K)
    everything = PlaneBoxes(
        low_2K=np.full((2, num_solids), -1e9, np.float32),
        high_2K=np.full((2, num_solids), 1e9, np.float32))
    slow = fast._replace(outlines=everything, shadows=everything)
    size = [[scene.camera.width], [scene.camera.height]]
    column, row = (rng.random((2, 2000)) * size).astype(np.float32)
    hits = trace(fast, column, row)
    true_hits = trace(slow, column, row)
    for found, truth in zip(hits, true_hits, strict=True):
      np.testing.assert_array_equal(found, truth)
    normals = hit_normals(fast, hits)
    samples = scene.lamp.samples_3L[:, :, None]
    lit = lit_share(fast, hits.point_3N, normals, samples)
    true_lit = lit_share(slow, hits.point_3N, normals, samples)
    np.testing.assert_array_equal(lit, true_lit)
    assert (lit < 1).any()


def is_inside(kind, shape, points):
  """Whether points [3, N] are inside a shape, straight from its words."""
  if kind == "spheres":
    center = shape[:3, None]
    return ((points - center) ** 2).sum(0) < shape[3] ** 2
  if kind == "boxes":
    center = shape[:3, None]
    half = shape[3:, None]
    return (np.abs(points - center) < half).all(0)
  x, z, bottom, top, bottom_radius, top_radius = shape
  level = (points[1] - bottom) / (top - bottom)
  radius = bottom_radius + (top_radius - bottom_radius) * level
  square = (points[0] - x) ** 2 + (points[2] - z) ** 2
  return (level > 0) & (level < 1) & (square < radius ** 2)


def thing_of_one(kind, shape, origin, yaw):
  shapes = {
      "spheres": np.zeros((0, 4), np.float32),
      "boxes": np.zeros((0, 6), np.float32),
      "frusta": np.zeros((0, 6), np.float32),
  }
  shapes[kind] = np.float32([shape])
  return Thing(
      label=0, origin=origin, yaw=yaw, gloss=0.0,
      colors=np.ones((1, 3), np.float32),
      low=np.zeros(3), high=np.zeros(3), **shapes)


@pytest.mark.parametrize("kind, shape", [
    ("spheres", (0.1, 0.2, -0.1, 0.5)),
    ("boxes", (0.1, 0.2, -0.1, 0.5, 0.2, 0.3)),
    ("frusta", (0.1, -0.1, -0.4, 0.5, 0.3, 0.3)),
    ("frusta", (0.1, -0.1, -0.4, 0.5, 0.6, 0.0)),
    ("frusta", (0.1, -0.1, -0.4, 0.1, 0.2, 0.9)),
])
@pytest.mark.parametrize("eye", [(0.2, 1.5, -0.8), (0.35, 3.0, 2.05)])
def test_rays_enter_solids_where_marching_finds_them(kind, shape, eye):
  origin = np.float32([0.3, 0.1, 2.0])
  thing = thing_of_one(kind, shape, origin, yaw=0.7)
  solids = solids_lib.make_solids([thing])
  frame = solids.table_13K[:5]
  shape = np.float32(shape)

  rng = np.random.default_rng(0)
  eye = np.float32(eye)[:, None]
  spread = rng.normal(0, 0.4, (3, NUM_RAYS)).astype(np.float32)
  rays = (origin[:, None] + spread - eye) / 3
  (distance,) = solids_lib.enter(
      solids, np.array([NUM_RAYS]), eye, rays[:, None])

  # March along each ray in small steps.
  steps = np.linspace(0, 6, 6001, dtype=np.float32)
  points = eye[:, :, None] + rays[:, :, None] * steps
  local = solids_lib.to_frame(frame, points.reshape(3, -1))
  inside = is_inside(kind, shape, local).reshape(NUM_RAYS, -1)
  num_inside = inside.sum(1)
  assert 30 < (num_inside > 0).sum() < NUM_RAYS
  is_clear = num_inside > 3  # Rays that graze the rim may go either way.
  first = steps[inside.argmax(1)]
  np.testing.assert_allclose(distance[is_clear], first[is_clear], atol=2e-3)
  assert (distance[num_inside == 0] > 1e8).mean() > 0.98

  hits = (eye + distance * rays)[:, is_clear]
  count = np.array([is_clear.sum()])
  normals = solids_lib.normals(solids, count, hits)
  np.testing.assert_allclose((normals ** 2).sum(0), 1, atol=1e-4)
  assert ((normals * rays[:, is_clear]).sum(0) < 0).mean() > 0.98
  # A step along the normal leaves the solid, a step back enters it.
  step = np.float32(5e-3) * normals
  outside = solids_lib.to_frame(frame, hits + step)
  assert (~is_inside(kind, shape, outside)).mean() > 0.95
  within = solids_lib.to_frame(frame, hits - step)
  assert is_inside(kind, shape, within).mean() > 0.95


def test_shadow_lies_opposite_the_lamp():
  """A ball under a lamp darkens the floor below it, not beside it."""
  scene = draw_scene(make_rng(0, 0))
  x, _, z = scene.lamp.center
  ball = things.make_thing(
      np.random.default_rng(0), LABEL["ball"], 1.0, np.ones(3, np.float32))
  ball = ball._replace(origin=np.float32([x - 0.5, 0.3, z]))
  prepared = prepare(scene._replace(things=[ball]))
  floor = np.float32([[x - 0.6, x + 0.6], [0, 0], [z, z]])
  up = np.float32([[0, 0], [1, 1], [0, 0]])
  samples = scene.lamp.samples_3L[:, :, None]
  lit = lit_share(prepared, floor, up, samples)
  assert lit[0] == 0
  assert lit[1] == 1
