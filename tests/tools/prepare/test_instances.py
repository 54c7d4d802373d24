"""Masks of classes and of instances in, segments out; and known layouts.

H W pixels of an image
"""

import numpy as np
import pytest

from tests.tools.prepare import raw_files
from tests.tools.prepare.raw_masks import (
  BOX,
  CUP,
  FLOOR,
  WALL,
  RawMasks,
  class_map,
  instance_map,
)
from tools.prepare import __main__ as prepare_data
from tools.prepare import mask_pixels, mask_segments
from tools.prepare.writer import Found
from uvim.registry import ConfigError

OPTIONS = {"command": "instances", "things": "cup,box", "min_area": 0}


@pytest.fixture
def raw(tmp_path):
  return RawMasks(tmp_path, names=["a"])


def make_reader(argv):
  """The reader of a command line."""
  options = prepare_data.make_parser().parse_args(argv)
  return prepare_data.READERS[options.command].from_options(options)


def segments_of(reader):
  """(label, area, whether it is a crowd) of each segment of the one image."""
  [item] = reader.match()
  look = reader.look(item)
  assert not look.mistakes and not look.problems
  maps = reader.read_maps(item, mask_pixels.read_file(item.mask))
  ids_HW, segments = mask_segments.make_segments(
      maps, reader.classes.categories, reader.min_area)
  found = []
  for segment in segments:
    area = int((ids_HW == segment.id).sum())
    found.append((segment.label, area, segment.iscrowd))
  return found


EXPECTED = [(FLOOR, 48, False), (WALL, 10, False), (CUP, 9, False),
            (CUP, 6, False), (CUP, 3, False), (BOX, 4, False)]


def save_ids(raw, instance_HW):
  raw_files.save(raw.data_dir.parent / "ids/a.png", instance_HW)
  return raw.argv(instances=raw.data_dir.parent / "ids", **OPTIONS)


def test_one_png_of_ids(raw):
  instance_HW = instance_map().astype(np.uint16) * 999
  # On stuff, here of two classes, ids have no meaning.
  instance_HW[:2] = 5
  assert segments_of(make_reader(save_ids(raw, instance_HW))) == EXPECTED


def save_each(raw):
  """A PNG for each instance, in a folder for each image."""
  folder = raw.data_dir.parent / "each"
  for number in (7, 8, 9, 12):
    mask_HW = np.uint8(255) * (instance_map() == number)
    raw_files.save(folder / f"a/{number:02}.png", mask_HW)
  return raw.argv(instances=folder, **OPTIONS)


def test_one_png_for_each_instance(raw):
  assert segments_of(make_reader(save_each(raw))) == EXPECTED


def test_the_whole_command(raw, capsys):
  assert prepare_data.main(save_each(raw)) == 0
  [example] = raw_files.read_examples("mine", "train", raw.data_dir)
  areas = example["panoptic_objects"]["area"].tolist()
  assert areas == [area for _, area, _ in EXPECTED]
  assert "cup" in capsys.readouterr().out


def test_things_without_an_id_are_a_crowd(raw):
  instance_HW = instance_map()
  instance_HW[instance_HW > 7] = 0
  found = segments_of(make_reader(save_ids(raw, instance_HW)))
  assert found[2:] == [(CUP, 9, True), (CUP, 9, False), (BOX, 4, True)]


def test_a_crowd_is_told(raw, capsys):
  instance_HW = instance_map()
  for highest, is_told in ((12, False), (7, True)):
    instance_HW[instance_HW > highest] = 0
    reader = make_reader(save_ids(raw, instance_HW))
    reader.check(Found({"train": reader.match()}, features=None))
    told = capsys.readouterr().out
    assert ("In 1 of 1 images, pixels of things belong to no instance (box, "
            "cup); " in told) == is_told


def test_ids_may_count_within_each_class(raw):
  instance_HW = np.minimum(instance_map(), 7)
  argv = [*save_ids(raw, instance_HW), "--ids_per_class"]
  found = segments_of(make_reader(argv))
  assert found[2:] == [(CUP, 18, False), (BOX, 4, False)]


def test_an_image_may_lack_a_folder_if_it_has_no_things(raw, capsys):
  raw.save_image("b.jpg")
  raw.save_mask("b.png", class_map())
  message = raw_files.failure(save_each(raw), capsys)
  assert (f"{raw.masks / 'b.png'}: has pixels of 'cup', but --instances has no "
          "folder for b.jpg. Each image with things") in message
  raw.save_mask("b.png", np.zeros((8, 10), np.uint8))
  make_reader(save_each(raw)).match()


def test_an_image_must_have_its_png_of_ids(raw, capsys):
  raw.save_image("b.jpg")
  raw.save_mask("b.png", class_map())
  message = raw_files.failure(save_ids(raw, instance_map()), capsys)
  assert ("--instances: 1 of 2 images have no PNG of ids and no folder; the "
          f"first is {raw.images / 'b.jpg'}.") in message


def test_instances_of_another_size(raw, capsys):
  message = raw_files.failure(save_ids(raw, instance_map()[:5]), capsys)
  assert "ids/a.png: has height x width 5x10, but the mask a.png has 8x10" in (
      message)


# ── Layouts ─────────────────────────────────────────────────────────────────


