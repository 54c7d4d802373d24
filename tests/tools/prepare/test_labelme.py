"""labelme's files in, a panoptic TFDS data set out."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from pp import sources
from tests.tools.prepare import raw_files
from tools.prepare import __main__ as prepare_data
from tools.prepare import polygons, polygons_labels
from tools.prepare.labelme import LabelmeReader
from uvim import pixels
from uvim.categories import Category
from uvim.registry import ConfigError

HEIGHT, WIDTH = 24, 32
NAME = "mycups"


class RawLabelme:
  """A folder of JSON files, with their images beside them or in them."""

  def __init__(self, folder):
    self.folder = folder
    self.raw = folder / "raw"

  def add(self, name, *shapes, image="image.png", beside=True, **keys):
    content = {
        "version": "5.5.0", "flags": {}, "shapes": list(shapes),
        "imagePath": image, "imageData": None, "imageHeight": HEIGHT,
        "imageWidth": WIDTH, **keys}
    path = self.raw / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    if beside:
      raw_files.save(path.parent / image, raw_files.gradient(HEIGHT, WIDTH))

  def reader(self, images=None):
    return LabelmeReader(split="train", annotations=self.raw, images=images)

  def regions(self):
    """The regions of the only file: (name, mask) of each."""
    [image] = self.reader().read_images()
    return [(region.name, polygons.to_mask(region.rle))
            for region in image.regions]

  def message(self, **options):
    with pytest.raises(ConfigError) as caught:
      self.reader(**options).read_images()
    message = str(caught.value)
    assert "\n" not in message
    return message

  def argv(self, **options):
    return raw_files.arguments(
        "labelme", self.folder / "out", annotations=self.raw, name=NAME,
        **options)


def shape(points, label="cup", kind="polygon", group=None, **keys):
  return {"label": label, "points": points, "group_id": group,
          "shape_type": kind, "flags": {}, **keys}


def box(left, top, right, bottom, label="cup", **keys):
  return shape([[left, top], [right, bottom]], label, "rectangle", **keys)


def box_mask(left, top, right, bottom):
  mask_HW = np.zeros((HEIGHT, WIDTH), bool)
  mask_HW[top:bottom, left:right] = True
  return mask_HW


def in_base64(image):
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG")
  return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def raw(tmp_path):
  return RawLabelme(tmp_path)


def test_each_kind_of_shape(raw):
  ring = np.ones((6, 8), bool)
  ring[2:4, 2:6] = False
  raw.add(
      "a",
      shape([[2, 2], [9, 2], [9, 12], [2, 12]], "polygon"),
      # From any corner to the opposite one.
      box(20, 9, 12, 3, "rectangle"),
      shape([[3, 3], [7, 3], [7, 8], [3, 8]], "oriented",
            "oriented_rectangle"),
      shape([[20, 12], [20, 5]], "circle", "circle"),
      shape([[5, 10], [12, 15]], "mask", "mask", mask=in_base64(ring)),
      shape([[1, 1]], "eye", "point"),
      shape([[1, 1], [4, 9]], "edge", "line"),
      {"label": "old", "points": [[0, 0], [4, 0], [4, 4], [0, 4]]})
  regions = dict(raw.regions())
  assert list(regions) == [
      "polygon", "rectangle", "oriented", "circle", "mask", "old"]
  np.testing.assert_array_equal(regions["polygon"], box_mask(2, 2, 9, 12))
  np.testing.assert_array_equal(regions["rectangle"], box_mask(12, 3, 20, 9))
  np.testing.assert_array_equal(regions["oriented"], box_mask(3, 3, 7, 8))
  np.testing.assert_array_equal(regions["old"], box_mask(0, 0, 4, 4))
  y_HW, x_HW = np.mgrid[:HEIGHT, :WIDTH] + 0.5
  distance_HW = np.hypot(x_HW - 20, y_HW - 12)
  assert regions["circle"][distance_HW < 6.3].all()
  assert not regions["circle"][distance_HW > 7.7].any()
  expected_HW = box_mask(5, 10, 13, 16)
  expected_HW[12:14, 7:11] = False
  np.testing.assert_array_equal(regions["mask"], expected_HW)


def test_a_group_is_one_region_of_each_label(raw):
  raw.add("a", box(0, 0, 4, 4, group=1), box(9, 0, 12, 4),
          box(20, 0, 24, 4, group=1), box(0, 9, 4, 12, "lid", group=1))
  (first, first_HW), (second, _), (third, _) = raw.regions()
  assert (first, second, third) == ("cup", "cup", "lid")
  both_HW = box_mask(0, 0, 4, 4) | box_mask(20, 0, 24, 4)
  np.testing.assert_array_equal(first_HW, both_HW)


def test_from_files_to_a_data_set(raw, capsys):
  raw.add("b/one", box(2, 2, 20, 20, "cup"), box(6, 6, 9, 9, "__ignore__"),
          box(0, 0, 32, 24, "table"), image="one.png")
  embedded = raw_files.gradient(HEIGHT, WIDTH)
  raw.add("two", box(1, 1, 5, 5, "bowl"), image="C:\\gone\\two.png",
          beside=False, imageData=in_base64(embedded))
  raw_files.save(raw.raw / "three.png", embedded)
  assert prepare_data.main(raw.argv(split="train", stuff="table")) == 0
  assert "1 images below" in capsys.readouterr().out
  out = raw.folder / "out"
  source = sources.make_source(NAME, "train", out)
  assert [tuple(category) for category in source.categories] == [
      (1, "bowl", True), (2, "cup", True), (3, "table", False)]
  examples = {example["image/filename"].decode(): example
              for example in raw_files.read_examples(NAME, "train", out)}
  assert sorted(examples) == ["b/one.png", "two.png"]
  # The image that lay in the JSON.
  stored = Image.open(io.BytesIO(examples["two.png"]["image"]))
  np.testing.assert_array_equal(np.asarray(stored), embedded)
  ids_HW = pixels.ids_from_rgb(examples["b/one.png"]["panoptic_image"])
  objects = examples["b/one.png"]["panoptic_objects"]
  labels = dict(zip(objects["id"].tolist(), objects["label"].tolist(),
                    strict=True))
  assert [labels.get(ids_HW[y, x]) for y, x in ((0, 0), (3, 3), (7, 7))] == [
      2, 1, None]
  # A second split takes the list of the first, and nothing else.
  (raw.raw / "two.json").unlink()
  assert prepare_data.main(raw.argv(split="test")) == 0
  raw.add("three", box(1, 1, 5, 5, "bolw"), image="three.png")
  message = raw_files.failure(raw.argv(split="validation"), capsys)
  assert "label: Unknown name 'bolw'. Did you mean 'bowl'?" in message


def test_images_lie_below_the_folder_of_images(raw):
  elsewhere = raw.folder / "photos"
  raw_files.save(elsewhere / "x.png", raw_files.gradient(HEIGHT, WIDTH))
  raw.add("a", box(2, 2, 20, 20), image="../photos/x.png", beside=False)
  assert "a.json: imagePath: '../photos/x.png' leads out of" in raw.message()
  [image] = raw.reader(images=elsewhere).read_images()
  assert image.source == elsewhere / "x.png"


@pytest.mark.parametrize(("broken", "expected"), [
    (shape([[1, 1], [2, 2]]), "points: 4 numbers; a polygon has an even"),
    (shape([[1, 1], [2, "2"], [3, 3]]),
     "points[1][1]: the text '2'; allowed: a number"),
    (shape([[1, 1], [2], [3, 3]]), "points[1]: a list; allowed: x and y"),
    (shape([[1, 1]], kind="circle"), "points: 1 of them; a circle has two"),
    (shape([[1, 1], [1e308, -1e308]], kind="circle"),
     "e+308 is no place in or near an image"),
    (box(-1e308, 1, 1e308, 9), "points: -1e+308 is no place in or near"),
    (shape([[1, 1]], kind="star"), "shape_type: the text 'star'; allowed: po"),
    (shape([[1, 1]], kind="mask"), "mask: "),
    (shape([[1, 1]], kind="mask", mask="a"), "mask: it is not text in base64"),
    (shape([[-1, 1]], kind="mask", mask=in_base64(np.ones((4, 4), bool))),
     "points[0]: [-1.0, 1.0]; a mask begins at a pixel"),
    (shape([[30, 1]], kind="mask", mask=in_base64(np.ones((4, 4), bool))),
     "mask: it reaches to row 5, column 34; the image has 24 and 32"),
    (shape([[1, 1]], label=5), "label: 5; allowed: a text"),
    ({"points": []}, "has no 'label'"),
])
def test_a_broken_shape_is_named(raw, broken, expected):
  raw.add("a", box(1, 1, 5, 5), broken)
  message = raw.message()
  assert "a.json: shapes[1]" in message
  assert expected in message


def test_a_broken_file_is_named(raw):
  raw.add("a", box(1, 1, 5, 5), imageHeight=25)
  assert "a.json: imageHeight x imageWidth is 25x32, but 24x32" in raw.message()
  raw.add("a", box(1, 1, 5, 5), image="b.png", beside=False)
  assert "b.png': there is no file" in raw.message()
  raw.add("a", image="b.png", beside=False, imageData="AAAA")
  assert "a.json: not an image" in raw.message()
  raw.add("a")
  raw.add("b")
  assert "b.png: its image" in raw.message()
  (raw.raw / "b.json").write_text("[]")
  assert "b.json: a list; allowed: an object" in raw.message()
  (raw.raw / "b.json").write_text("{}")
  assert "b.json: has no 'shapes'" in raw.message()


def kinds(*args):
  return [tuple(category) for category in polygons_labels.choose(*args)]


def test_the_order_of_labels_is_as_documented():
  names = {"cup", "wall", "bowl"}
  assert kinds(names, [], [], None) == [
      (1, "bowl", True), (2, "cup", True), (3, "wall", True)]
  assert kinds(names, [], ["wall"], None)[2] == (3, "wall", False)
  assert kinds(names, ["cup"], [], None) == [
      (1, "bowl", False), (2, "cup", True), (3, "wall", False)]
  # Both lists are the whole, whatever occurs.
  assert kinds(names, ["lid", "cup", "bowl"], ["wall"], None) == [
      (1, "lid", True), (2, "cup", True), (3, "bowl", True),
      (4, "wall", False)]
  existing = (Category(5, "wall", False), Category(4, "cup", True),
              Category(3, "bowl", True))
  assert polygons_labels.choose(names, ["cup"], [], existing) == existing


@pytest.mark.parametrize(("things", "stuff", "existing", "expected"), [
    (["cup"], ["cup"], None, "--stuff: 'cup' is in --things too"),
    (["cpu"], [], None, "--things: Unknown name 'cpu'. Did you mean 'cup'?"),
    (["cup"], ["floor"], None, "label: Unknown name 'wall'"),
    ([], ["cup"], (Category(1, "cup", True), Category(2, "wall", True)),
     "--stuff: 'cup' is a thing in the data set that is there"),
    ([], [], (Category(1, "cup", True),), "label: Unknown name 'wall'"),
    (["cup", "cup"], ["wall"], None, "The labels: categories"),
    (["cup", "lid "], ["wall"], None, "The labels: categories"),
])
def test_labels_that_do_not_fit(things, stuff, existing, expected):
  with pytest.raises(ConfigError, match=expected.replace("?", r"\?")):
    polygons_labels.choose({"cup", "wall"}, things, stuff, existing)
