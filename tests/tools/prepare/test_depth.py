"""Depth maps that cannot be metres are refused; others are described.

H W pixels of an image
"""

import numpy as np
import pytest

from tests.tools.prepare import raw_files
from tools.prepare import __main__ as prepare_data
from tools.prepare import depth_unit

H, W = 6, 9
NAME = "mine"
# Metres of a small room, no two equal.
ROOM_HW = np.linspace(0.5, 4, H * W).reshape(H, W).astype(np.float32)
MILLIMETRES_HW = (1000 * ROOM_HW).astype(np.uint16)
IS_FAR_HW = ROOM_HW > 3


class Raw:
  """A folder of images with depth maps."""

  def __init__(self, folder):
    self.folder = folder / "raw"
    self.data_dir = folder / "out"

  def add(self, name, depth, suffix=".npy"):
    raw_files.save(self.folder / f"{name}_rgb.png",
                   raw_files.plain(90, *depth.shape[:2]))
    raw_files.save(self.folder / f"{name}_depth{suffix}", depth)

  def argv(self, **options):
    return raw_files.arguments(
        "rgbd", self.data_dir, images=self.folder, depth=self.folder,
        name=NAME, split="train", **options)

  def failure(self, capsys, **options):
    message = raw_files.failure(self.argv(**options), capsys)
    assert not self.data_dir.exists()
    return message

  def prepare(self, capsys, **options):
    """(depth of each image by its name, what was printed)."""
    capsys.readouterr()
    assert prepare_data.main(self.argv(**options)) == 0
    examples = raw_files.read_examples(NAME, "train", self.data_dir)
    depths = {}
    for name, example in raw_files.by_file_name(examples).items():
      depths[name.removesuffix("_rgb.png")] = example["depth"][..., 0]
    return depths, capsys.readouterr().out


@pytest.fixture
def raw(tmp_path):
  return Raw(tmp_path)


@pytest.mark.parametrize("depth_HW, options, expected", [
    (1000 * ROOM_HW, {}, "2250 m; allowed: 0.01 to 50. Its numbers, about 2250,"
     " look like mm: give --unit mm"),
    (100 * ROOM_HW, {}, "look like cm: give --unit cm"),
    (ROOM_HW, {"unit": "mm"}, "look like m: give --unit m"),
    (ROOM_HW / 1000, {}, "about 0.00225, are in no usual unit"),
    (MILLIMETRES_HW, {"unit": "m"}, "give --unit mm"),
    (MILLIMETRES_HW, {"depth_scale": 1}, "give --unit mm"),
    (MILLIMETRES_HW, {"depth_scale": 1e6}, "give --unit mm"),
])
def test_another_unit_is_refused(raw, capsys, depth_HW, options, expected):
  good_HW = np.full((H, W), 2, np.float32)
  if "unit" in options:
    good_HW *= depth_unit.NAMES[options["unit"]]
  raw.add("good", good_HW)
  raw.add("bad", depth_HW)
  message = raw.failure(capsys, **options)
  assert message.splitlines()[-1].startswith("error: --depth: ")
  assert "'bad_rgb.png'" in message
  assert expected in message


def test_wide_scenes_need_a_word(raw, capsys):
  raw.add("a", 40 * ROOM_HW)
  raw.add("b", 20 * ROOM_HW)
  assert "--max_depth METRES" in raw.failure(capsys)
  depths, out = raw.prepare(capsys, max_depth=120)
  expected_HW = np.where(40 * ROOM_HW <= 120, 40 * ROOM_HW, 0)
  np.testing.assert_array_equal(depths["a"], expected_HW)
  assert "2 of 6x9 pixels; 10 to 117.7 m, median 56.93 m" in out


@pytest.mark.parametrize("dtype, suffix", [
    (np.uint16, ".png"), (np.uint16, ".npy"), (np.int16, ".npy")])
def test_the_largest_number_of_the_type_is_no_depth(
    raw, capsys, dtype, suffix):
  top = np.iinfo(dtype).max
  raw.add("a", np.where(IS_FAR_HW, top, MILLIMETRES_HW).astype(dtype), suffix)
  depths, out = raw.prepare(capsys, unit="mm")
  expected_HW = np.where(IS_FAR_HW, 0, MILLIMETRES_HW / 1000)
  np.testing.assert_allclose(depths["a"], expected_HW, rtol=1e-6)
  share = IS_FAR_HW.mean()
  assert (f"{share:.1%} of the pixels without measurement "
          f"({share:.1%} hold the largest number") in out


@pytest.mark.parametrize("mark", [65.535, 1e10])
@pytest.mark.parametrize("where_HW", [IS_FAR_HW, ROOM_HW > 1])
def test_a_mark_far_from_all_depths_is_refused(raw, capsys, mark, where_HW):
  raw.add("a", np.where(where_HW, mark, ROOM_HW))
  message = raw.failure(capsys)
  assert message.splitlines()[-1].startswith("error: --depth: ")
  assert "'a_rgb.png' has" in message and "--max_depth" in message
  depths, _ = raw.prepare(capsys, max_depth=20)
  np.testing.assert_array_equal(depths["a"], np.where(where_HW, 0, ROOM_HW))


def test_one_wall_and_one_far_pixel_are_no_marks(raw, capsys):
  raw.add("wall", np.full((H, W), 2, np.float32))
  one_far_HW = ROOM_HW.copy()
  one_far_HW[0, 0] = 30
  raw.add("window", one_far_HW)
  depths, _ = raw.prepare(capsys)
  np.testing.assert_array_equal(depths["window"], one_far_HW)


