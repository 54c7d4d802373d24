"""Panoptic files in COCO's format in, a TFDS data set out."""

import copy
import hashlib
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pp import sources, stream
from tests.tools.prepare import raw_files
from tests.tools.prepare.raw_coco import CATEGORIES, CUP, FLOOR, NAME, RawCoco
from tools.prepare import __main__ as prepare_data
from uvim import pixels


@pytest.fixture
def raw(tmp_path):
  return RawCoco(tmp_path)


def test_own_data_set_round_trip(raw):
  assert raw.run() == 0
  source = raw.source()
  assert [tuple(category) for category in source.categories] == [
      (CUP, "cup", True), (FLOOR, "floor", False)]
  examples = {}
  for example in raw_files.read_examples(NAME, "train", raw.data_dir):
    examples[int(example["image/id"])] = example
  assert sorted(examples) == [10, 20, 30]
  example = examples[20]
  assert example["image"] == raw.image(20).read_bytes()
  ids_HW = pixels.ids_from_rgb(example["panoptic_image"])
  assert set(np.unique(ids_HW)) == {0, 300, 70020}
  objects = example["panoptic_objects"]
  np.testing.assert_array_equal(objects["id"], [300, 70020])
  np.testing.assert_array_equal(objects["label"], [0, 1])
  np.testing.assert_array_equal(objects["is_crowd"], [True, False])
  # The floor's area and box were left out: they come from the PNG.
  np.testing.assert_array_equal(objects["area"], [18, 52])
  cup_box = [2 / 8, 3 / 10, 5 / 8, 9 / 10]
  floor_box = [1 / 8, 0, 1, 1]
  np.testing.assert_allclose(objects["bbox"], [cup_box, floor_box], rtol=1e-6)
  raw_files.assert_not_empty(
      raw.data_dir / NAME / "1.0.0/contact_sheet_train.png")


def test_a_second_split_keeps_the_first(raw, capsys):
  assert raw.run() == 0
  records = raw.source().read(range(3))
  del raw.data["images"][0]
  del raw.data["annotations"][0]
  assert raw.run(split="validation") == 0
  both = raw.source("train+validation")
  assert both.num_examples == 5
  assert both.read(range(3)) == records
  # The same split once more is a mistake, unless it is meant.
  assert "--overwrite" in raw_files.failure(raw.argv(), capsys)
  assert raw.run("--overwrite") == 0
  assert raw.source("train").num_examples == 2
  assert raw.source("validation").num_examples == 2
  raw.data["categories"] = CATEGORIES[::-1]
  message = raw_files.failure(raw.argv(split="test"), capsys)
  assert "other categories" in message


def break_missing_png(raw):
  raw.panoptic(20).unlink()
  return ["annotations[2].file_name: there is no file", "panoptic/20.png"]


def break_missing_image(raw):
  raw.image(10).unlink()
  return ["images[1].file_name: there is no file", "images/10.jpg"]


def break_no_annotation(raw):
  raw.data["annotations"][0]["image_id"] = 31
  return ["image 30 (30.jpg): no annotation",
          "annotations[0].image_id: no image has the id 31"]


def break_unlisted_segment(raw):
  del raw.data["annotations"][1]["segments_info"][0]
  return ["image 10", "segment 300 is in the PNG but not in the JSON"]


def break_empty_segment(raw):
  raw.data["annotations"][1]["segments_info"].append(
      {"id": 5, "category_id": FLOOR})
  return ["segment 5 is in the JSON but has no pixel"]


def break_category(raw):
  raw.data["annotations"][2]["segments_info"][1]["category_id"] = 99
  return ["annotations[2].segments_info[1].category_id: 99 is the id of no"]


def break_json_size(raw):
  raw.data["images"][2]["width"] = 11
  return ["image 20 (20.jpg): width is 11 in the JSON, but 10 in its"]


def break_image_size(raw):
  Image.new("RGB", (8, 10)).save(raw.image(20))
  return ["the image has height x width 10x8", "PNG 8x10"]


def break_rotated_image(raw):
  exif = Image.Exif()
  exif[274] = 6
  Image.new("RGB", (8, 10)).save(raw.image(20), exif=exif)
  return ["10x8, its panoptic PNG 8x10. EXIF says to turn the image"]


def break_gray_png(raw):
  Image.new("L", (10, 8)).save(raw.panoptic(30))
  return ["image 30 (30.jpg), panoptic PNG: its pixels are of mode L; allowed"]


def break_torn_image(raw):
  raw.image(30).write_bytes(b"\xff\xd8 not a picture")
  return ["image 30 (30.jpg): not an image"]


def break_keys(raw):
  del raw.data["annotations"][1]["segments_info"]
  return ["annotations[1] has no 'segments_info'"]


def break_schema(raw):
  raw.data = {"images": []}
  return ["has no list annotations, categories"]


def break_twice(raw):
  raw.data["images"].append(copy.deepcopy(raw.data["images"][0]))
  return ["images[3].id: 30 is also that of images[0]"]


BREAKS = [function for name, function in sorted(globals().items())
          if name.startswith("break_")]


@pytest.mark.parametrize("break_it", BREAKS)
def test_wrong_files_are_named(raw, capsys, break_it):
  expected = break_it(raw)
  message = raw.failure(capsys)
  for part in expected:
    assert part in message


def test_many_problems_are_counted_not_listed(raw, capsys):
  for annotation in raw.data["annotations"]:
    annotation["segments_info"] = []
  message = raw.failure(capsys)
  assert "6 problems" in message
  assert "1 more" in message
  assert message.count("in the PNG but not") == 5


