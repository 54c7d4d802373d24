"""Clips in, frames out: in the order of time, with ids that stay.

H W pixels of an image
"""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pp import builder as pp_builder
from pp import sources
from tests.tools.prepare import raw_files
from tools.prepare import __main__ as prepare_data
from tools.prepare.writer import Target

VOID = 255
COLORS = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)


def davis_map(frame):
  """Object 1 stays, object 2 comes with frame 1, and one column is void."""
  number_HW = np.zeros((6, 8), np.uint8)
  number_HW[1:3, 1 + frame:3 + frame] = 1
  if frame:
    number_HW[4:, 2:5] = 2
  number_HW[:, -1] = VOID
  return number_HW


def save_palette(path, number_HW):
  image = Image.fromarray(number_HW).convert("P")
  image.putpalette(COLORS.ravel().tolist())
  raw_files.save(path, image)


class RawDavis:
  """Two clips in the layout of DAVIS; the frames of one are not masked."""

  def __init__(self, folder):
    self.folder = folder
    self.images = folder / "JPEGImages/480p"
    self.masks = folder / "Annotations/480p"
    self.data_dir = folder / "out"
    for frame in range(3):
      self.save_frame("goat", frame)
      self.save_frame("bear", frame)
    raw_files.save(
        self.images / "unmasked/00000.jpg", raw_files.gradient(6, 8))

  def save_frame(self, clip, frame, shape=(6, 8)):
    raw_files.save(self.images / clip / f"{frame:05d}.jpg",
                   raw_files.gradient(*shape))
    number_HW = np.resize(davis_map(frame), shape)
    save_palette(self.masks / clip / f"{frame:05d}.png", number_HW)

  def argv(self, **options):
    return raw_files.arguments(
        "davis", self.data_dir, images=self.images, masks=self.masks,
        split="validation", **options)


@pytest.fixture
def raw(tmp_path):
  return RawDavis(tmp_path)


def make_reader(argv):
  options = prepare_data.make_parser().parse_args(argv)
  return prepare_data.READERS[options.command].from_options(options)


def test_davis(raw):
  assert prepare_data.main(raw.argv()) == 0
  source = sources.make_source("davis", "validation", str(raw.data_dir))
  assert [category.name for category in source.categories] == [
      "background", "object"]
  examples = [source.example(index) for index in range(source.num_examples)]
  names = [example["image/filename"].decode() for example in examples]
  assert names == [f"{clip}/{frame:05d}.jpg" for clip in ("bear", "goat")
                   for frame in range(3)]
  numbers = [(int(example["clip/id"]), int(example["clip/frame"]))
             for example in examples]
  assert numbers == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
  raw_files.assert_not_empty(
      raw.data_dir / "davis/1.0.0/contact_sheet_validation.png")

  preprocess = pp_builder.build("clip_panoptic")
  for index in range(3, 6):
    frame = index - 3
    labels = preprocess(source.tensors(index))
    # Background has the label 0, objects have 1.
    now = davis_map(frame)
    np.testing.assert_array_equal(
        labels["labels"][..., 0], np.choose(np.minimum(now, 3), [1, 2, 2, 0]))
    # The first object is object 1 in all maps, whatever else is there.
    maps = tf.concat([labels["labels_before"], labels["labels"]], -1)
    for back, instances in zip((2, 1, 0), (1, 3, 5), strict=True):
      is_first = maps[..., instances].numpy() == 2
      if frame >= back:
        np.testing.assert_array_equal(is_first, davis_map(frame - back) == 1)
      else:
        assert not maps[..., instances].numpy().any()


def test_a_list_chooses_clips(raw):
  path = raw.folder / "val.txt"
  path.write_text("goat\n")
  reader = make_reader(raw.argv(list=path))
  assert {item.name.split("/")[0] for item in reader.match()} == {"goat"}


def test_mistakes_are_one_line(raw, capsys):
  path = raw.folder / "val.txt"
  path.write_text("goat\nunmasked\n")
  message = raw_files.failure(raw.argv(list=path), capsys)
  assert "unmasked: no frame of this clip has a mask." in message
  path.write_text("\n")
  message = raw_files.failure(raw.argv(list=path), capsys)
  assert f"--list: {str(path)!r} names no clip." in message
  raw.save_frame("goat", 2, shape=(8, 8))
  message = raw_files.failure(raw.argv(), capsys)
  assert ("goat/00002.jpg has height x width 8x8, but goat/00000.jpg of the "
          "same clip has 6x8.") in message
  raw_files.save(raw.masks / "bear/00001.png", raw_files.gradient(6, 8))
  message = raw_files.failure(raw.argv(), capsys)
  assert "bear/00001.png: its mode is RGB, not P or L." in message
  assert not raw.data_dir.exists()


def kitti_map(number):
  """Road, a car of this number, and a person who belongs to a crowd."""
  class_HW = np.zeros((5, 7), np.int32)
  number_HW = np.zeros((5, 7), np.int32)
  class_HW[1:3, 1:4] = 13
  number_HW[1:3, 1:4] = number
  class_HW[4, :2] = 11
  class_HW[0] = VOID
  return np.stack([class_HW, number_HW // 256, number_HW % 256], -1)


def test_kitti_step_clips(tmp_path):
  for clip, numbers in (("0001", (1, 65535)), ("0000", (7, 300))):
    for frame, number in enumerate(numbers):
      name = f"{clip}/{frame:06d}.png"
      raw_files.save(tmp_path / "images" / name, raw_files.gradient(5, 7))
      raw_files.save(tmp_path / "maps" / name,
                     kitti_map(number).astype(np.uint8))
  reader = make_reader(raw_files.arguments(
      "kitti_step_clips", tmp_path / "out", images=tmp_path / "images",
      masks=tmp_path / "maps", split="train"))
  found = reader.find(Target("kitti_step_clips", str(tmp_path / "out")))
  items = found.splits["train"]
  assert [item.name for item in items] == [
      "0000/000000.png", "0000/000001.png", "0001/000000.png",
      "0001/000001.png"]
  reader.check(found)
  example = reader.make_example(3, items[3])
  assert (example["clip/id"], example["clip/frame"]) == (1, 1)
  objects = {item["label"]: item for item in example["panoptic_objects"]}
  assert {label: item["is_crowd"] for label, item in objects.items()} == {
      0: False, 11: True, 13: False}
  # The highest number that a map can hold.
  car = 1 + 13 + 256 * 65535
  assert objects[13]["id"] == car
  # The car of the frame before, which is another one, is listed too.
  assert example["clip/objects"]["id"].tolist() == [
      1, 12, 1 + 13 + 256, car]
  assert example["clip/objects"]["label"].tolist() == [0, 11, 13, 13]
  found.features.encode_example(example)