def test_what_is_not_measured(raw, capsys):
  holes_HW = ROOM_HW.copy()
  holes_HW[0, :4] = [np.nan, np.inf, -np.inf, -1]
  raw.add("holes", holes_HW)
  raw.add("none", np.zeros((H, W), np.uint16), ".png")
  depths, out = raw.prepare(capsys)
  holes_HW[0, :4] = 0
  np.testing.assert_array_equal(depths["holes"], holes_HW)
  assert "Without a valid pixel: none_rgb.png" in out
  assert f"{58 / 108:.1%} of the pixels without measurement" in out


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_a_split_without_depth_is_refused(raw, capsys, value):
  raw.add("a", np.full((H, W), value, np.float32))
  assert "no pixel of the split 'train' has a depth" in raw.failure(capsys)


@pytest.mark.parametrize("option, value, expected", [
    ("depth_scale", "0", "'0'; allowed: a number above 0"),
    ("depth_scale", "inf", "'inf'; allowed: a number above 0"),
    ("max_depth", "-1", "-1.0; allowed: above 0"),
    ("max_depth", "nan", "nan; allowed: above 0"),
    ("unit", "km", "'km'; allowed: mm, cm, m, or how many steps"),
    ("unit", "nan", "'nan'; allowed: mm, cm, m, or how many steps"),
])
def test_options_out_of_range(raw, capsys, option, value, expected):
  raw.add("a", ROOM_HW)
  argv = [*raw.argv(), f"--{option}={value}"]
  assert f"error: --{option}: {expected}" in raw_files.failure(argv, capsys)


@pytest.mark.parametrize("unit", ["mm", "5000"])
def test_a_stated_unit_is_that_of_all_numbers(raw, capsys, unit):
  steps = depth_unit.NAMES.get(unit, 5000)
  raw.add("floats", steps * ROOM_HW)
  raw.add("whole", np.round(steps * ROOM_HW).astype(np.int32))
  depths, _ = raw.prepare(capsys, unit=unit)
  for depth_HW in depths.values():
    np.testing.assert_allclose(depth_HW, ROOM_HW, atol=1 / steps)


def test_whole_numbers_in_an_array_need_a_unit(raw, capsys):
  raw.add("a", MILLIMETRES_HW)
  message = raw.failure(capsys)
  assert "'a_depth.npy' holds whole numbers (uint16)" in message
  assert "give --unit mm" in message


# ── What looks drawn for the eye, or like the inverse ────────────────────────

Y_HW, X_HW = np.mgrid[:96, :128] / 64
# Inverse depth of three flat surfaces: a floor and two walls.
INVERSE_HW = np.maximum.reduce(
    [0.2 + 0.5 * Y_HW, 0.7 - 0.2 * X_HW, 0.3 + 0.15 * X_HW]).astype(np.float32)


def test_inverse_depth_is_refused_and_depth_is_not(raw, capsys):
  raw.add("a", INVERSE_HW)
  raw.add("b", INVERSE_HW[:, ::-1])
  message = raw.failure(capsys)
  assert "look like disparity or inverse depth" in message
  raw.prepare(capsys, max_depth=20)


def test_depth_of_flat_surfaces_passes(raw, capsys):
  raw.add("a", 1 / INVERSE_HW)
  raw.prepare(capsys)


@pytest.mark.parametrize("depth, suffix, expected", [
    (ROOM_HW / ROOM_HW.max(), ".npy", "the floats end at 1 exactly"),
    (np.linspace(20, 250, H * W).reshape(H, W).astype(np.uint16), ".png",
     "no number is above 255"),
])
def test_a_drawing_of_depth_is_refused(raw, capsys, depth, suffix, expected):
  raw.add("a", depth, suffix)
  message = raw.failure(capsys)
  assert "look like depth drawn for the eye" in message and expected in message


def test_a_map_stretched_to_16_bits_is_refused(raw, capsys):
  stretched = np.linspace(0, 65535, 240).reshape(12, 20).astype(np.uint16)
  raw.add("a", stretched, ".png")
  assert "the numbers fill all 16 bits" in raw.failure(capsys)


def test_a_color_map_is_refused(raw, capsys):
  raw.add("a", ROOM_HW)
  raw_files.save(raw.folder / "b_rgb.png", raw_files.plain())
  raw_files.save(raw.folder / "b_depth.png", raw_files.gradient(6, 9))
  message = raw.failure(capsys)
  assert "'b_depth.png': its mode is RGB, of 8 bits" in message
  assert "it looks like depth drawn in colors" in message


@pytest.mark.parametrize("dtype, expected", [
    (np.uint8, "8 bits"), (bool, "of bool"), (complex, "of complex128")])
def test_numbers_that_are_no_depth(raw, capsys, dtype, expected):
  raw.add("a", ROOM_HW.astype(dtype))
  assert expected in raw.failure(capsys)


def damaged_npy():
  whole = np.lib.format.magic(1, 0)
  header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }\n"
  huge = header % b"1000000, 1000000"
  objects = header.replace(b"<f4", b"|O") % b"6, 9"
  for text in (huge, objects):
    yield whole + len(text).to_bytes(2, "little") + text
  yield from (b"", b"no array", whole, b"\x80\x04N.", b"PK\x03\x04")


@pytest.mark.parametrize("content", damaged_npy())
def test_a_damaged_npy_is_named(raw, capsys, content):
  raw.add("a", ROOM_HW)
  (raw.folder / "a_depth.npy").write_bytes(content)
  message = raw.failure(capsys)
  assert "a_rgb.png: 'a_depth.npy' cannot be read: it is not a" in message
  assert "pickle" not in message
