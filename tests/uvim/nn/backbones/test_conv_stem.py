"""The stem of convolutions, against plain loops, and what it refuses."""

import jax
import numpy as np
import pytest

from uvim.nn.backbones.conv_stem import ConvStem
from uvim.registry import ConfigError

SIZES = dict(input_size=(8, 12), patch_size=(4, 4), depth=0, width=8,
             mlp_dim=8, num_heads=2)
WHERE = "config.model.backbone = 'conv_stem'"


def convolve(image_HWC, kernel):
  """3 × 3, stride 2, a pixel of zeros on each side."""
  height, width, _ = image_HWC.shape
  padded = np.pad(image_HWC, ((1, 1), (1, 1), (0, 0)))
  out = np.zeros((height // 2, width // 2, kernel.shape[-1]))
  for row in range(height // 2):
    for column in range(width // 2):
      window = padded[2 * row:2 * row + 3, 2 * column:2 * column + 3]
      out[row, column] = np.einsum("ijc,ijcd->d", window, kernel)
  return out


def layer_norm(x, params):
  mean = x.mean(-1, keepdims=True)
  deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return (x - mean) / deviation * params["scale"] + params["bias"]


def test_tokens_equal_those_of_plain_loops():
  network = ConvStem(**SIZES)
  rng = np.random.default_rng(0)
  image = rng.uniform(-1, 1, (1, 8, 12, 3)).astype(np.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), image)
  variables = jax.tree.map(
      lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)
  got = jax.jit(network.apply)(variables, image)

  params = variables["params"]
  stem = params["EmbedPatches"]
  # Half of the width, then all of it.
  assert stem["conv_0"]["kernel"].shape == (3, 3, 3, 4)
  assert stem["conv_1"]["kernel"].shape == (3, 3, 4, 8)
  x = image[0].astype(np.float64)
  for i in range(2):
    x = convolve(x, stem[f"conv_{i}"]["kernel"])
    x = np.maximum(layer_norm(x, stem[f"norm_{i}"]), 0)
  x_ND = x.reshape(6, 8) @ stem["project"]["kernel"] + stem["project"]["bias"]
  x_ND = x_ND + params["pos_embedding_encoder"][0]
  want = layer_norm(x_ND, params["encoder"]["encoder_norm"])
  np.testing.assert_allclose(got[0], want, atol=1e-4)


@pytest.mark.parametrize("side, widths", [
    (2, [8]), (4, [4, 8]), (8, [4, 8, 16]), (16, [24, 48, 96, 192])])
def test_as_many_convolutions_as_the_patch_has_halvings(side, widths):
  changes = dict(input_size=(32, 32), patch_size=(side, side), width=widths[-1])
  network = ConvStem(**(SIZES | changes))
  network.check(WHERE)
  image = np.zeros((1, 32, 32, 3), np.float32)
  params = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
  stem = params["EmbedPatches"]
  found = [stem[f"conv_{i}"]["kernel"].shape[-1] for i in range(len(widths))]
  assert found == widths
  assert f"conv_{len(widths)}" not in stem


@pytest.mark.parametrize("changes, message", [
    (dict(patch_size=(14, 14)), "patches of 14 × 14 pixels; it needs squares"),
    (dict(patch_size=(8, 4)), "patches of 8 × 4 pixels; it needs squares"),
    (dict(patch_size=(1, 1)), "patches of 1 × 1 pixels; it needs squares"),
    (dict(width=12), "width 12; .* it needs a multiple of 8"),
])
def test_sizes_that_it_cannot_have(changes, message):
  network = ConvStem(**(SIZES | changes))
  with pytest.raises(ConfigError, match=f"^{WHERE} and {message}"):
    network.check(WHERE)