def test_cityscapes(tmp_path):
  label_HW = class_map()
  instance_HW = instance_map().astype(np.uint16)
  label_ids = {FLOOR: 7, WALL: 1, CUP: 26, BOX: 24}  # road, void, car, person
  labels_HW = np.vectorize(label_ids.get)(label_HW).astype(np.uint8)
  ids_HW = labels_HW.astype(np.uint16)
  ids_HW[instance_HW == 7] = 26000
  ids_HW[instance_HW == 8] = 26001
  ids_HW[instance_HW == 12] = 24000
  # The rest of the cars is a group.
  image = tmp_path / "leftImg8bit/val/bonn/bonn_0_1_leftImg8bit.png"
  raw_files.save(image, raw_files.gradient(8, 10))
  masks = tmp_path / "gtFine/val/bonn"
  raw_files.save(masks / "bonn_0_1_gtFine_labelIds.png", labels_HW)
  raw_files.save(masks / "bonn_0_1_gtFine_instanceIds.png", ids_HW)
  raw_files.save(masks / "bonn_0_1_gtFine_color.png", raw_files.gradient(8, 10))
  reader = make_reader(raw_files.arguments(
      "cityscapes", tmp_path / "out", root=tmp_path, split="validation"))
  categories = reader.classes.categories
  assert len(categories) == 19
  found = []
  for label, area, is_crowd in segments_of(reader):
    found.append((categories[label].name, area, is_crowd))
  assert found == [
      ("road", 48, False), ("person", 4, False), ("car", 3, True),
      ("car", 9, False), ("car", 6, False)]


def test_kitti_step(tmp_path):
  class_ids = {FLOOR: 0, WALL: 255, CUP: 13, BOX: 12}  # rider: no instances
  red_HW = np.vectorize(class_ids.get)(class_map())
  number_HW = 100 * instance_map().astype(int)
  map_HW3 = np.stack([red_HW, number_HW // 256, number_HW % 256], -1)
  raw_files.save(tmp_path / "masks/0000/000000.png", map_HW3.astype(np.uint8))
  for name in ("0000/000000.png", "0001/000000.png"):
    raw_files.save(tmp_path / "images" / name, raw_files.gradient(8, 10))
  reader = make_reader(raw_files.arguments(
      "kitti_step", tmp_path / "out", images=tmp_path / "images",
      masks=tmp_path / "masks", split="train"))
  assert segments_of(reader) == [
      (0, 48, False), (12, 4, False), (13, 9, False), (13, 6, False),
      (13, 3, False)]


def test_a_known_data_set_has_no_options_for_classes(tmp_path, capsys):
  map_HW3 = np.zeros((8, 10, 3), np.uint8)
  map_HW3[2:, :, 0] = 40
  mask = tmp_path / "masks/0000/000000.png"
  raw_files.save(mask, map_HW3)
  raw_files.save(tmp_path / "images/0000/000000.png", map_HW3)
  message = raw_files.failure(raw_files.arguments(
      "kitti_step", tmp_path / "out", images=tmp_path / "images",
      masks=tmp_path / "masks", split="train"), capsys)
  assert (f"--masks: {mask}: has class 40, but the ids of KITTI-STEP are 0 to "
          "18. Take the masks as KITTI-STEP has them.") in message


def test_a_known_layout_has_one_folder(tmp_path, capsys):
  image = tmp_path / "leftImg8bit/train/bonn/bonn_0_1_leftImg8bit.png"
  raw_files.save(image, raw_files.gradient(8, 10))
  mask = tmp_path / "gtFine/train/bonn/bonn_0_1_gtFine_labelIds.png"
  raw_files.save(mask.with_name("other.png"), class_map())
  message = raw_files.failure(raw_files.arguments(
      "cityscapes", tmp_path / "out", root=tmp_path, split="train"), capsys)
  assert message.strip().endswith(
      f"--root: 1 of 1 images have no mask; the first is {image}. Looked for "
      f"{mask}.")


def ade20k(folder, **options):
  raw_files.save(folder / "images/training/x.jpg", raw_files.gradient(8, 10))
  raw_files.save(folder / "annotations/training/x.png", class_map())
  return make_reader(raw_files.arguments(
      "ade20k", folder / "out", root=folder, split="train", min_area=0,
      **options))


def write_ade20k_list(folder, num_classes=150):
  lines = ["Idx\tRatio\tTrain\tVal\tName"]
  for number in range(1, num_classes + 1):
    lines.append(f"{number}\t0.1\t5\t5\tname {number}, other")
  (folder / "objectInfo150.txt").write_text("\n".join(lines))


def test_ade20k(tmp_path):
  write_ade20k_list(tmp_path)
  reader = ade20k(tmp_path, things="name 2")
  assert reader.classes.categories[1] == (2, "name 2", True)
  # Floor is 0, which is void here.
  assert segments_of(reader) == [
      (0, 10, False), (1, 9, False), (1, 9, False), (2, 4, False)]


def test_ade20k_with_a_list_of_ones_own(tmp_path):
  names = tmp_path / "names.txt"
  names.write_text("\n".join(f"name {number}" for number in range(150)))
  categories = ade20k(tmp_path, classes=names).classes.categories
  assert categories[0] == (1, "name 0", False)


def test_ade20k_needs_all_classes(tmp_path):
  write_ade20k_list(tmp_path, 149)
  with pytest.raises(ConfigError, match="has 149 classes; ADE20K has 150"):
    ade20k(tmp_path).classes  # noqa: B018


def test_layouts_name_the_folder_that_is_not_there(tmp_path, capsys):
  message = raw_files.failure(raw_files.arguments(
      "cityscapes", tmp_path / "out", root=tmp_path, split="train"), capsys)
  assert ("--root: there is no folder "
          f"{str(tmp_path / 'leftImg8bit/train')!r}.") in message
