"""Files of depth maps, of every format.

H W pixels of an image
"""

import numpy as np
import pytest

from tests.tools.prepare import raw_files
from tools.prepare import depth_formats
from uvim.registry import ConfigError

METRES_HW = np.linspace(0.5, 4, 54).reshape(6, 9).astype(np.float32)
MILLIMETRES_HW = (1000 * METRES_HW).astype(np.uint16)


def read_back(path, numbers):
  raw_files.save(path, numbers)
  return depth_formats.read_numbers(path, "a.jpg")


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".pfm", ".npy", ".npz"])
def test_floats(tmp_path, suffix):
  found_HW = read_back(tmp_path / f"a{suffix}", METRES_HW)
  assert found_HW.dtype == np.float32
  # Pillow's own writer of .pfm scales the numbers by a rounded 1.
  np.testing.assert_allclose(found_HW, METRES_HW, rtol=1e-6)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".npy", ".npz"])
def test_whole_numbers(tmp_path, suffix):
  found_HW = read_back(tmp_path / f"a{suffix}", MILLIMETRES_HW)
  assert found_HW.dtype == np.uint16
  np.testing.assert_array_equal(found_HW, MILLIMETRES_HW)


@pytest.mark.parametrize("order", ["<", ">"])
def test_pfm_is_stored_from_the_lowest_row(tmp_path, order):
  scale = {"<": -1, ">": 1}[order]
  header = f"Pf\n9 6\n{scale}.0\n".encode()
  path = tmp_path / "a.pfm"
  path.write_bytes(header + METRES_HW[::-1].astype(f"{order}f4").tobytes())
  found_HW = depth_formats.read_numbers(path, "a.jpg")
  np.testing.assert_array_equal(found_HW, METRES_HW)


def test_a_npz_has_one_array(tmp_path):
  path = tmp_path / "a.npz"
  np.savez(path, depth=METRES_HW, mask=METRES_HW > 2)
  with pytest.raises(ConfigError, match="a.jpg: 'a.npz' .*depth, mask; allow"):
    depth_formats.read_numbers(path, "a.jpg")
  np.savez(path, depth=np.array([{}], object))
  with pytest.raises(ConfigError, match="'a.npz' cannot be read") as error:
    depth_formats.read_numbers(path, "a.jpg")
  assert "\n" not in str(error.value)


def save_exr(path, **channels):
  openexr = pytest.importorskip("OpenEXR")
  header = {"compression": openexr.ZIP_COMPRESSION,
            "type": openexr.scanlineimage}
  with openexr.File(header, channels) as file:
    file.write(str(path))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("names", [("Y",), ("R", "Z")])
def test_exr(tmp_path, dtype, names):
  path = tmp_path / "a.exr"
  channels = dict.fromkeys(names, np.zeros((6, 9), dtype))
  channels[names[-1]] = METRES_HW.astype(dtype)
  save_exr(path, **channels)
  found_HW = depth_formats.read_numbers(path, "a.jpg")
  assert found_HW.dtype == dtype
  np.testing.assert_array_equal(found_HW, METRES_HW.astype(dtype))


def test_exr_without_a_channel_of_depth(tmp_path):
  path = tmp_path / "a.exr"
  save_exr(path, R=METRES_HW, G=METRES_HW)
  with pytest.raises(ConfigError, match="the channels .* allowed: one, or"):
    depth_formats.read_numbers(path, "a.jpg")


def test_damaged_exr(tmp_path):
  path = tmp_path / "a.exr"
  save_exr(path, Z=METRES_HW)
  path.write_bytes(path.read_bytes()[:-40])
  with pytest.raises(ConfigError, match="a.jpg: 'a.exr' cannot be read"):
    depth_formats.read_numbers(path, "a.jpg")
