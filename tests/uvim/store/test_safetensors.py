"""Weights of other projects: files that are sound, damaged, or hostile."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from uvim.registry import ConfigError
from uvim.store import checkpoint

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
  return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def content(header, data=b"\0" * 4):
  """A file with this header, given as JSON's text or as what it says."""
  if not isinstance(header, bytes):
    header = json.dumps(header).encode()
  return struct.pack("<Q", len(header)) + header + data


SOUND = content({"a": entry()})


def load(tmp_path, data):
  path = tmp_path / "w.safetensors"
  path.write_bytes(data)
  return checkpoint.load_params(path)


def test_what_is_sound_comes_back(tmp_path):
  ids = KERNEL.astype(np.int64)
  data = safetensors_numpy.save({"block.0.weight": KERNEL, "ids": ids})
  params = load(tmp_path, data)["params"]
  np.testing.assert_array_equal(params["block.0.weight"], KERNEL)
  assert params["block.0.weight"].dtype == np.float32
  # Integers are no parameters of ours; who reads the names decides.
  assert params["ids"].dtype == np.int64


@pytest.mark.parametrize("name, dtype", [
    ("F16", np.float16), ("BF16", ml_dtypes.bfloat16)])
def test_half_precision_becomes_float32(tmp_path, name, dtype):
  half = (KERNEL / 3).astype(dtype)
  header = {"a": entry(name, (2, 3), (0, 12))}
  params = load(tmp_path, content(header, half.tobytes()))["params"]
  assert params["a"].dtype == np.float32
  np.testing.assert_array_equal(params["a"], half.astype(np.float32))


def test_slashes_make_folders(tmp_path):
  header = {"params/encoder/bias": entry(), "state/x": entry(offsets=(4, 8))}
  arrays = load(tmp_path, content(header, b"\0" * 8))
  assert arrays["params"]["encoder"]["bias"].shape == (1,)
  assert arrays["state"]["x"].shape == (1,)


TWICE = b'{"a": %s, "a": %s}' % ((json.dumps(entry()).encode(),) * 2)


@pytest.mark.parametrize("data, words", [
    (b"", "header too small"),
    (b"abc", "header too small"),
    (struct.pack("<Q", 10**6) + b"{}", "invalid header length"),
    (struct.pack("<Q", 2**63) + b"{}", "header too large"),
    (content(b"\xff\xfe"), "UTF-8"),
    (content(b"[1]"), "invalid JSON"),
    (content(b"[" * 100_000), "invalid JSON"),
    (content({}, b""), "holds no array"),
    (SOUND[:-1], "not fully covered"),
    (SOUND + b"more", "not fully covered"),
    (content({"a": entry(shape=[10**15], offsets=(0, 4 * 10**15))}),
     "not fully covered"),
    (content({"a": entry(shape=[2**40, 2**40])}), "overflow"),
    (content({"a": entry(shape=[-1])}), "invalid value"),
    (content({"a": entry(), "b": entry(offsets=(2, 6))}), "invalid offset"),
    (content({"a\0b": entry()}), "cannot be printed"),
    (content({"a\nb": entry()}), "cannot be printed"),
    (content({"": entry()}), "cannot be printed"),
    (content(TWICE), "'a' occurs twice"),
    (content({"a": entry(), "a/b": entry(offsets=(4, 8))}, b"\0" * 8),
     "lies below|array and a folder"),
    (content({"a": entry("F8_E4M3", [4])}), "F8_E4M3; allowed: F64, F32"),
    (content({"a": entry()}, np.float32([np.nan]).tobytes()),
     "1 of 1 values that are NaN"),
    (b"<html>Log in first</html>", "header"),
])
def test_all_else_is_refused_in_one_line(tmp_path, data, words):
  with pytest.raises(ConfigError, match=words) as caught:
    load(tmp_path, data)
  message = str(caught.value)
  assert "w.safetensors" in message
  assert message.isprintable()


@pytest.mark.parametrize("name", ("w.pth", "W.PT", "pytorch_model.bin",
                                  "w.ckpt", "w.pkl"))
def test_pickles_are_never_opened(tmp_path, name):
  path = tmp_path / name
  path.write_bytes(b"\x80\x04.")
  with pytest.raises(ConfigError, match="a pickle.*Take the .safetensors"):
    checkpoint.load_params(path)


def test_a_folder_with_such_a_file_is_told(tmp_path):
  (tmp_path / "model.safetensors").write_bytes(SOUND)
  with pytest.raises(ConfigError, match="mean the file model.safetensors"):
    checkpoint.load_params(tmp_path)


def test_a_folder_or_nothing_is_one_line(tmp_path):
  (tmp_path / "a.safetensors").mkdir()
  for name in "a.safetensors", "b.safetensors":
    with pytest.raises(ConfigError, match="holds no checkpoint|No checkpoint"):
      checkpoint.load_params(tmp_path / name)
