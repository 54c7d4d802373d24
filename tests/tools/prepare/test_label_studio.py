"""Label Studio's export in, a panoptic TFDS data set out."""

import json
import re

import numpy as np
import pytest

from pp import sources
from tests.tools.prepare import raw_files
from tools.prepare import __main__ as prepare_data
from tools.prepare import label_studio_brush, polygons
from tools.prepare.label_studio import LabelStudioReader
from uvim.registry import ConfigError

HEIGHT, WIDTH = 20, 50
NAME = "mycups"
# What label-studio-sdk 2.1 (brush.mask2rle) makes of the mask below.
RECORDED = [
    0, 0, 0, 140, 57, 27, 253, 176, 8, 255, 240, 152, 5, 191, 251, 96, 24, 79,
    254, 216, 5, 191, 252, 38, 1, 31, 253, 176, 0]
RECORDED_MASK = np.array([
    [0, 0, 0, 1, 0, 0, 0],
    [0, 0, 1, 1, 1, 0, 0],
    [0, 1, 1, 1, 1, 1, 0],
    [0, 0, 1, 1, 1, 0, 0],
    [0, 0, 0, 1, 0, 0, 0]], bool)


class RawTasks:
  """A folder of images, and the JSON."""

  def __init__(self, folder):
    self.folder = folder
    self.tasks = []

  def add(self, *results, image="/data/upload/3/0123abcd-a.png", **keys):
    self.tasks.append({
        "id": 40 + len(self.tasks), "data": {"image": image, "note": "hello"},
        "annotations": [{"id": 1, "result": list(results),
                         "was_cancelled": False, "ground_truth": False}],
        **keys})
    return self

  def save_image(self, name):
    raw_files.save(self.folder / "images" / name,
                   raw_files.gradient(HEIGHT, WIDTH))

  def reader(self):
    path = self.folder / "export.json"
    path.write_text(json.dumps(self.tasks))
    return LabelStudioReader(
        split="train", images=self.folder / "images", annotations=path)

  def regions(self):
    [image] = self.reader().read_images()
    return [(region.name, polygons.to_mask(region.rle))
            for region in image.regions]

  def message(self):
    with pytest.raises(ConfigError) as caught:
      self.reader().read_images()
    message = str(caught.value)
    assert "\n" not in message
    return message


def result(kind, label="cup", **value):
  return {
      "id": "x", "from_name": "label", "to_name": "image", "type": kind,
      "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0,
      "value": {**value, kind: [label]}}


def polygon(*points, **keys):
  return result("polygonlabels", points=list(points), **keys)


TRIANGLE = polygon([0, 0], [40, 0], [40, 50])


@pytest.fixture
def raw(tmp_path):
  raw = RawTasks(tmp_path)
  raw.save_image("a.png")
  return raw


def box_mask(left, top, right, bottom):
  mask_HW = np.zeros((HEIGHT, WIDTH), bool)
  mask_HW[top:bottom, left:right] = True
  return mask_HW


def test_each_kind_of_result(raw):
  painted = np.zeros((HEIGHT, WIDTH), bool)
  painted[3:9, 4:40] = True
  painted[5, 7] = False
  raw.add(
      polygon([10, 20], [30, 20], [30, 80], [10, 80], label="polygon"),
      result("rectanglelabels", "box", x=20, y=10, width=40, height=50,
             rotation=0),
      # Turned clockwise about its left upper corner.
      result("rectanglelabels", "turned", x=50, y=10, width=20, height=25,
             rotation=90),
      result("ellipselabels", "ellipse", x=50, y=50, radiusX=20, radiusY=30,
             rotation=0),
      result("brushlabels", "brush", format="rle", rle=encode(painted)),
      {"type": "choices", "value": {"choices": ["good"]}},
      {"type": "relation", "from_id": "a", "to_id": "b"})
  regions = dict(raw.regions())
  assert list(regions) == ["polygon", "box", "turned", "ellipse", "brush"]
  np.testing.assert_array_equal(regions["polygon"], box_mask(5, 4, 15, 16))
  np.testing.assert_array_equal(regions["box"], box_mask(10, 2, 30, 12))
  np.testing.assert_array_equal(regions["turned"], box_mask(20, 2, 25, 12))
  np.testing.assert_array_equal(regions["brush"], painted)
  y_HW, x_HW = np.mgrid[:HEIGHT, :WIDTH] + 0.5
  distance_HW = np.hypot((x_HW - 25) / 10, (y_HW - 10) / 6)
  assert regions["ellipse"][distance_HW < 0.9].all()
  assert not regions["ellipse"][distance_HW > 1.1].any()