def test_arguments(raw, capsys):
  assert "133 categories" in raw.failure(capsys, name="coco/2017_panoptic")
  assert "--name: 'My-Data'" in raw.failure(capsys, name="My-Data")
  assert "--split: 'train[:5]'" in raw.failure(capsys, split="train[:5]")
  message = raw.failure(capsys, images="/nowhere")
  assert "--images: '/nowhere' is not a folder" in message


def test_category_names_must_differ(raw, capsys):
  raw.data["categories"] = [CATEGORIES[0], {**CATEGORIES[1], "name": "cup"}]
  assert "the text 'cup' is also that of categories[0]" in raw.failure(capsys)


def test_listed_checksums_are_compared(raw, capsys):
  def line(path, digest=None):
    digest = digest or hashlib.md5(path.read_bytes()).hexdigest()
    return f"{digest}  {path.relative_to(raw.folder).as_posix()}\n"

  list_path = raw.folder / "md5.txt"
  extra = ["--checksums", str(list_path)]

  def failure(text):
    list_path.write_text(text)
    return raw.failure(capsys, *extra)

  right = line(raw.image(10))
  message = failure(right + line(raw.image(20), "0" * 32))
  assert "20.jpg: its md5 is" in message
  assert "10.jpg" not in message
  assert "there.png: not in" in failure("0" * 64 + " *there.png\n")
  assert "line 2 of" in failure(right + "10.jpg\n")
  list_path.write_text(right + line(raw.image(20)) + line(raw.image(30)))
  assert raw.run(*extra) == 0


KILLED_RUN = """
import os, sys
from tools.prepare import tfds_folder
name, data_dir = sys.argv[1:]
with tfds_folder.locked(name, data_dir) as check_lock:
  with tfds_folder.work_folder(name, data_dir, check_lock) as work:
    open(work + "/half.tfrecord", "w").close()
    os._exit(9)
"""


def test_what_a_killed_run_left_is_removed(raw):
  """A run that is killed cannot tidy up; the next one does."""
  data_dir = raw.data_dir
  killed = subprocess.run(
      [sys.executable, "-c", KILLED_RUN, NAME, str(data_dir)], timeout=120,
      cwd=pathlib.Path(prepare_data.__file__).parents[2])
  assert killed.returncode == 9
  assert list(data_dir.glob(".prepare_*/half*"))
  assert list(data_dir.glob(".prepare_*.lock"))
  assert raw.run() == 0
  assert not list(data_dir.glob(".*"))


def test_tfds_itself_reads_the_real_ones(coco_dir, shared):
  import tensorflow_datasets as tfds
  data, info = tfds.load("coco/2017_panoptic", data_dir=coco_dir,
                         download=False, split="validation", with_info=True)
  truth_path = shared / "data/coco_panoptic/panoptic_val2017.json"
  truth = json.loads(truth_path.read_text())
  names = [category["name"] for category in truth["categories"]]
  ids = [category["id"] for category in truth["categories"]]
  assert info.features["panoptic_objects"]["label"].names == names
  segments_of = {annotation["image_id"]: annotation["segments_info"]
                 for annotation in truth["annotations"]}
  for example in tfds.as_numpy(data):
    segments = segments_of.pop(int(example["image/id"]))
    objects = example["panoptic_objects"]
    assert example["image"].shape == example["panoptic_image"].shape
    for key, name in (("id", "id"), ("area", "area"), ("is_crowd", "iscrowd")):
      expected = [segment[name] for segment in segments]
      assert objects[key].tolist() == expected
    category_ids = [ids[label] for label in objects["label"]]
    assert category_ids == [segment["category_id"] for segment in segments]
  assert not segments_of
  source = sources.make_source("coco/2017_panoptic", "validation", coco_dir)
  assert [category.id for category in source.categories] == ids


# Appendix D's strings at a small size.
PP_LABELS = 'coco_panoptic|concat(["semantics","instances"], "labels")|'
PP_TAIL = ('resize(64)|resize(64, key="labels", method="nearest")|'
           'value_range(-1, 1)|make_canonical|keep("image","labels")')
PP_TRAIN = ('decode|' + PP_LABELS + 'randu("fliplr")|det_fliplr(key="image")|'
            'det_fliplr(key="labels")|inception_box|crop_box(key="image")|'
            'crop_box(key="labels")|' + PP_TAIL)
PP_EVAL = PP_LABELS + PP_TAIL


def test_the_paper_s_strings_run_on_the_real_ones(coco_dir):
  """The batches hold more examples than the split."""
  split = stream.open_tfds_split("coco/2017_panoptic", "validation", coco_dir)
  train_batch = next(split.train_batches(PP_TRAIN, batch_size=8, seed=0))
  one_pass = split.eval_batches(PP_EVAL, batch_size=8)
  eval_batch = next(one_pass.start())
  assert one_pass.num_batches == 1
  assert eval_batch["_mask"].sum() == 5
  for batch in (train_batch, eval_batch):
    image = batch["image"]
    labels = batch["labels"]
    assert image.shape == (8, 64, 64, 3)
    assert image.dtype == np.float32
    assert -1 <= image.min() < -0.5
    assert 0.5 < image.max() <= 1
    assert labels.shape == (8, 64, 64, 2)
    assert labels.dtype == np.int32
    assert labels.min() >= 0
    assert labels[..., 0].max() <= 133
  # Sheep is TFDS label 18, and semantics are label + 1.
  is_sheep = eval_batch["image/id"] == 46804
  sheep_labels = eval_batch["labels"][is_sheep][0]
  assert {19, 126, 131} <= set(np.unique(sheep_labels[..., 0]))
