"""Images and masks of classes in, a TFDS data set out.

H W pixels of an image
"""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pp import sources
from tests.tools.prepare import raw_files
from tests.tools.prepare.raw_masks import (
  BOX,
  CUP,
  FLOOR,
  WALL,
  RawMasks,
  class_map,
)
from tools.prepare import __main__ as prepare_data
from tools.prepare import class_list, mask_files, mask_pixels, mask_segments
from tools.prepare.class_list import ClassOptions
from tools.prepare.mask_segments import Maps
from uvim import pixels

THINGS = {"things": ["cup,box"]}


@pytest.fixture
def raw(tmp_path):
  return RawMasks(tmp_path)


def test_masks_become_segments(raw, capsys):
  class_HW = class_map()
  class_HW[7, 9] = CUP  # Too small for a thing.
  class_HW[1, 0] = 255
  raw.save_mask("a.png", class_HW)
  # Masks lie on the stored pixels, so the image is not turned.
  exif = Image.Exif()
  exif[274] = 3
  raw_files.save(raw.images / "a.jpg", raw_files.gradient(8, 10), exif=exif)
  assert prepare_data.main(raw.argv(void=255, **THINGS)) == 0
  source = sources.make_source("mine", "train", raw.data_dir)
  assert [tuple(category) for category in source.categories] == [
      (FLOOR, "floor", False), (WALL, "wall", False), (CUP, "cup", True),
      (BOX, "box", True)]
  examples = raw_files.read_examples("mine", "train", raw.data_dir)
  by_name = {}
  for example in examples:
    by_name[example["image/filename"].decode()] = example
  assert sorted(by_name) == ["a.jpg", "b.jpg", "street/c.jpg"]
  example = by_name["a.jpg"]
  assert example["image"] == (raw.images / "a.jpg").read_bytes()
  assert example["panoptic_image/filename"].decode() == "a.png"
  ids_HW = pixels.ids_from_rgb(example["panoptic_image"])
  assert ids_HW[7, 9] == ids_HW[1, 0] == 0
  objects = example["panoptic_objects"]
  np.testing.assert_array_equal(objects["label"], [FLOOR, WALL, CUP, CUP, BOX])
  np.testing.assert_array_equal(objects["area"], [46, 10, 9, 9, 4])
  assert not objects["is_crowd"].any()
  for number, label in zip(objects["id"], objects["label"], strict=True):
    assert set(class_HW[ids_HW == number]) == {label}
  table = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert ["cup", "thing", "3", "6", "22.50", "%"] in table
  assert ["floor", "stuff", "3", "3", "59.17", "%"] in table
  assert ["void", "0.83", "%"] in table


def test_a_second_split_has_the_same_classes(raw, capsys):
  assert prepare_data.main(raw.argv(**THINGS)) == 0
  message = raw_files.failure(raw.argv(split="validation"), capsys)
  assert "has other categories" in message
  assert prepare_data.main(raw.argv(split="validation", **THINGS)) == 0
  both = sources.make_source("mine", "train+validation", raw.data_dir)
  assert both.num_examples == 6


# ── One mask ────────────────────────────────────────────────────────────────


def classes_of(text, tmp_path, **options):
  path = tmp_path / "list.txt"
  path.write_text(text)
  return class_list.read(ClassOptions(path, **options))


COLORS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
COLOR_LIST = "0 0 0 floor\n128 0 0 wall\n0 128 0\tcup\n128,128,0 box\n"


def palette_image(index_HW, colors):
  image = Image.fromarray(index_HW).convert("P")
  image.putdata(index_HW.ravel().tolist())
  image.putpalette(np.array(colors, np.uint8).tobytes())
  return image


@pytest.mark.parametrize("mask", [
    np.array(COLORS, np.uint8)[class_map()],
    # The order of a palette does not matter.
    palette_image(3 - class_map(), COLORS[::-1]),
], ids=["color", "palette"])
def test_masks_of_colors(tmp_path, mask):
  classes = classes_of(COLOR_LIST, tmp_path)
  path = tmp_path / "mask.png"
  raw_files.save(path, mask)
  ids_HW = mask_pixels.class_ids(mask_pixels.read_file(path), classes)
  np.testing.assert_array_equal(ids_HW, class_map())