# ── Brush ───────────────────────────────────────────────────────────────────


def encode(mask_HW, rng=None):
  """The stream of bits of a mask, in runs of random lengths and kinds."""
  rng = rng or np.random.default_rng(0)
  length_bits = (1, 3, 6, 9)
  value_bits = 8
  values = np.zeros((*mask_HW.shape, 4), int)
  values[..., 3] = 255 * mask_HW
  values = values.ravel().tolist()
  bits = f"{len(values):032b}{value_bits - 1:05b}"
  for count in length_bits:
    bits += f"{count - 1:04b}"
  start = 0
  while start < len(values):
    kind = int(rng.integers(4))
    length = int(rng.integers(1, 2**length_bits[kind] + 1))
    run = values[start:start + length]
    same = len(set(run)) == 1
    bits += f"{int(same)}{kind:02b}{len(run) - 1:0{length_bits[kind]}b}"
    for value in run[:1] if same else run:
      bits += f"{value:0{value_bits}b}"
    start += len(run)
  bits += "0" * (-len(bits) % 8)
  return [int(bits[place:place + 8], 2) for place in range(0, len(bits), 8)]


def test_brush_as_label_studio_writes_it():
  decoded = label_studio_brush.decode(RECORDED, RECORDED_MASK.shape)
  np.testing.assert_array_equal(decoded, RECORDED_MASK)


def test_brush_round_trip():
  rng = np.random.default_rng(1)
  for size_HW in ((1, 1), (3, 5), (17, 4)):
    mask_HW = rng.random(size_HW) < 0.3
    decoded = label_studio_brush.decode(encode(mask_HW, rng), size_HW)
    np.testing.assert_array_equal(decoded, mask_HW)


@pytest.mark.parametrize(("values", "expected"), [
    ([], "its 0 bytes end too early"),
    (RECORDED[:-3], "its 26 bytes end too early"),
    ([255] * 9, "it holds 4,294,967,295 values; 4 for each of 5x7 pixels are"),
    ([*RECORDED[:6], 255, 255, 255], "a run ends behind the last of 140"),
])
def test_a_broken_brush_is_refused(values, expected):
  with pytest.raises(ConfigError, match=expected):
    label_studio_brush.decode(values, RECORDED_MASK.shape)


# ── Tasks ───────────────────────────────────────────────────────────────────


def test_from_the_export_to_a_data_set(raw, capsys):
  raw.save_image("0123abcd-b.png")
  raw.save_image("deep/c d.png")
  raw.add(polygon([0, 0], [40, 0], [40, 50], label="cup"),
          polygon([0, 0], [100, 0], [100, 100], [0, 100], label="table"))
  raw.add(TRIANGLE, image="https://x.org/0123abcd-b.png?key=1")
  raw.add(TRIANGLE, image="/data/local-files/?d=deep%5Cc%20d.png")
  raw.add(image="/data/upload/3/0123abcd-d.png")
  raw.tasks[-1]["annotations"] = []
  raw.reader()
  argv = raw_files.arguments(
      "label_studio", raw.folder / "out", images=raw.folder / "images",
      annotations=raw.folder / "export.json", name=NAME, split="train",
      stuff="table")
  assert prepare_data.main(argv) == 0
  assert "1 tasks have no annotation" in capsys.readouterr().out
  source = sources.make_source(NAME, "train", raw.folder / "out")
  assert [tuple(category) for category in source.categories] == [
      (1, "cup", True), (2, "table", False)]
  examples = {example["image/filename"].decode(): example for example in
              raw_files.read_examples(NAME, "train", raw.folder / "out")}
  assert sorted(examples) == ["0123abcd-b.png", "a.png", "deep/c d.png"]
  assert examples["a.png"]["image/id"] == 40
  labels = examples["a.png"]["panoptic_objects"]["label"]
  assert sorted(labels.tolist()) == [0, 1]


