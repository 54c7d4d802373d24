"""COCO's detection format in, a panoptic TFDS data set out."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pp import sources
from tests.tools.prepare import raw_files
from tools.prepare import __main__ as prepare_data
from tools.prepare import coco_json, polygons, polygons_regions
from tools.prepare.detection import DetectionReader
from uvim import pixels
from uvim.registry import ConfigError

SIZE = (24, 32)
CUP, FLOOR = 7, 3
NAME = "mycups"


class RawDetection:
  """A folder with two images of 24x32 and the JSON."""

  def __init__(self, folder):
    self.folder = folder
    self.data = {
        "images": [], "annotations": [],
        "categories": [{"id": CUP, "name": "cup", "supercategory": "x"},
                       {"id": FLOOR, "name": "floor"}]}
    for number in (20, 10):
      image = raw_files.gradient(*SIZE)
      raw_files.save(folder / "images" / f"{number}.png", image)
      self.data["images"].append({
          "id": number, "file_name": f"{number}.png", "height": SIZE[0],
          "width": SIZE[1]})

  def add(self, segmentation, image=10, category=CUP, iscrowd=0):
    self.data["annotations"].append({
        "id": len(self.data["annotations"]) + 1, "image_id": image,
        "category_id": category, "segmentation": segmentation,
        "iscrowd": iscrowd, "area": 5.5, "bbox": [0, 0, 1, 1]})

  def add_all_kinds(self):
    """Every kind of segmentation, overlapping, all in one image."""
    ring = np.zeros(SIZE, bool)
    ring[3:20, 4:24] = True
    ring[8:14, 10:18] = False
    square = np.zeros(SIZE, bool)
    square[12:24, 14:32] = True
    self.add([[2, 2, 12.5, 2, 12, 11.5, 2, 12], [20, 16, 30, 16, 24, 23]])
    self.add(run_lengths(ring))
    self.add(compressed(square), iscrowd=1)
    self.add([[-9, -9, 14, 4, -3, 30]])
    self.add([[0, 0, 32, 0, 32, 24, 0, 24]], category=FLOOR)
    self.add([[25, 0, 32, 0, 32, 9.25]], category=FLOOR)
    # Of one size: the later one lies on top.
    self.add([[22, 3, 27, 3, 27, 8, 22, 8]])
    self.add([[24, 3, 29, 3, 29, 8, 24, 8]])

  def reader(self, **options):
    path = self.folder / "instances.json"
    path.write_text(json.dumps(self.data))
    return DetectionReader(
        split="train", images=self.folder / "images", annotations=path,
        **options)

  def images(self, **options):
    return self.reader(**options).read_images()

  def message(self, **options):
    """What is wrong with the JSON, in one line."""
    with pytest.raises(ConfigError) as caught:
      self.images(**options)
    message = str(caught.value)
    assert "\n" not in message
    return message

  def argv(self, **options):
    path = self.folder / "instances.json"
    path.write_text(json.dumps(self.data))
    return raw_files.arguments(
        "detection", self.folder / "out", images=self.folder / "images",
        annotations=path, name=NAME, split="train", **options)

  def masks(self):
    """The mask of each annotation with polygons as pycocotools makes it."""
    path = self.folder / "instances.json"
    path.write_text(json.dumps(self.data))
    with contextlib.redirect_stdout(io.StringIO()):
      coco = COCO(path)
    return [coco.annToMask(entry).astype(bool)
            for entry in self.data["annotations"] if entry["segmentation"]]


def run_lengths(mask_HW):
  """COCO's run lengths as a list: columns, outside first."""
  padded = np.concatenate([[0], mask_HW.T.ravel(), [2]])
  edges = np.flatnonzero(np.diff(padded))
  counts = np.diff(edges, prepend=0)
  return {"size": list(mask_HW.shape), "counts": counts.tolist()}


def compressed(mask_HW):
  rle = polygons.from_mask(mask_HW)
  return {"size": list(mask_HW.shape), "counts": rle["counts"].decode()}


def assert_same_segments(ids_HW, expected_HW):
  """Each segment of one map is one segment of the other."""
  pairs_HW = expected_HW.astype(np.int64) * 2**32 + ids_HW
  num_pairs = len(np.unique(pairs_HW))
  assert num_pairs == len(np.unique(ids_HW)) == len(np.unique(expected_HW))


@pytest.fixture
def raw(tmp_path):
  return RawDetection(tmp_path)


