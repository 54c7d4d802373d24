"""Images with depth maps in, a TFDS data set out.

H W pixels of an image
"""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from pp import sources
from tests.tools.prepare import raw_files
from tools.prepare import __main__ as prepare_data

NAME = "mine/rgbd"
SCALE = 2000


class RawRgbd:
  """A folder of three images, each with a depth map of another kind."""

  def __init__(self, folder):
    self.images = folder / "rgb"
    self.depth = folder / "depth"
    self.data_dir = folder / "out"
    self.units_HW = np.arange(54, dtype=np.uint16).reshape(6, 9) * 1000
    raw_files.save(self.images / "a.jpg", raw_files.plain(20))
    raw_files.save(self.images / "hall/b_rgb.png", raw_files.plain(30))
    raw_files.save(self.images / "hall/c_colors.jpg", raw_files.plain(40))
    (self.images / "notes.txt").write_text("no picture")
    # b is in meters, and what was not measured is no positive number.
    meters_HW = np.where(self.units_HW > 5000, self.units_HW / SCALE, np.nan)
    meters_HW[0, :3] = [np.inf, -np.inf, -1]
    raw_files.save(self.depth / "a.png", self.units_HW)
    raw_files.save(self.depth / "hall/b_depth.npy", meters_HW[..., None])
    raw_files.save(self.depth / "hall/c_depth.npy", self.units_HW)

  def argv(self, *, split="train", images=None):
    return raw_files.arguments(
        "rgbd", self.data_dir, images=images or self.images, depth=self.depth,
        depth_scale=SCALE, name=NAME, split=split)


@pytest.fixture
def raw(tmp_path):
  return RawRgbd(tmp_path)


def test_every_kind_of_pair_ends_as_meters(raw):
  assert prepare_data.main(raw.argv()) == 0
  examples = raw_files.read_examples(NAME, "train", raw.data_dir)
  found = raw_files.by_file_name(examples)
  scenes = {name: example["scene"].decode() for name, example in found.items()}
  assert scenes == {
      "a.jpg": "", "hall/b_rgb.png": "hall", "hall/c_colors.jpg": "hall"}
  meters_HW = (raw.units_HW / SCALE).astype(np.float32)
  b_meters_HW = np.where(raw.units_HW > 5000, meters_HW, 0)
  for name, example in found.items():
    depth = example["depth"]
    assert example["image"] == (raw.images / name).read_bytes()
    assert depth.dtype == np.float32
    assert depth.shape == (6, 9, 1)
    expected_HW = b_meters_HW if "b_" in name else meters_HW
    np.testing.assert_array_equal(depth[..., 0], expected_HW)
  assert sorted(int(example["image/id"]) for example in examples) == [0, 1, 2]
  raw_files.assert_not_empty(
      raw.data_dir / NAME / "1.0.0/contact_sheet_train.png")


def test_a_second_split_keeps_the_first(raw, capsys):
  assert prepare_data.main(raw.argv()) == 0
  first = sources.make_source(NAME, "train", raw.data_dir)
  records = first.read(range(3))
  argv = raw.argv(split="validation", images=raw.images / "hall")
  # The depth maps lie in another sub-folder than the images.
  raw_files.failure(argv, capsys)
  for name in ("b_depth.npy", "c_depth.npy"):
    shutil.move(raw.depth / "hall" / name, raw.depth / name)
  assert prepare_data.main(argv) == 0
  both = sources.make_source(NAME, "train+validation", raw.data_dir)
  assert both.num_examples == 5
  assert both.read(range(3)) == records
  assert "--overwrite" in raw_files.failure(argv, capsys)


def break_missing(raw):
  (raw.depth / "hall/b_depth.npy").unlink()
  return ["--images: 1 of 3 images have no depth map", "'hall/b_rgb.png'",
          "--image_pattern"]


def break_size(raw):
  raw_files.save(raw.depth / "a.png", raw.units_HW[:5])
  return ["a.jpg: the image has height x width 6x9, its depth map 5x9"]


def break_eight_bits(raw):
  raw_files.save(raw.depth / "a.png", raw_files.plain()[..., 0])
  return ["a.jpg: 'a.png': its mode is L, of 8 bits: it looks like depth"]


