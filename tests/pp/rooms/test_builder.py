"""The data set on disk: features, splits, and what TFDS finds by name."""

import dataclasses
import pathlib
import shutil
import subprocess
import sys
import time
from concurrent import futures

import numpy as np
import pytest
import tensorflow_datasets as tfds

from pp.rooms import builder as rooms
from pp.rooms import worker
from uvim import lock as lock_lib
from uvim.lock import Lock
from uvim.registry import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[3]


def test_unknown_config_names_the_known_ones(tmp_path):
  with pytest.raises(ConfigError, match="default.*tiny"):
    rooms.build(tmp_path, "huge")


# In another process, which has imported nothing yet. It is one for both tests,
# because most of its time is imports.
IMPORT_AND_RENDER = """
import sys
import tensorflow_datasets as tfds
assert "rooms" not in tfds.list_builders(with_community_datasets=False)
from pp.rooms import builder
assert tfds.builder_cls("rooms") is builder.Builder
data_dir, target = sys.argv[1:]
assert tfds.builder("rooms", data_dir=data_dir).builder_config.name == "default"
tiny = tfds.builder("rooms/tiny", data_dir=data_dir)
assert isinstance(tiny, builder.Builder)
assert tiny.info.splits["train"].num_examples == 64
print("registered", flush=True)
from tests.pp.rooms import test_builder
builder.build(target, test_builder.few())
"""


@pytest.fixture(scope="module")
def other_process(rooms_tiny_dir, tmp_path_factory):
  """(what it printed, where it rendered a scene)."""
  target = tmp_path_factory.mktemp("theirs")
  done = subprocess.run(
      [sys.executable, "-c", IMPORT_AND_RENDER, rooms_tiny_dir, target],
      cwd=ROOT, capture_output=True, text=True)
  return done.stdout, target


def test_the_import_registers_the_names(other_process):
  """TFDS resolves `rooms` and `rooms/tiny` after the import, and only then."""
  printed, _ = other_process
  assert "registered" in printed


def test_features_are_those_of_coco_panoptic_plus_depth(tmp_path):
  builder = rooms.Builder(config="tiny", data_dir=tmp_path)
  ours = builder.info.features
  coco = tfds.builder("coco/2017_panoptic", data_dir=tmp_path).info.features
  assert set(ours) == set(coco) | {"depth"}
  assert ours["depth"].np_dtype == np.float32
  for key in set(coco) - {"panoptic_objects"}:
    assert repr(ours[key]) == repr(coco[key])
  our_objects = ours["panoptic_objects"].feature
  coco_objects = coco["panoptic_objects"].feature
  assert set(our_objects) == set(coco_objects)
  for key in set(coco_objects) - {"label"}:
    assert repr(our_objects[key]) == repr(coco_objects[key])
  names = [name for _, name, _ in rooms.CATEGORIES]
  assert our_objects["label"].names == names


def check_example(example, truth):
  colors = example["panoptic_image"].astype(np.int32)
  ids = colors @ np.int32([1, 256, 65536])
  np.testing.assert_array_equal(ids, truth["segments"])
  np.testing.assert_array_equal(example["depth"][..., 0], truth["depth"])
  # JPEG keeps the image only about.
  error = np.abs(example["image"].astype(int) - truth["image"].astype(int))
  assert error.mean() < 3
  height, width = ids.shape
  objects = example["panoptic_objects"]
  assert len(objects["id"]) == len(truth["objects"])
  for number, item in enumerate(truth["objects"]):
    for key in ("id", "label", "area", "is_crowd"):
      assert objects[key][number] == item[key]
    box = objects["bbox"][number] * [height, width, height, width]
    np.testing.assert_allclose(box, item["bbox"], rtol=1e-5)


def test_tiny_is_the_start_of_each_stream(rooms_tiny_dir):
  for split, seed in rooms.SEEDS.items():
    data = tfds.load("rooms/tiny", split=split, data_dir=rooms_tiny_dir)
    for index, example in enumerate(tfds.as_numpy(data.take(2))):
      check_example(example, rooms.render(seed, index))


def modification_times(folder):
  return {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}