def test_masks_are_those_of_pycocotools(raw):
  raw.add_all_kinds()
  image = raw.images()[1]
  assert image.number == 10
  for region, mask_HW in zip(image.regions, raw.masks(), strict=True):
    np.testing.assert_array_equal(polygons.to_mask(region.rle), mask_HW)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """(the raw files, the prepared example of image 10)."""
  raw = RawDetection(tmp_path_factory.mktemp("detection"))
  raw.add_all_kinds()
  raw.add([])
  raw.add([[100, 100, 120, 100, 120, 120]])
  assert prepare_data.main(raw.argv(stuff="floor")) == 0
  examples = raw_files.read_examples(NAME, "train", raw.folder / "out")
  [example] = [e for e in examples if e["image/id"] == 10]
  return raw, example


def test_smaller_objects_lie_on_top(prepared):
  raw, example = prepared
  two_parts, ring, crowd, outside, floor, corner, left, right = raw.masks()[:8]
  # From bottom to top. The large floor and the corner become one segment.
  stack = [(crowd, 0), (floor, 1), (corner, 1), (ring, 2), (outside, 3),
           (two_parts, 4), (left, 5), (right, 6)]
  sizes = [mask_HW.sum() for mask_HW in (ring, outside, two_parts, left, right)]
  assert sizes == sorted(sizes, reverse=True)
  expected_HW = np.full(SIZE, -1)
  for mask_HW, number in stack:
    expected_HW[mask_HW] = number
  ids_HW = pixels.ids_from_rgb(example["panoptic_image"])
  assert_same_segments(ids_HW, expected_HW)


def test_what_the_example_holds(prepared):
  raw, example = prepared
  source = sources.make_source(NAME, "train", raw.folder / "out")
  assert [tuple(category) for category in source.categories] == [
      (CUP, "cup", True), (FLOOR, "floor", False)]
  assert example["image"] == (raw.folder / "images/10.png").read_bytes()
  assert example["image/filename"] == b"10.png"
  objects = example["panoptic_objects"]
  # The floor covers the crowd.
  assert sorted(objects["label"].tolist()) == [0, 0, 0, 0, 0, 1]
  ids_HW = pixels.ids_from_rgb(example["panoptic_image"])
  for number, area in zip(objects["id"], objects["area"], strict=True):
    assert (ids_HW == number).sum() == area


def test_a_crowd_is_marked_and_below(raw):
  whole = np.ones(SIZE, bool)
  raw.add([[4, 4, 12, 4, 12, 12, 4, 12]])
  raw.add(compressed(whole), iscrowd=1)
  image = raw.images()[1]
  assert [region.iscrowd for region in image.regions] == [False, True]
  assert raw.images()[0].regions == ()


@pytest.mark.parametrize(("segmentation", "expected"), [
    ([[1, 2, 3, 4, 5]], "[0]: 5 numbers; a polygon has an even number, 6 or"),
    ([[1, 1, 9, 1, 9, 9], [1, 2, 3, 4]], "[1]: 4 numbers; a polygon"),
    ([[1, 1, 9, 1, 9, "9"]], "[0][5]: the text '9'; allowed: a number"),
    ([[1, 1, 9, 1, 9, True]], "[0][5]: true; allowed: a number"),
    ([["\ud800", 1, 9, 1, 9, 9]], "[0][0]: the text"),
    ([[1, 1, 9, 1, 9, 10**400]], "[0]: it holds a number that is too large"),
    ([[1, 1, 9, 1, 9, float("nan")]], "[0]: nan is no place in or near"),
    ([[1, 1, 9, 1, 9, 1e9]], "[0]: 1000000000.0 is no place in or near"),
    ([[1, 1, 9e5, 9] * 9], "[0]: its line is"),
    ([1, 1, 9, 1, 9, 9], "[0]: 1; allowed: a polygon"),
    ("abc", ": the text 'abc'; allowed: a list of polygons, or an object"),
    ({"counts": [768]}, " has no 'size'"),
    ({"size": [24, 33], "counts": [768]}, ".size: [24, 33]; the image has"),
    ({"size": [24, 32], "counts": [700, 60]},
     ".counts: 2 run lengths of together 760 pixels; allowed: whole numbers"),
    ({"size": [24, 32], "counts": [-1, 769]}, ".counts: 2 run lengths of"),
    ({"size": [24, 32], "counts": 5}, ".counts: 5; allowed: a list of whole"),
    ({"size": [24, 32], "counts": "~~"}, ".counts: the letter '~' does not"),
    ({"size": [24, 32], "counts": "o"}, ".counts: it ends within a run"),
    ({"size": [24, 32], "counts": "ooooooooo0"}, ".counts: it holds a run"),
])
def test_a_broken_segmentation_is_named(raw, segmentation, expected):
  raw.add([[1, 1, 9, 1, 9, 9]])
  raw.add(segmentation)
  assert f"annotations[1].segmentation{expected}" in raw.message()


