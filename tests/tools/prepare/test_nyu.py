"""NYU Depth V2 in, a TFDS data set with whole scenes held out.

H W pixels of an image
"""

import itertools
import json
import shutil
import sys

import numpy as np
import pytest

from pp import sources
from tests.tools.prepare import raw_files
from tools.prepare import __main__ as prepare_data
from tools.prepare import nyu
from tools.prepare.writer import Target
from uvim.registry import ConfigError

SCENES = ["attic_0001", "bath_0001", "cafe_0001a", "cafe_0001b", "den_0002"]
SMALL_HW = (48, 64)  # Real frames take longer to write.
FULL_HW = (480, 640)


def save_frame(folder, scene, number, *, size_HW=FULL_HW):
  """A frame with the gray value `number` and a depth of `number` + 0.25 m."""
  depth_HW = np.full(size_HW, 1000 * number + 250, np.uint16)
  raw_files.save(folder / scene / f"rgb_{number:05d}.jpg",
                 raw_files.plain(number, *size_HW))
  raw_files.save(folder / scene / f"sync_depth_{number:05d}.png", depth_HW)


def save_hdf5_frame(folder, scene, number, *, size_HW):
  """The same as one .h5 file."""
  h5py = pytest.importorskip("h5py")
  path = folder / scene / f"{number:05d}.h5"
  path.parent.mkdir(parents=True, exist_ok=True)
  image_HW3 = raw_files.plain(number, *size_HW)
  with h5py.File(path, "w") as file:
    file["rgb"] = np.moveaxis(image_HW3, -1, 0)
    file["depth"] = np.full(size_HW, number + 0.25, np.float32)


@pytest.mark.parametrize("save", [save_frame, save_hdf5_frame])
def test_whole_scenes_are_held_out(tmp_path, save):
  for number, scene in enumerate(SCENES + SCENES[:2]):
    save(tmp_path / "train", scene, number, size_HW=SMALL_HW)
  save(tmp_path / "val", "official", 9, size_HW=SMALL_HW)
  reader = nyu.NyuReader(tmp_path / "train", tmp_path / "val",
                         holdout_scenes=2, size_HW=SMALL_HW)
  data_dir = tmp_path / "out"
  splits = reader.prepare(Target("nyu_scenes", str(data_dir)))
  assert splits == ["train", "holdout", "validation"]
  examples = {split: raw_files.read_examples("nyu_scenes", split, data_dir)
              for split in splits}
  for example in itertools.chain.from_iterable(examples.values()):
    assert_belongs_together(example)
  scenes = {}
  for split in splits:
    scenes[split] = {example["scene"].decode() for example in examples[split]}
  assert len(scenes["holdout"]) == 2
  assert len(examples["validation"]) == 1
  assert scenes["train"] | scenes["holdout"] == set(SCENES)
  assert scenes["validation"] == {"official"}
  for first, second in itertools.combinations(splits, 2):
    assert not scenes[first] & scenes[second]
  scenes_path = data_dir / "nyu_scenes/1.0.0/scenes.json"
  listed = json.loads(scenes_path.read_text())
  assert {split: set(names) for split, names in listed.items()} == scenes
  # Both names together are all training frames, at any place.
  both = sources.make_source("nyu_scenes", "train+holdout", data_dir)
  train = examples["train"]
  holdout = examples["holdout"]
  assert both.num_examples == 7 == len(train) + len(holdout)
  assert both.example(0)["file_name"] == train[0]["file_name"]
  assert both.example(6)["file_name"] == holdout[-1]["file_name"]


def assert_belongs_together(example):
  """Image, depth and name are of one frame; see `save_frame`."""
  depth = example["depth"]
  number = depth[0, 0, 0] - 0.25
  assert depth.shape == (*SMALL_HW, 1)
  assert (depth == number + 0.25).all()
  pixel = sources.tf.io.decode_image(example["image"])[7, 7].numpy()
  assert abs(pixel - number).max() <= 1
  assert f"{int(number):05d}" in example["file_name"].decode()