def break_torn(raw):
  path = raw.images / "a.jpg"
  path.write_bytes(path.read_bytes()[:-30])
  return ["a.jpg: cannot be read", "runcated"]


def break_twice(raw):
  raw_files.save(raw.depth / "a_depth.png", raw.units_HW)
  return ["--depth: more than one", "a.jpg: a_depth.png and a.png"]


def break_folder(raw):
  shutil.rmtree(raw.images)
  return ["--images", "is not a folder"]


BREAKS = [function for name, function in sorted(globals().items())
          if name.startswith("break_")]


@pytest.mark.parametrize("break_it", BREAKS)
def test_wrong_files_are_named(raw, capsys, break_it):
  expected = break_it(raw)
  message = raw_files.failure(raw.argv(), capsys)
  assert not raw.data_dir.exists()
  for part in expected:
    assert part in message


# Data set → (image, depth map, steps per metre, scene).
LAYOUTS = {
    "7-Scenes": ("seq-01/frame-000000.color.png",
                 "seq-01/frame-000000.depth.png", 1000, "seq-01"),
    "ScanNet": ("scene0000_00/color/0.jpg", "scene0000_00/depth/0.png", 1000,
                "scene0000_00"),
    "TUM RGB-D": ("rgb/1.25.png", "depth/1.26.png", 5000, ""),
    "*_rgb.* with *_depth.*": ("a_rgb.jpg", "a_depth.png", 1000, ""),
    "*_colors.* with *_depth.*": ("a_colors.png", "a_depth.png", 1000, ""),
}


@pytest.mark.parametrize("known_as", LAYOUTS)
def test_usual_layouts_need_one_folder(tmp_path, capsys, known_as):
  image, depth, scale, scene = LAYOUTS[known_as]
  folder = tmp_path / "raw"
  steps_HW = np.arange(54, dtype=np.uint16).reshape(6, 9) * 300
  steps_HW[0, 1] = 65535  # 7-Scenes has no measurement there.
  # ScanNet's images have more pixels than its depth maps.
  factor = 2 if known_as == "ScanNet" else 1
  raw_files.save(folder / image, raw_files.plain(20, factor * 6, factor * 9))
  raw_files.save(folder / depth, steps_HW)
  if known_as == "TUM RGB-D":
    (folder / "rgb.txt").write_text(f"# time path\n1.25 {image}\n")
    (folder / "depth.txt").write_text(f"1.26 {depth}\n")
  data_dir = tmp_path / "out"
  assert prepare_data.main(raw_files.arguments(
      "rgbd", data_dir, images=folder, name="mine", split="train")) == 0
  [example] = raw_files.read_examples("mine", "train", data_dir)
  expected_HW = np.where(steps_HW == 65535, 0, steps_HW / scale)
  np.testing.assert_allclose(
      example["depth"][..., 0], expected_HW, rtol=1e-6)
  assert example["file_name"].decode() == image
  assert example["scene"].decode() == scene
  out = capsys.readouterr().out
  assert "Found pairs: 1 " in out and known_as in out
  assert "Depth maps of train: 1 of 6x9 pixels" in out
  assert ("Their images have 12x18 pixels" in out) == (factor == 2)


def test_real_pairs_in_one_folder(shared, tmp_path):
  """The two NYU frames: meters are png / 1000, holes 0, bytes untouched."""
  folder = shared / "data/nyu"
  assert prepare_data.main(raw_files.arguments(
      "rgbd", tmp_path, images=folder, depth=folder, name="pairs",
      split="train")) == 0
  index = json.loads((folder / "index.json").read_text())
  truth = {item["rgb"]: item for item in index}
  found = raw_files.by_file_name(
      raw_files.read_examples("pairs", "train", tmp_path))
  assert set(found) == set(truth)
  for name, example in found.items():
    item = truth[name]
    with Image.open(folder / item["depth"]) as depth_map:
      raw_HW = np.asarray(depth_map)
    depth_HW = example["depth"][..., 0]
    np.testing.assert_allclose(depth_HW, raw_HW / 1000, rtol=1e-7)
    is_valid_HW = (depth_HW > 0.001) & (depth_HW < 10)
    valid_fraction = item["valid_fraction_0_001_to_10m"]
    assert abs(is_valid_HW.mean() - valid_fraction) < 1e-6
    assert example["image"] == (folder / name).read_bytes()
