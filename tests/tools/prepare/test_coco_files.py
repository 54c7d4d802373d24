"""The images and PNGs of panoptic files: found, checked, measured.

S segments
"""

import unicodedata

import numpy as np
import pytest

from tests.tools.prepare import raw_files
from tests.tools.prepare.raw_coco import NAME, RawCoco
from tools.prepare import panoptic


@pytest.fixture
def raw(tmp_path):
  return RawCoco(tmp_path)


def test_area_and_box_come_from_the_png(raw):
  values = [None, float("nan"), -5, "18", [], {}]
  for annotation in raw.data["annotations"]:
    for segment in annotation["segments_info"]:
      segment["area"] = values.pop()
      segment["bbox"] = segment["area"]
  assert raw.run() == 0
  for example in raw_files.read_examples(NAME, "train", raw.data_dir):
    objects = example["panoptic_objects"]
    np.testing.assert_array_equal(objects["area"], [18, 52])
    np.testing.assert_allclose(
        objects["bbox"], [[2 / 8, 3 / 10, 5 / 8, 9 / 10], [1 / 8, 0, 1, 1]],
        rtol=1e-6)


def test_extents_equal_those_of_a_loop_over_segments():
  rng = np.random.default_rng(0)
  for num_ids in (1, 2, 5):
    ids_HW = rng.integers(0, num_ids, (7, 9)).astype(np.int32)
    ids_S, extents_S5 = panoptic.measure(ids_HW)
    present = sorted(set(ids_HW.ravel().tolist()) - {0})
    assert ids_S.tolist() == present
    for number, extent in zip(present, extents_S5.tolist(), strict=True):
      y, x = np.nonzero(ids_HW == number)
      box = [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
      assert extent == [len(x), *box]


def test_an_image_cut_short_is_found_before_anything_is_written(raw, capsys):
  for number in (30, 10):
    path = raw.image(number)
    noise = np.random.default_rng(0).integers(0, 255, (8, 10, 3))
    raw_files.save(path, noise.astype(np.uint8))
    path.write_bytes(path.read_bytes()[:-60])
  message = raw.failure(capsys)
  assert "image 30 (30.jpg): the image is cut short" in message
  assert "image 10 (10.jpg): the image is cut short" in message


def test_a_panoptic_png_cut_short_is_named(raw, capsys):
  path = raw.panoptic(20)
  path.write_bytes(path.read_bytes()[:-30])
  assert "image 20 (20.jpg), panoptic PNG: " in raw.failure(capsys)


def test_files_outside_of_the_folders_need_a_flag(raw, capsys):
  outside = raw.folder / "secret.jpg"
  raw.image(10).rename(outside)
  image = raw.data["images"][1]
  for name in ("../secret.jpg", "a/../../secret.jpg", str(outside)):
    image["file_name"] = name
    message = raw.failure(capsys)
    assert "leads out of --images; add --allow_outside" in message
  assert raw.run("--allow_outside") == 0


def test_absolute_names_below_the_folder_are_fine(raw):
  image = raw.data["images"][1]
  image["file_name"] = str(raw.image(10))
  assert raw.run() == 0


@pytest.mark.parametrize("on_disk, listed", [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_in_the_other_spelling(raw, capsys, on_disk, listed):
  name = "Tür.jpg"
  raw.image(10).rename(
      raw.folder / "images" / unicodedata.normalize(on_disk, name))
  raw.data["images"][1]["file_name"] = unicodedata.normalize(listed, name)
  assert raw.run() == 0
  assert "--images: 1 files are there with their" in capsys.readouterr().out
