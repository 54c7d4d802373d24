"""Files of parameters that are damaged, or not what they seem."""

import io
import zipfile

import numpy as np
import pytest

from uvim import files, tree
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


@pytest.mark.parametrize("prefix", ["", "params/", "opt/target/"])
def test_shapes_are_known_without_the_data(tmp_path, prefix):
  np.savez(tmp_path / "a.npz", **{
      f"{prefix}a": KERNEL, f"{prefix}b/c": np.zeros((), np.float32),
      "state/counts": np.arange(3)})
  known = files.npz_shapes(tmp_path / "a.npz")
  loaded = tree.flatten(files.load_npz(tmp_path / "a.npz"))
  assert known == {name: array.shape for name, array in loaded.items()}


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_has_no_shapes(tmp_path, content):
  (tmp_path / "a.npz").write_bytes(content)
  assert files.npz_shapes(tmp_path / "a.npz") is None
  assert files.npz_shapes(tmp_path / "absent.npz") is None
  archive_of(tmp_path / "b.npz", ("params/a.npy", content))
  assert files.npz_shapes(tmp_path / "b.npz") is None


@pytest.mark.parametrize("array, words", [
    (np.full(4, np.nan, np.float32), "4 of 4 values that are NaN"),
    (np.float32([1, np.inf]), "1 of 2 values that are NaN or infinite"),
    (np.array(["a"]), "holds <U1; allowed: real numbers"),
    (np.ones(2, complex), "complex128"),
    (np.ones(2, int), "holds int64; parameters are floating-point"),
    (np.ones(2, bool), "holds bool; parameters are floating-point"),
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


def archive_of(path, *members):
  """A .npz with these (name, bytes), which np.savez might not write."""
  with zipfile.ZipFile(path, "w") as archive:
    for name, content in members:
      archive.writestr(name, content)


def npy_bytes(array):
  buffer = io.BytesIO()
  np.save(buffer, array)
  return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("first, second, words", [
    ("params/a.npy", "params/a.npy", "it holds 2 arrays 'params/a'"),
    ("params/a.npy", "params/a", "it holds 2 arrays 'params/a'"),
    ("params/a.npy", "params/a/b.npy", "is an array itself"),
    ("params/a.npy", "readme.txt", "readme.txt is no array")])
def test_names_that_contradict_each_other_are_refused(
    tmp_path, first, second, words):
  content = npy_bytes(KERNEL)
  other = b"text" if second.endswith(".txt") else content
  archive_of(tmp_path / "a.npz", (first, content), (second, other))
  with pytest.raises(ConfigError, match=f"a.npz: .*{words}") as caught:
    files.load_npz(tmp_path / "a.npz")
  assert "\n" not in str(caught.value)


def test_an_empty_file_holds_no_array(tmp_path):
  archive_of(tmp_path / "a.npz")
  with pytest.raises(ConfigError, match="it holds no array"):
    files.load_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("text, words", [
    (b"{" + b" " * 20_000 + b"}", "a header is too long"),
    (b"__import__('os').remove('a.npz')", "a header is damaged")])
def test_an_odd_header_is_not_advised_to_be_trusted(tmp_path, text, words):
  length = len(text).to_bytes(2, "little")
  header = b"\x93NUMPY\x01\x00" + length + text
  archive_of(tmp_path / "a.npz", ("params/a.npy", header))
  with pytest.raises(ConfigError, match=words):
    files.load_npz(tmp_path / "a.npz")
  assert (tmp_path / "a.npz").exists()