def four_bit_png(class_HW):
  """Gray with four bits a pixel, which Pillow cannot write."""
  def chunk(kind, data):
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(
        ">I", checksum)

  height, width = class_HW.shape
  header = struct.pack(">IIBBBBB", width, height, 4, 0, 0, 0, 0)
  pairs = 16 * class_HW[:, ::2] + class_HW[:, 1::2]
  # Each row begins with the number of its filter.
  rows = np.pad(pairs, ((0, 0), (1, 0))).tobytes()
  return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
          + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def test_gray_of_four_bits_is_not_stretched(tmp_path):
  """As other programs write masks of few classes."""
  path = tmp_path / "mask.png"
  path.write_bytes(four_bit_png(class_map()))
  with Image.open(path) as image:
    assert np.asarray(image).max() == 17 * BOX
  classes = classes_of("floor\nwall\ncup\nbox", tmp_path)
  ids_HW = mask_pixels.class_ids(mask_pixels.read_file(path), classes)
  np.testing.assert_array_equal(ids_HW, class_map())


def test_things_that_touch_at_a_corner_are_two(tmp_path):
  class_HW = np.zeros((4, 4), np.int32)
  class_HW[:2, :2] = class_HW[2:, 2:] = 1
  classes = classes_of("floor\ncup thing", tmp_path)
  ids_HW, segments = mask_segments.make_segments(
      Maps(class_HW), classes.categories, 1)
  assert [segment.label for segment in segments] == [0, 1, 1]
  assert ids_HW[0, 0] != ids_HW[3, 3]


# ── Names of files ──────────────────────────────────────────────────────────


def match(folder, image_names, mask_names, endings=mask_files.MASK_ENDINGS,
          masks="masks"):
  for place, names in (("images", image_names), (masks, mask_names)):
    for name in names:
      raw_files.save(folder / place / name, class_map())
  items = mask_files.match(
      folder / "images", mask_files.Folder(folder / masks, "--masks", endings))
  return [(item.name, item.mask_name) for item in items]


def test_usual_names_are_matched(tmp_path):
  assert match(
      tmp_path, ["a.jpg", "aachen/b_leftImg8bit.png", "c_rgb.png", "d.1.png"],
      ["a_mask.png", "aachen/b_gtFine_labelIds.png",
       "aachen/b_gtFine_color.png", "c_labelIds.png", "d.1.png"]) == [
          ("a.jpg", "a_mask.png"),
          ("aachen/b_leftImg8bit.png", "aachen/b_gtFine_labelIds.png"),
          ("c_rgb.png", "c_labelIds.png"), ("d.1.png", "d.1.png")]


def test_an_ending_of_ones_own(tmp_path):
  assert match(tmp_path, ["a.jpg"], ["a.png", "a-truth.png"],
               endings=["-truth"]) == [("a.jpg", "a-truth.png")]


def test_masks_beside_their_images(tmp_path):
  assert match(tmp_path, ["a.jpg", "b.png"], ["a.png", "b_mask.png"],
               masks="images/../images") == [
                   ("a.jpg", "a.png"), ("b.png", "b_mask.png")]


# ── Real masks ──────────────────────────────────────────────────────────────


def test_real_masks_lose_small_things_only(shared):
  """CamVid: each segment is of one class, and what is in none is small."""
  folder = shared / "data/camvid"
  classes = class_list.read(ClassOptions(folder / "classes.txt"))
  assert len(classes.thing_ids()) == 3
  for path in sorted((folder / "valannot").glob("*.png"))[:3]:
    class_HW = mask_pixels.class_ids(mask_pixels.read_file(path), classes)
    ids_HW, segments = mask_segments.make_segments(
        Maps(class_HW), classes.categories, 40)
    for segment in segments:
      category = classes.categories[segment.label]
      mask_HW = ids_HW == segment.id
      assert set(class_HW[mask_HW]) == {category.id}
      assert mask_HW.sum() >= 40 or not category.isthing
    left_out = set(class_HW[ids_HW == 0].tolist())
    assert left_out <= {*classes.void, *classes.thing_ids()}
