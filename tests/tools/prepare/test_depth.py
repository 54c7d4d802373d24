"""Depth maps that cannot be metres are refused; others are described.

H W pixels of an image
"""

import numpy as np
import pytest

from tests.tools.prepare import raw_files
from tools.prepare import __main__ as prepare_data

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
    (1000 * ROOM_HW, {}, "is 2250 m; allowed: 0.01 to 50. Floats must be"),
    (ROOM_HW / 1000, {}, "is 0.00225 m; allowed: 0.01 to 50. Floats must be"),
    (MILLIMETRES_HW, {"depth_scale": 1}, "1000 for millimetres"),
    (MILLIMETRES_HW, {"depth_scale": 1e6}, "1000 for millimetres"),
])
def test_another_unit_is_refused(raw, capsys, depth_HW, options, expected):
  raw.add("good", np.full((H, W), 2, np.float32))
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
  assert "Depth of train: 10 to 117.7 m, median 56.93 m" in out


@pytest.mark.parametrize("dtype, suffix", [
    (np.uint16, ".png"), (np.uint16, ".npy"), (np.int16, ".npy")])
def test_the_largest_number_of_the_type_is_no_depth(
    raw, capsys, dtype, suffix):
  top = np.iinfo(dtype).max
  raw.add("a", np.where(IS_FAR_HW, top, MILLIMETRES_HW).astype(dtype), suffix)
  depths, out = raw.prepare(capsys)
  expected_HW = np.where(IS_FAR_HW, 0, MILLIMETRES_HW / 1000)
  np.testing.assert_allclose(depths["a"], expected_HW, rtol=1e-6)
  share = IS_FAR_HW.mean()
  assert f"{1 - share:.1%} of the pixels are valid; {share:.1%} have" in out


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
  assert f"{50 / 108:.1%} of the pixels are valid" in out


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_a_split_without_depth_is_refused(raw, capsys, value):
  raw.add("a", np.full((H, W), value, np.float32))
  assert "no pixel of the split 'train' has a depth" in raw.failure(capsys)


@pytest.mark.parametrize("option", ["depth_scale", "max_depth"])
@pytest.mark.parametrize("value", ["0", "-1", "nan"])
def test_options_out_of_range(raw, capsys, option, value):
  raw.add("a", ROOM_HW)
  argv = [*raw.argv(), f"--{option}={value}"]
  message = raw_files.failure(argv, capsys)
  assert f"--{option}: " in message and "allowed: above 0" in message


def test_an_infinite_scale(raw, capsys):
  raw.add("a", MILLIMETRES_HW)
  assert "--depth_scale: inf" in raw.failure(capsys, depth_scale="inf")


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
