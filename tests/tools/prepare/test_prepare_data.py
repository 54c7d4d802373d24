"""Raw COCO-format files in, a TFDS data set out; wrong files are named."""

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
from tools.prepare import __main__ as prepare_data
from tools.prepare import tfds_folder
from uvim.registry import ConfigError

CATEGORIES = [{"id": 7, "name": "cup", "isthing": 1},
              {"id": 3, "name": "floor", "isthing": 0}]


def picture(ids_HW):
  """Colours of segment ids: R + 256 G + 65536 B."""
  ids_HW = np.asarray(ids_HW)
  return np.stack([ids_HW % 256, ids_HW // 256 % 256, ids_HW // 65536],
                  -1).astype(np.uint8)


class Raw:
  """A folder of raw files: three images of 8x10 with two segments each."""

  def __init__(self, folder):
    self.folder = folder
    self.data = {"images": [], "annotations": [], "categories": CATEGORIES}
    for kind in ("images", "panoptic"):
      (folder / kind).mkdir(parents=True)
    for i in (30, 10, 20):
      ids_HW = np.full((8, 10), 70000 + i)
      ids_HW[2:5, 3:9] = 300
      ids_HW[0] = 0
      self.write(i, ids_HW)
      self.data["images"].append({"id": i, "file_name": f"{i}.jpg",
                                  "height": 8, "width": 10})
      self.data["annotations"].append({
          "image_id": i, "file_name": f"{i}.png", "segments_info": [
              {"id": 300, "category_id": 7, "iscrowd": 1, "area": 18,
               "bbox": [3, 2, 6, 3]},
              {"id": 70000 + i, "category_id": 3}]})

  def write(self, i, ids_HW):
    Image.fromarray(picture(ids_HW)).save(self.folder / f"panoptic/{i}.png")
    Image.fromarray(np.full((*ids_HW.shape, 3), i, np.uint8)).save(
        self.folder / f"images/{i}.jpg")

  def args(self, *extra, name="mydata/cups", split="train"):
    path = self.folder / "panoptic.json"
    path.write_text(json.dumps(self.data))
    return ["coco", "--images", str(self.folder / "images"), "--panoptic",
            str(self.folder / "panoptic"), "--annotations", str(path),
            "--name", name, "--split", split, "--data_dir",
            str(self.folder / "out"), *extra]


@pytest.fixture
def raw(tmp_path):
  return Raw(tmp_path)


def fails(raw, capsys, **kw):
  """The message of a run that must end with exit code 2, writing nothing."""
  assert prepare_data.main(raw.args(**kw)) == 2
  assert not (raw.folder / "out").exists()
  error = capsys.readouterr().err
  assert "Traceback" not in error
  return error


def test_own_data_set_round_trip(raw):
  assert prepare_data.main(raw.args()) == 0
  source = sources.make_source("mydata/cups", "train", raw.folder / "out")
  assert [tuple(c) for c in source.categories] == [
      (7, "cup", True), (3, "floor", False)]
  examples = {int(e["image/id"]): e for e in map(source.example, range(3))}
  assert sorted(examples) == [10, 20, 30]
  example = examples[20]
  assert example["image"] == (raw.folder / "images/20.jpg").read_bytes()
  ids_HW = example["panoptic_image"].astype(int) @ [1, 256, 65536]
  assert set(np.unique(ids_HW)) == {0, 300, 70020}
  objects = example["panoptic_objects"]
  np.testing.assert_array_equal(objects["id"], [300, 70020])
  np.testing.assert_array_equal(objects["label"], [0, 1])
  np.testing.assert_array_equal(objects["is_crowd"], [True, False])
  # The second segment's area and box were left out: counted in the PNG.
  np.testing.assert_array_equal(objects["area"], [18, 52])
  np.testing.assert_allclose(objects["bbox"], [[2 / 8, .3, 5 / 8, .9],
                                               [1 / 8, 0, 1, 1]], rtol=1e-6)
  sheet = raw.folder / "out/mydata/cups/1.0.0/contact_sheet_train.png"
  assert np.asarray(Image.open(sheet)).std() > 20


def test_a_second_split_keeps_the_first(raw, capsys):
  assert prepare_data.main(raw.args()) == 0
  first = sources.make_source("mydata/cups", "train", raw.folder / "out")
  before = first.read(range(3))
  del raw.data["images"][0], raw.data["annotations"][0]
  assert prepare_data.main(raw.args(split="validation")) == 0
  again = sources.make_source("mydata/cups", "train+validation",
                              raw.folder / "out")
  assert again.num_examples == 5
  assert again.read(range(3)) == before
  capsys.readouterr()
  # The same split once more is a mistake, unless it is meant.
  assert prepare_data.main(raw.args()) == 2
  assert "--overwrite" in capsys.readouterr().err
  assert prepare_data.main(raw.args("--overwrite")) == 0
  assert [sources.make_source("mydata/cups", split, raw.folder / "out")
          .num_examples for split in ("train", "validation")] == [2, 2]
  raw.data["categories"] = CATEGORIES[::-1]
  assert prepare_data.main(raw.args(split="test")) == 2
  assert "other categories" in capsys.readouterr().err


def break_missing_png(raw):
  (raw.folder / "panoptic/20.png").unlink()
  return ["image 20 (20.jpg): no file", "panoptic/20.png"]


def break_missing_image(raw):
  (raw.folder / "images/10.jpg").unlink()
  return ["no file", "images/10.jpg"]


def break_no_annotation(raw):
  raw.data["annotations"][0]["image_id"] = 31
  return ["image 30 (30.jpg): no annotation", "no image has the id 31"]


def break_unlisted_segment(raw):
  del raw.data["annotations"][1]["segments_info"][0]
  return ["image 10", "segment 300 is in the PNG but not in the JSON"]


def break_empty_segment(raw):
  raw.data["annotations"][1]["segments_info"].append(
      {"id": 5, "category_id": 3})
  return ["segment 5 is in the JSON but has no pixel"]


def break_category(raw):
  raw.data["annotations"][2]["segments_info"][1]["category_id"] = 99
  return ["segment 70020 has category_id 99"]


def break_json_size(raw):
  raw.data["images"][2]["width"] = 11
  return ["the JSON has height x width 8x11", "PNG 8x10"]


def break_image_size(raw):
  Image.new("RGB", (8, 10)).save(raw.folder / "images/20.jpg")
  return ["the image has height x width 10x8", "PNG 8x10"]


def break_turned_image(raw):
  exif = Image.Exif()
  exif[274] = 6
  Image.new("RGB", (8, 10)).save(raw.folder / "images/20.jpg", exif=exif)
  return ["10x8, its panoptic PNG 8x10. EXIF says to turn the image"]


def break_grey_png(raw):
  Image.new("L", (10, 8)).save(raw.folder / "panoptic/30.png")
  return ["image 30 (30.jpg): cannot be read: its mode is L"]


def break_torn_image(raw):
  (raw.folder / "images/30.jpg").write_bytes(b"\xff\xd8 not a picture")
  return ["image 30 (30.jpg): cannot be read"]


def break_keys(raw):
  del raw.data["annotations"][1]["segments_info"]
  return ["annotations[1] has no 'segments_info'"]


def break_schema(raw):
  raw.data = {"images": []}
  return ["has no list annotations, categories"]


def break_twice(raw):
  raw.data["images"].append(copy.deepcopy(raw.data["images"][0]))
  return ["image id 30 appears twice"]


@pytest.mark.parametrize("break_it", [
    value for name, value in sorted(globals().items())
    if name.startswith("break_")])
def test_wrong_files_are_named(raw, capsys, break_it):
  expected = break_it(raw)
  error = fails(raw, capsys)
  for part in expected:
    assert part in error


def test_many_problems_are_counted_not_listed(raw, capsys):
  for annotation in raw.data["annotations"]:
    annotation["segments_info"] = []
  error = fails(raw, capsys)
  assert "6 problem(s)" in error and "1 more" in error
  assert error.count("in the PNG but not") == 5


def test_arguments(raw, capsys):
  assert "133 categories" in fails(raw, capsys, name="coco/2017_panoptic")
  assert "--name: 'My-Data'" in fails(raw, capsys, name="My-Data")
  assert "--split: 'train[:5]'" in fails(raw, capsys, split="train[:5]")
  args = raw.args()
  args[args.index("--images") + 1] = "/nowhere"
  assert prepare_data.main(args) == 2
  assert "--images: '/nowhere' is not a folder" in capsys.readouterr().err


def test_listed_checksums_are_compared(raw, capsys):
  def line(path, digest=None):
    digest = digest or hashlib.md5(path.read_bytes()).hexdigest()
    return f"{digest}  {path.relative_to(raw.folder).as_posix()}\n"
  photos = sorted((raw.folder / "images").iterdir())
  listed = raw.folder / "md5.txt"
  extra = "--checksums", str(listed)

  def error(text):
    listed.write_text(text)
    assert prepare_data.main(raw.args(*extra)) == 2
    assert not (raw.folder / "out").exists()
    return capsys.readouterr().err

  wrong = error(line(photos[0]) + line(photos[1], "0" * 32))
  assert "20.jpg: its md5 is" in wrong and "10.jpg" not in wrong
  assert "there.png: not in" in error("0" * 64 + " *there.png\n")
  assert "line 2 of" in error(line(photos[0]) + "10.jpg\n")
  listed.write_text("".join(map(line, photos)))
  assert prepare_data.main(raw.args(*extra)) == 0


def test_what_a_killed_run_left_is_removed_and_a_running_one_is_not(raw):
  """A run that is killed cannot tidy up; the next one does."""
  folder = raw.folder / "out"
  code = ("import os, sys; from tools import tfds_folder\n"
          "with tfds_folder.work_folder(sys.argv[1]) as work:\n"
          "  open(work + '/half.tfrecord', 'w').close()\n"
          "  os._exit(9)")
  done = subprocess.run([sys.executable, "-c", code, str(folder)], timeout=120,
                        cwd=pathlib.Path(prepare_data.__file__).parents[2])
  assert done.returncode == 9 and list(folder.glob(".prepare_*/half*"))
  with tfds_folder.work_folder(folder) as running:
    assert [pathlib.Path(running)] == [
        x for x in folder.glob(".prepare_*") if x.is_dir()]
    assert prepare_data.main(raw.args()) == 0
    assert pathlib.Path(running).is_dir()
  assert not list(folder.glob(".prepare_*"))


@pytest.fixture(scope="module")
def coco(shared, tmp_path_factory):
  """The five real photographs as coco/2017_panoptic, in a fresh data_dir."""
  folder, out = shared / "data/coco_panoptic", tmp_path_factory.mktemp("coco")
  assert prepare_data.main([
      "coco", "--images", str(folder / "val2017"), "--panoptic",
      str(folder / "panoptic_val2017"), "--annotations",
      str(folder / "panoptic_val2017.json"), "--split", "validation",
      "--data_dir", str(out)]) == 0
  return out


def test_tfds_itself_reads_the_real_ones(coco, shared):
  import tensorflow_datasets as tfds
  data, info = tfds.load("coco/2017_panoptic", data_dir=coco, download=False,
                         split="validation", with_info=True)
  names = info.features["panoptic_objects"]["label"].names
  truth = json.loads((shared / "data/coco_panoptic/panoptic_val2017.json")
                     .read_text())
  assert names == [c["name"] for c in truth["categories"]]
  by_id = {a["image_id"]: a["segments_info"] for a in truth["annotations"]}
  ids = [c["id"] for c in truth["categories"]]
  for example in tfds.as_numpy(data):
    segments = by_id.pop(int(example["image/id"]))
    objects = example["panoptic_objects"]
    assert example["image"].shape == example["panoptic_image"].shape
    for key, name in (("id", "id"), ("area", "area"), ("is_crowd", "iscrowd")):
      assert objects[key].tolist() == [s[name] for s in segments]
    assert [ids[i] for i in objects["label"]] == [
        s["category_id"] for s in segments]
  assert not by_id
  source = sources.make_source("coco/2017_panoptic", "validation", coco)
  assert [c.id for c in source.categories] == ids


def test_the_paper_s_strings_run_on_the_real_ones(coco):
  """Appendix D at a small size: training on more than one epoch a batch."""
  split = stream.open_tfds_split("coco/2017_panoptic", "validation", coco)
  tail = ('resize(64)|resize(64, key="labels", method="nearest")|'
          'value_range(-1, 1)|make_canonical|keep("image","labels")')
  head = 'coco_panoptic|concat(["semantics","instances"], "labels")|'
  train = ('decode|' + head + 'randu("fliplr")|det_fliplr(key="image")|'
           'det_fliplr(key="labels")|inception_box|crop_box(key="image")|'
           'crop_box(key="labels")|' + tail)
  batch = next(split.train_batches(train, batch_size=8, seed=0))
  validation = split.eval_batches(head + tail, batch_size=8)
  evaluated = next(validation.start())
  assert validation.num_batches == 1 and evaluated["_mask"].sum() == 5
  for data in (batch, evaluated):
    assert data["image"].shape == (8, 64, 64, 3)
    assert data["image"].dtype == np.float32
    assert -1 <= data["image"].min() < -0.5 < 0.5 < data["image"].max() <= 1
    assert data["labels"].shape == (8, 64, 64, 2)
    assert data["labels"].dtype == np.int32
    assert 0 <= data["labels"].min() and data["labels"][..., 0].max() <= 133
  # Sheep is TFDS label 18, and semantics are label + 1.
  sheep = evaluated["labels"][evaluated["image/id"] == 46804][0]
  assert {19, 126, 131} <= set(np.unique(sheep[..., 0]))


def test_parser_knows_the_command_without_files():
  with pytest.raises(SystemExit):
    prepare_data.main(["coco", "--images", "x"])
  with pytest.raises(ConfigError):
    prepare_data.prepare_coco(images="", panoptic="", annotations="/nowhere",
                              name="x", split="train", data_dir="/nowhere")