def test_data_set_on_disk_is_what_render_gives(tmp_path):
  sizes = {"train": 4, "holdout": 2, "validation": 2}
  config = rooms.RoomsConfig(name="few", sizes=sizes)
  builder = rooms.build(tmp_path, config)
  splits = builder.info.splits
  assert {name: splits[name].num_examples for name in splits} == sizes
  image_ids = set()
  for split, seed in rooms.SEEDS.items():
    data = tfds.load("rooms/few", split=split, data_dir=tmp_path)
    for index, example in enumerate(tfds.as_numpy(data)):
      check_example(example, rooms.render(seed, index))
      image_ids.add(int(example["image/id"]))
  assert len(image_ids) == sum(sizes.values())


def test_two_processes_render_the_same_bytes(other_process, tmp_path):
  """So a run goes on where rooms was deleted and is rendered again."""
  _, target = other_process
  rooms.build(tmp_path, few())
  ours, = tmp_path.rglob("*.tfrecord*")
  theirs, = target.rglob("*.tfrecord*")
  assert ours.read_bytes() == theirs.read_bytes()


def few(scenes=worker.scenes):
  return rooms.RoomsConfig(name="few", sizes={"train": 1}, scenes=scenes)


def never(seed, num):
  raise AssertionError("Nothing should be rendered.")


def test_of_two_processes_one_renders_and_the_other_waits(tmp_path, capfd):
  rooms.build(tmp_path / "rendered", few())
  data_dir = tmp_path / "ü [1]"
  with futures.ThreadPoolExecutor() as pool:
    # This process stands for the one that renders.
    with Lock(data_dir / "rooms/.render.lock", "rooms"):
      waiting = pool.submit(rooms.build, data_dir, few(never))
      while "this one waits for it" not in capfd.readouterr().err:
        time.sleep(0.01)
      shutil.copytree(tmp_path / "rendered", data_dir, dirs_exist_ok=True)
    builder = waiting.result()
  assert builder.info.splits["train"].num_examples == 1
  assert sorted(path.name for path in (data_dir / "rooms").iterdir()) == [
      ".config", "few"]


def leave(data_dir):
  """What a killed render leaves."""
  unfinished = data_dir / "rooms/few/incomplete.ABCDEF_1.1.0"
  unfinished.mkdir(parents=True)
  (unfinished / "rooms-train.tfrecord-00000-of-00001").write_bytes(b"part")
  metadata = data_dir / "rooms/.config/incomplete.0123.metadata.json"
  metadata.parent.mkdir(exist_ok=True)
  metadata.write_text("{")
  return [unfinished, metadata]


def test_what_a_killed_render_left_is_removed(tmp_path):
  left = leave(tmp_path)
  lock_path = tmp_path / "rooms/.render.lock"
  # An earlier process that had the number of this one.
  dead = dataclasses.replace(lock_lib._this_process(), born="1")
  Lock(lock_path, "rooms", owner=dead).acquire()
  rooms.build(tmp_path, few())
  assert not any(path.exists() for path in [*left, lock_path])
  # Also where the data set is complete, but not while somebody renders.
  left = leave(tmp_path)
  with Lock(lock_path, "rooms"):
    rooms.build(tmp_path, few(never))
    assert all(path.exists() for path in left)
  rooms.build(tmp_path, few(never))
  assert not any(path.exists() for path in left)


def test_a_render_that_fails_is_one_line(tmp_path):
  def dies(seed, num):
    raise RuntimeError("The process that renders scene 0 ended early.")
    yield

  with pytest.raises(ConfigError, match="cannot be rendered.*ended early"):
    rooms.build(tmp_path, few(dies))
  assert not (tmp_path / "rooms/.render.lock").exists()
  rooms.build(tmp_path, few())


def test_a_folder_that_is_no_data_set_is_kept(tmp_path):
  folder = tmp_path / "rooms/few" / rooms.VERSION
  folder.mkdir(parents=True)
  (folder / "mine.txt").write_text("mine")
  with pytest.raises(ConfigError, match="has no dataset_info.json. Delete"):
    rooms.build(tmp_path, few(never))
  assert (folder / "mine.txt").read_text() == "mine"


def test_what_is_on_disk_is_not_rendered_again(tmp_path):
  calls = []

  def counted_scenes(seed, num):
    calls.append((seed, num))
    return worker.scenes(seed, num, processes=0)

  config = rooms.RoomsConfig(
      name="few", sizes={"train": 1, "holdout": 1}, scenes=counted_scenes)
  rooms.build(tmp_path, config)
  assert calls == [(0, 1), (1, 1)]
  before = modification_times(tmp_path)
  rooms.build(tmp_path, config)
  assert modification_times(tmp_path) == before
  assert len(calls) == 2
