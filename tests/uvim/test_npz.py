"""Files of parameters that are damaged, or not what they seem."""

import io
import zipfile

import numpy as np
import pytest

from uvim import files
from uvim.registry import ConfigError

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)


def write(path, **arrays):
  names = {name.replace("_", "/"): array for name, array in arrays.items()}
  np.savez(path, **names)


def test_what_is_sound_comes_back(tmp_path):
  write(tmp_path / "a.npz", params_a=KERNEL, state_counts=np.arange(3))
  arrays = files.load_npz(tmp_path / "a.npz")
  np.testing.assert_array_equal(arrays["params"]["a"], KERNEL)
  np.testing.assert_array_equal(arrays["state"]["counts"], np.arange(3))


@pytest.mark.parametrize("array, words", [
    (np.full(4, np.nan, np.float32), "4 of 4 values that are NaN"),
    (np.float32([1, np.inf]), "1 of 2 values that are NaN or infinite"),
    (np.array(["a"]), "holds <U1; allowed: real numbers"),
    (np.ones(2, complex), "complex128"),
    (np.array([{}], object), "it holds Python objects")])
def test_anything_but_finite_numbers_is_refused(tmp_path, array, words):
  write(tmp_path / "a.npz", params_a=array)
  with pytest.raises(ConfigError, match=words) as caught:
    files.load_npz(tmp_path / "a.npz")
  assert "pickle" not in str(caught.value)
  assert "\n" not in str(caught.value)


def test_a_small_file_that_would_fill_the_memory_is_refused(tmp_path):
  zeros = np.zeros(1 << 25, np.float32)
  np.savez_compressed(tmp_path / "a.npz", **{"params/a": zeros})
  assert (tmp_path / "a.npz").stat().st_size < 1 << 20
  with pytest.raises(ConfigError, match="bytes unpack to 134,"):
    files.load_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("header", (
    b"", b"\x93NUMPY\x01\x00\xff\xff{",
    b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((",
    b"\x93NUMPY\x09\x00", b"no array"))
def test_a_damaged_array_is_one_line(tmp_path, header):
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    archive.writestr("params/a.npy", header)
  (tmp_path / "a.npz").write_bytes(buffer.getvalue())
  with pytest.raises(ConfigError, match="a.npz") as caught:
    files.load_npz(tmp_path / "a.npz")
  assert "\n" not in str(caught.value)
