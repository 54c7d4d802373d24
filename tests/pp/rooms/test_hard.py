"""The hard scenes: crowded, of more categories, alike in color."""

import numpy as np
import pytest

from pp import data_sets
from pp.ops.normals import room_normals
from pp.rooms import builder as rooms
from pp.rooms.render import render
from pp.rooms.scene import image_id, scene_at
from pp.rooms.things import CATEGORIES, CLUTTER, HARD_CATEGORIES
from tests.pp.rooms.test_render import touching_ids

SEED = rooms.HARD_SEEDS["train"]
NUM_SCENES = 60
# Of the first two scenes: mean of image and of depth.
MEANS = [(144.115, 3.2592), (141.575, 3.1379)]


@pytest.fixture(scope="module")
def scenes():
  """(what `render` gives, the Scene) of some hard scenes."""
  return [(render(SEED, index), scene_at(SEED, index))
          for index in range(NUM_SCENES)]


def is_thing(label):
  return label != CLUTTER and HARD_CATEGORIES[label][2]


def has_touching_look_alikes(data):
  """Whether two things of one category are neighbors."""
  label_of_id = {item["id"]: item["label"] for item in data["objects"]}
  for one, other in touching_ids(data["segments"]):
    label = label_of_id[one]
    if is_thing(label) and label == label_of_id[other]:
      return True
  return False


def test_labels_of_rooms_mean_the_same():
  assert HARD_CATEGORIES[:len(CATEGORIES)] == CATEGORIES
  assert len(HARD_CATEGORIES) == 24
  ids = [number for number, _, _ in HARD_CATEGORIES]
  assert len(set(ids)) == 24
  assert len(rooms.categories_of("hard_tiny")) == 24
  assert len(rooms.categories_of("")) == len(CATEGORIES)


def test_scenes_are_small_and_crowded(scenes):
  counts = []
  labels = set()
  for data, scene in scenes:
    assert data["image"].shape == (64, 64, 3)
    assert data["depth"].shape == (64, 64)
    things = [thing for thing in scene.things if is_thing(thing.label)]
    counts.append(len(things))
    labels |= {item["label"] for item in data["objects"]}
  assert max(counts) <= 14
  assert 7 < np.mean(counts) < 10
  assert np.mean(np.array(counts) >= 3) > 0.95
  # All categories of things, and some stuff.
  assert len(labels) == 24


def test_all_things_have_one_of_two_colors_and_look_alikes_touch(scenes):
  hits = 0
  for data, scene in scenes:
    colors = set()
    for thing in scene.things:
      if is_thing(thing.label):
        # The brightest shape has the color of the thing itself.
        brightest = thing.colors[thing.colors.sum(1).argmax()]
        colors.add(tuple(np.round(brightest, 3)))
    assert len(colors) <= 2
    hits += has_touching_look_alikes(data)
  assert hits / len(scenes) > 0.9


def test_normals_find_the_scene_by_its_id(scenes):
  data, _ = scenes[0]
  depth = data["depth"][..., None]
  normals = room_normals(image_id(SEED, 0), depth)
  lengths = np.linalg.norm(normals, axis=-1)
  np.testing.assert_allclose(lengths, data["depth"] > 0, atol=1e-5)


def test_the_data_set_has_these_categories(tmp_path):
  builder = rooms.Builder(config="hard_tiny", data_dir=tmp_path)
  names = [name for _, name, _ in HARD_CATEGORIES]
  feature = builder.info.features["panoptic_objects"].feature["label"]
  assert feature.names == names
  found = data_sets.find_categories("rooms/hard", str(tmp_path))
  assert [category.name for category in found] == names


def test_these_scenes_stay_what_they_are(scenes):
  means = [(data["image"].mean(), data["depth"].mean())
           for data, _ in scenes[:2]]
  np.testing.assert_allclose(means, MEANS, atol=0.02)