def test_the_ground_truth_counts(raw):
  raw.add(TRIANGLE)
  box = result("rectanglelabels", "box", x=0, y=0, width=50, height=50)
  annotations = raw.tasks[0]["annotations"]
  annotations.append({"result": [box], "was_cancelled": True})
  assert [name for name, _ in raw.regions()] == ["cup"]
  annotations[1]["was_cancelled"] = False
  assert "tasks[0].annotations: 2 of them; mark one as" in raw.message()
  annotations[1]["ground_truth"] = True
  assert [name for name, _ in raw.regions()] == ["box"]


@pytest.mark.parametrize(("broken", "expected"), [
    (polygon([1, 1], [2, 2]), ".value: 4 numbers; a polygon has an even"),
    (polygon([1, 1], [2, "2"], [3, 3]),
     ".value.points[1][1]: the text '2'; allowed: a number"),
    (result("polygonlabels"), ".value has no 'points'"),
    (result("ellipselabels", x=1, y=1, radiusX=1, radiusY=1,
            rotation=float("inf")), ".value: inf is no place in or near"),
    (result("rectanglelabels", x=1e308, y=1, width=1e308, height=1),
     ".value: inf is no place in or near"),
    ({**TRIANGLE, "original_width": 51},
     ": original_height x original_width is 20x51, but 20x50"),
    ({**TRIANGLE, "image_rotation": 90}, ".image_rotation: 90.0; allowed: 0"),
    ({**TRIANGLE, "value": {"points": [], "polygonlabels": ["a", "b"]}},
     ".value.polygonlabels: a list; allowed: a list of one label"),
    (result("brushlabels", rle=[1, 256]), ".value.rle[1]: 256; allowed: a"),
    (result("brushlabels", rle=[1]), ".value.rle: its 1 bytes end too early"),
    ({"value": {}}, " has no 'type'"),
])
def test_a_broken_result_is_named(raw, broken, expected):
  raw.add(TRIANGLE, broken)
  assert f"tasks[0].annotations[0].result[1]{expected}" in raw.message()


@pytest.mark.parametrize(("tasks", "expected"), [
    ({}, "is an object; Label Studio's export is a list of tasks"),
    ([{"id": 1, "image": "a.png", "label": []}],
     "tasks[0] has no 'annotations'. Export as JSON, not as JSON-MIN"),
    ([{"id": 1, "data": {"a": "x.png", "b": "y.png"},
       "annotations": [{"result": []}]}],
     "tasks[0].data: 2 images (x.png, y.png); a task has one"),
    ([{"id": 1, "data": {}, "annotations": [{"result": []}]}],
     "tasks[0].data: it names no image"),
    ([{"id": 1, "data": {"a": "x.png"}, "annotations": [{"result": []}]}],
     "tasks[0].data: there is no image 'x.png' below"),
    ([{"id": number, "data": {"a": "a.png"}, "annotations": [{"result": []}]}
      for number in (1, 2)], "a.png: it is the image of 2 tasks"),
    ([{"id": 1, "data": {"a": "a.png"}, "annotations": [{"result": []}]}] * 2,
     "tasks[1].id: 1 is also that of tasks[0]"),
])
def test_a_broken_task_is_named(raw, tasks, expected):
  raw.tasks = tasks
  assert re.search(re.escape(expected), raw.message())