def break_image_id(raw):
  raw.data["annotations"][0]["image_id"] = 11
  return "annotations[0].image_id: no image has the id 11"


def break_category(raw):
  raw.data["annotations"][0]["category_id"] = 4
  return "annotations[0].category_id: 4 is the id of no category"


def break_file(raw):
  raw.data["images"][1]["file_name"] = "../images/10.png"
  return "images[1].file_name: the text '../images/10.png' leads out of"


def break_size(raw):
  raw.data["images"][0]["height"] = 25
  return "image 20 (20.png): height x width is 25x32 in the JSON, but 24x32"


def break_rotation(raw):
  exif = Image.Exif()
  exif[274] = 6
  image = Image.fromarray(raw_files.gradient(*SIZE))
  image.save(raw.folder / "images/20.png", exif=exif)
  raw.data["images"][0].update(height=SIZE[1], width=SIZE[0])
  return "but 24x32 in the file. EXIF says to turn the image; regions"


def break_kind(raw):
  raw.data["annotations"][0]["segments_info"] = []
  return "is a panoptic file (it has 'segments_info'); the command `coco`"


def break_list(raw):
  del raw.data["categories"]
  return "has no list categories; a COCO detection file has images, annot"


def test_a_detection_file_is_not_for_the_panoptic_reader(raw):
  raw.add([[1, 1, 9, 1, 9, 9]])
  path = raw.reader().annotations
  with pytest.raises(ConfigError, match="the command `detection` reads it"):
    coco_json.read(path)


def test_an_unused_category_of_the_same_name_is_left_out(raw):
  raw.data["categories"].insert(0, {"id": 0, "name": "cup"})
  raw.add([[1, 1, 9, 1, 9, 9]])
  categories = raw.reader().choose_categories({"cup"}, None)
  assert [category.id for category in categories] == [CUP, FLOOR]
  raw.add([[1, 1, 9, 1, 9, 9]], category=0)
  assert "categories[1].name: the text 'cup' is also that" in raw.message()


@pytest.mark.parametrize("damage", [
    break_image_id, break_category, break_file, break_size, break_rotation,
    break_kind, break_list])
def test_a_broken_file_is_named(raw, damage):
  raw.add([[1, 1, 9, 1, 9, 9]])
  expected = damage(raw)
  assert expected in raw.message()


def test_boxes_alone_are_refused_and_nothing_is_written(raw, capsys):
  raw.add([])
  message = raw_files.failure(raw.argv(), capsys)
  assert "hold no region; needed: polygons or masks, not boxes" in message
  raw.add([[1, 1, 9, 1, 9, 9]])
  message = raw_files.failure(raw.argv(stuff=["flor"]), capsys)
  assert "--stuff: Unknown name 'flor'. Did you mean 'floor'?" in message
  assert not (raw.folder / "out").exists()


def test_real_panoptic_files_come_back_from_run_lengths(shared, tmp_path):
  folder = shared / "data/coco_panoptic"
  data = json.loads((folder / "panoptic_val2017.json").read_text())
  names = {category["id"]: category["name"] for category in data["categories"]}
  stuff = [category["name"] for category in data["categories"]
           if not category["isthing"]]
  maps = {}
  entries = []
  for annotation in data["annotations"][:2]:
    path = folder / "panoptic_val2017" / annotation["file_name"]
    ids_HW = pixels.ids_from_rgb(np.asarray(Image.open(path)))
    maps[annotation["image_id"]] = ids_HW
    for segment in annotation["segments_info"]:
      entries.append({
          "image_id": annotation["image_id"], "iscrowd": segment["iscrowd"],
          "category_id": segment["category_id"],
          "segmentation": compressed(ids_HW == segment["id"])})
  path = tmp_path / "instances.json"
  path.write_text(json.dumps({**data, "annotations": entries}))
  reader = DetectionReader(split="train", images=folder / "val2017",
                           annotations=path, stuff=stuff)
  images = reader.read_images()
  categories = reader.choose_categories(set(names.values()), None)
  for image in images:
    if image.number not in maps:
      continue
    ids_HW, segments = polygons_regions.draw(
        image.regions, categories, image.size_HW)
    assert_same_segments(ids_HW, maps[image.number])
    for segment in segments:
      assert categories[segment.label].isthing or not segment.iscrowd