def test_mistakes(tmp_path, capsys, monkeypatch):
  train = tmp_path / "train"
  validation = tmp_path / "val"
  data_dir = tmp_path / "out"
  save_frame(train, "attic_0001", 1)
  save_frame(train, "bath_0001", 2)
  save_frame(validation, "bath_0001", 3)

  def failure(**options):
    argv = raw_files.arguments("nyu", data_dir, train=train,
                               validation=validation, **options)
    message = raw_files.failure(argv, capsys)
    assert not data_dir.exists()
    return message

  assert "--holdout_scenes: 14; allowed: 0 to 1" in failure()
  assert "bath_0001: in" in failure(holdout_scenes=1)
  shutil.move(validation / "bath_0001", validation / "official")
  depth_path = train / "attic_0001/sync_depth_00001.png"
  raw_files.save(depth_path, np.ones((426, 560), np.uint16))
  assert "480x640 is wanted" in failure(holdout_scenes=1)
  depth_path.unlink()
  assert "no sync_depth_00001.png beside it" in failure()
  shutil.rmtree(train)
  save_frame(train, "", 1)
  assert "in no folder of a scene" in failure()
  hdf5_path = train / "x.h5"
  hdf5_path.write_bytes(b"")
  with monkeypatch.context() as patch:
    patch.setitem(sys.modules, "h5py", None)  # As if it were not installed.
    assert "pip install h5py" in failure()
  hdf5_path.unlink()
  shutil.rmtree(validation)
  validation.mkdir()
  assert "neither SCENE/*.h5" in failure(holdout_scenes=0)


def link_away(file, h5py, other):
  del file["depth"]
  file["depth"] = h5py.ExternalLink(other, "depth")


def virtual_array(file, h5py, other):
  shape = file["depth"].shape
  del file["depth"]
  layout = h5py.VirtualLayout(shape, np.float32)
  layout[...] = h5py.VirtualSource(other, "depth", shape)
  file.create_virtual_dataset("depth", layout)


def external_array(file, h5py, other):
  shape = file["depth"].shape
  del file["depth"]
  file.create_dataset("depth", shape, np.float32,
                      external=[(other, 0, h5py.h5f.UNLIMITED)])


def group(file, h5py, other):
  del file["depth"]
  file.create_group("depth")


def absent(file, h5py, other):
  del file["depth"]


@pytest.mark.parametrize("change, expected", [
    (link_away, "'depth' is a link"), (virtual_array, "in other files"),
    (external_array, "in other files"), (group, "is no array"),
    (absent, "has no 'depth'")])
def test_an_hdf5_file_holds_its_own_arrays(tmp_path, change, expected):
  h5py = pytest.importorskip("h5py")
  for number in (1, 2):
    save_hdf5_frame(tmp_path / "val", "official", number, size_HW=SMALL_HW)
  other, path = sorted((tmp_path / "val/official").iterdir())
  with h5py.File(path, "a") as file:
    change(file, h5py, str(other))
  reader = nyu.NyuReader(None, tmp_path / "val", size_HW=SMALL_HW)
  with pytest.raises(ConfigError) as error:
    reader.prepare(Target("nyu_scenes", str(tmp_path / "out")))
  assert "00002.h5' cannot be read" in str(error.value)
  assert expected in str(error.value)


@pytest.mark.parametrize("content", [
    "", "[1", "[]", "null", '{"train": "a"}', '{"train": [1]}',
    '{"train": null}'])
def test_a_damaged_list_of_scenes_is_named(tmp_path, capsys, content):
  save_frame(tmp_path / "val", "official", 3)
  path = tmp_path / "out/nyu_scenes/1.0.0/scenes.json"
  path.parent.mkdir(parents=True)
  path.write_text(content)
  message = raw_files.failure(raw_files.arguments(
      "nyu", tmp_path / "out", validation=tmp_path / "val"), capsys)
  assert "error: --name: " in message and str(path) in message


def test_one_folder_is_enough(tmp_path, capsys):
  save_frame(tmp_path / "val", "official", 3)
  assert prepare_data.main(raw_files.arguments(
      "nyu", tmp_path / "out", validation=tmp_path / "val")) == 0
  assert len(raw_files.read_examples(
      "nyu_scenes", "validation", tmp_path / "out")) == 1
  message = raw_files.failure(
      raw_files.arguments("nyu", tmp_path / "out"), capsys)
  assert "give at least one" in message


def test_fourteen_of_280_scenes_whatever_their_order():
  scenes = [f"room_{number:04d}" for number in range(240)]
  for number in range(20):
    scenes += [f"hall_{number:04d}a", f"hall_{number:04d}b"]
  chosen = nyu.choose_holdout(scenes, 14)
  assert len(set(chosen)) == 14
  assert set(chosen) < set(scenes)
  assert nyu.choose_holdout(scenes[::-1] * 3, 14) == chosen
  assert chosen != sorted(scenes)[:14]
  assert_whole_halls(chosen)
  many = nyu.choose_holdout(scenes, 140)
  assert any(scene.startswith("hall") for scene in many)
  assert_whole_halls(many)
  with pytest.raises(ConfigError, match="parting one room"):
    nyu.choose_holdout(["x_1a", "x_1b", "y_1a", "y_1b"], 1)


def assert_whole_halls(chosen):
  """Both recordings of a hall are chosen, or none."""
  for scene in chosen:
    if scene.startswith("hall"):
      hall = scene[:-1]
      assert {f"{hall}a", f"{hall}b"} <= set(chosen)
