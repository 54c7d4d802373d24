"""RGB-D folders and NYU Depth V2 in, TFDS data sets out."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from pp import sources
from tools.prepare import __main__ as prepare_data
from tools.prepare import depth_files, tfds_folder
from uvim.registry import ConfigError


def save(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".npy":
    np.save(path, array)
  else:
    Image.fromarray(array).save(path)


def photo(value=90, shape=(6, 9)):
  return np.full((*shape, 3), value, np.uint8)


def examples(name, split, data_dir):
  source = sources.make_source(name, split, data_dir)
  return [source.example(i) for i in range(len(source))]


class Raw:
  """A folder of three photographs, each with depth of another kind."""

  def __init__(self, folder):
    self.images, self.depth = folder / "rgb", folder / "depth"
    self.out = folder / "out"
    self.units = np.arange(54, dtype=np.uint16).reshape(6, 9) * 1000
    save(self.images / "a.jpg", photo(20))
    save(self.images / "hall/b_rgb.png", photo(30))
    save(self.images / "hall/c_colors.jpg", photo(40))
    save(self.depth / "a.png", self.units)
    metres = np.where(self.units > 5000, self.units / 2000, np.nan)
    metres[0, :3] = np.inf, -np.inf, -1
    save(self.depth / "hall/b_depth.npy", metres[..., None])
    save(self.depth / "hall/c_depth.npy", self.units)
    (self.images / "notes.txt").write_text("no picture")

  def run(self, *extra, split="train", images=None):
    return prepare_data.main([
        "rgbd", "--images", str(images or self.images), "--depth",
        str(self.depth), "--depth_scale", "2000", "--name", "mine/rgbd",
        "--split", split, "--data_dir", str(self.out), *extra])


@pytest.fixture
def raw(tmp_path):
  return Raw(tmp_path)


def test_every_kind_of_pair_ends_as_metres(raw):
  assert raw.run() == 0
  found = {e["file_name"].decode(): e
           for e in examples("mine/rgbd", "train", raw.out)}
  assert {name: e["scene"].decode() for name, e in found.items()} == {
      "a.jpg": "", "hall/b_rgb.png": "hall", "hall/c_colors.jpg": "hall"}
  metres = (raw.units / 2000).astype(np.float32)
  for name, e in found.items():
    assert e["image"] == (raw.images / name).read_bytes()
    assert e["depth"].dtype == np.float32 and e["depth"].shape == (6, 9, 1)
    # Not a positive number in b: nothing measured.
    want = np.where(raw.units > 5000, metres, 0) if "b_" in name else metres
    np.testing.assert_array_equal(e["depth"][..., 0], want)
  assert sorted(int(e["image/id"]) for e in found.values()) == [0, 1, 2]
  sheet = raw.out / "mine/rgbd/1.0.0/contact_sheet_train.png"
  assert np.asarray(Image.open(sheet)).std() > 20


def test_a_second_split_keeps_the_first_and_a_torn_run_leaves_nothing(
    raw, capsys, monkeypatch):
  assert raw.run() == 0
  folder = raw.out / "mine/rgbd/1.0.0"
  before = sources.make_source("mine/rgbd", "train", raw.out).read(range(3))

  def files():
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}

  there, make = files(), depth_files.make_example
  # All but the measured sample fail: in the middle of writing.
  calls = []

  def tear(position, pair):
    calls.append(pair)
    if len(calls) > 4:
      raise KeyboardInterrupt
    return make(position, pair)

  monkeypatch.setattr(depth_files, "make_example", tear)
  with pytest.raises(KeyboardInterrupt):
    raw.run(split="validation")
  assert files() == there and not list(raw.out.glob(".prepare_*"))
  monkeypatch.undo()
  assert raw.run(split="validation", images=raw.images / "hall") == 2
  shutil.move(raw.depth / "hall/b_depth.npy", raw.depth / "b_depth.npy")
  shutil.move(raw.depth / "hall/c_depth.npy", raw.depth / "c_depth.npy")
  assert raw.run(split="validation", images=raw.images / "hall") == 0
  again = sources.make_source("mine/rgbd", "train+validation", raw.out)
  assert len(again) == 5 and again.read(range(3)) == before
  capsys.readouterr()
  assert raw.run(split="validation", images=raw.images / "hall") == 2
  assert "--overwrite" in capsys.readouterr().err


def break_missing(raw):
  (raw.depth / "hall/b_depth.npy").unlink()
  return ["--depth", "hall/b_rgb.png: no depth map hall/b_depth"]


def break_size(raw):
  save(raw.depth / "a.png", raw.units[:5])
  return ["a.jpg: the image has height x width 6x9, its depth map 5x9"]


def break_eight_bits(raw):
  save(raw.depth / "a.png", photo()[..., 0])
  return ["'a.png' cannot be read: its mode is L, not 16-bit"]


def break_torn(raw):
  path = raw.images / "a.jpg"
  path.write_bytes(path.read_bytes()[:-30])
  return ["a.jpg: cannot be read", "runcated"]


def break_twice(raw):
  save(raw.depth / "a_depth.png", raw.units)
  return ["--depth: more than one", "a: both a.png and a_depth.png"]


def break_folder(raw):
  shutil.rmtree(raw.images)
  return ["--images", "is not a folder"]


def break_disk(raw):
  import collections
  usage = collections.namedtuple("usage", "free")
  return ["--data_dir", "need about", "0 MB are free"], usage(0)


@pytest.mark.parametrize("break_it", [
    value for name, value in sorted(globals().items())
    if name.startswith("break_")])
def test_wrong_files_are_named(raw, capsys, monkeypatch, break_it):
  expected = break_it(raw)
  if isinstance(expected, tuple):
    expected, free = expected
    monkeypatch.setattr(tfds_folder.shutil, "disk_usage", lambda _: free)
  assert raw.run() == 2
  assert not raw.out.exists()
  error = capsys.readouterr().err
  assert "Traceback" not in error
  for part in expected:
    assert part in error


def test_the_scale_must_be_positive(raw):
  with pytest.raises(ConfigError, match="--depth_scale: 0"):
    depth_files.match_rgbd(raw.images, raw.depth, 0)


def test_real_pairs_in_one_folder(shared, tmp_path):
  """The two NYU frames: metres as png / 1000, holes 0, bytes untouched."""
  folder = shared / "data/nyu"
  assert prepare_data.main([
      "rgbd", "--images", str(folder), "--depth", str(folder), "--name",
      "pairs", "--split", "train", "--data_dir", str(tmp_path)]) == 0
  truth = {item["rgb"]: item
           for item in json.loads((folder / "index.json").read_text())}
  found = examples("pairs", "train", tmp_path)
  assert {e["file_name"].decode() for e in found} == set(truth)
  for e in found:
    item = truth[e["file_name"].decode()]
    raw = np.asarray(Image.open(folder / item["depth"]))
    np.testing.assert_allclose(e["depth"][..., 0], raw / 1000, rtol=1e-7)
    valid = (e["depth"] > 0.001) & (e["depth"] < 10)
    assert abs(valid.mean() - item["valid_fraction_0_001_to_10m"]) < 1e-6
    assert e["image"] == (folder / item["rgb"]).read_bytes()


def frame(folder, scene, number, *, layout="files", size=(480, 640)):
  """One frame whose depth is `number` + 0.25 m."""
  if layout == "h5":
    h5py = pytest.importorskip("h5py")
    path = folder / scene / f"{number:05d}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
      file["rgb"] = np.moveaxis(photo(number, size), -1, 0)
      file["depth"] = np.full(size, number + 0.25, np.float32)
  else:
    save(folder / scene / f"rgb_{number:05d}.jpg", photo(number, size))
    save(folder / scene / f"sync_depth_{number:05d}.png",
         np.full(size, 1000 * number + 250, np.uint16))


def nyu(folder, *extra):
  return prepare_data.main([
      "nyu", "--train", str(folder / "train"), "--validation",
      str(folder / "val"), "--data_dir", str(folder / "out"), *extra])


SCENES = ["attic_0001", "bath_0001", "cafe_0001a", "cafe_0001b", "den_0002"]


@pytest.mark.parametrize("layout", ["files", "h5"])
def test_nyu_holds_out_whole_scenes(tmp_path, monkeypatch, layout):
  size = (48, 64)  # To be quick.
  monkeypatch.setattr(depth_files, "NYU_SIZE", size)
  for i, scene in enumerate(SCENES + SCENES[:2]):
    frame(tmp_path / "train", scene, i, layout=layout, size=size)
  frame(tmp_path / "val", "official", 9, layout=layout, size=size)
  assert nyu(tmp_path, "--holdout_scenes", "2") == 0
  out, seen = tmp_path / "out", {}
  for split in ("train", "holdout", "validation"):
    seen[split] = examples("nyu_scenes", split, out)
    for e in seen[split]:
      number = e["depth"][0, 0, 0] - 0.25
      assert e["depth"].shape == (*size, 1) and (
          e["depth"] == number + 0.25).all()
      # Image, depth and name belong together.
      value = sources.tf.io.decode_image(e["image"])[7, 7].numpy()
      assert abs(value - number).max() <= 1
      assert f"{int(number):05d}" in e["file_name"].decode()
  scenes = {split: {e["scene"].decode() for e in found}
            for split, found in seen.items()}
  assert len(scenes["holdout"]) == 2 and len(seen["validation"]) == 1
  assert scenes["train"] | scenes["holdout"] == set(SCENES)
  assert scenes["validation"] == {"official"}
  for a, b in (("train", "holdout"), ("train", "validation"),
               ("holdout", "validation")):
    assert not scenes[a] & scenes[b]
  # Both names together are all training frames, at any place.
  both = sources.make_source("nyu_scenes", "train+holdout", out)
  assert len(both) == 7 == len(seen["train"]) + len(seen["holdout"])
  assert both.example(6)["file_name"] == seen["holdout"][-1]["file_name"]
  assert both.example(0)["file_name"] == seen["train"][0]["file_name"]
  listed = json.loads((out / "nyu_scenes/1.0.0/scenes.json").read_text())
  assert {split: set(names) for split, names in listed.items()} == scenes


def test_nyu_mistakes(tmp_path, capsys, monkeypatch):
  frame(tmp_path / "train", "attic_0001", 1)
  frame(tmp_path / "train", "bath_0001", 2)
  frame(tmp_path / "val", "bath_0001", 3)

  def error(*extra):
    assert nyu(tmp_path, *extra) == 2 and not (tmp_path / "out").exists()
    return capsys.readouterr().err

  assert "--holdout_scenes: 14; allowed: 0 to 1" in error()
  assert "bath_0001: in" in error("--holdout_scenes", "1")
  shutil.move(tmp_path / "val/bath_0001", tmp_path / "val/official")
  save(tmp_path / "train/attic_0001/sync_depth_00001.png",
       np.ones((426, 560), np.uint16))
  assert "480x640 is wanted" in error("--holdout_scenes", "1")
  (tmp_path / "train/attic_0001/sync_depth_00001.png").unlink()
  assert "no sync_depth_00001.png beside it" in error()
  shutil.rmtree(tmp_path / "train")
  frame(tmp_path / "train", "", 1)
  assert "in no folder of a scene" in error()
  (tmp_path / "train/x.h5").write_bytes(b"")
  monkeypatch.setitem(sys.modules, "h5py", None)
  assert "pip install h5py" in error()
  shutil.rmtree(tmp_path / "val")
  (tmp_path / "val").mkdir()
  monkeypatch.undo()
  (tmp_path / "train/x.h5").unlink()
  assert "neither SCENE/*.h5" in error("--holdout_scenes", "0")


def test_fourteen_of_280_scenes_whatever_their_order():
  scenes = [f"room_{i:04d}" for i in range(240)] + [
      f"hall_{i:04d}{part}" for i in range(20) for part in "ab"]
  chosen = depth_files.choose_holdout(scenes, 14)
  assert len(set(chosen)) == 14 and set(chosen) < set(scenes)
  assert depth_files.choose_holdout(scenes[::-1] * 3, 14) == chosen
  assert chosen != sorted(scenes)[:14]
  # Both recordings of a room, or none.
  for scene in chosen:
    if scene.startswith("hall"):
      assert {scene[:-1] + "a", scene[:-1] + "b"} <= set(chosen)
  many = depth_files.choose_holdout(scenes, 140)
  assert any(scene.startswith("hall") for scene in many)
  assert all({s[:-1] + "a", s[:-1] + "b"} <= set(many)
             for s in many if s.startswith("hall"))
  with pytest.raises(ConfigError, match="parting one room"):
    depth_files.choose_holdout(["x_1a", "x_1b", "y_1a", "y_1b"], 1)
