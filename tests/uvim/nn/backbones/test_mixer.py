"""The Mixer, against its formula, and what it refuses."""

import math

import jax
import numpy as np
import pytest

from uvim.nn.backbones.base import Style
from uvim.nn.backbones.mixer import Mixer
from uvim.registry import ConfigError

# Four patches of width 6; 2 hidden units for the tokens, 16 for the channels.
SIZES = dict(input_size=(8, 8), patch_size=(4, 4), depth=1, width=6,
             mlp_dim=16, num_heads=1, style=Style(gelu="erf"))
WHERE = "config.model.backbone = 'mixer'"

erf = np.vectorize(math.erf)


def layer_norm(x, params):
  mean = x.mean(-1, keepdims=True)
  deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return (x - mean) / deviation * params["scale"] + params["bias"]


def mlp(x, params):
  first, second = params["Dense_0"], params["Dense_1"]
  hidden = x @ first["kernel"] + first["bias"]
  hidden = hidden * (1 + erf(hidden / math.sqrt(2))) / 2
  return hidden @ second["kernel"] + second["bias"]


def make_variables(network, image):
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(network.init, jax.random.key(0), image)
  return jax.tree.map(
      lambda x: rng.normal(0, 0.5, x.shape).astype(x.dtype), shapes)


def test_a_block_equals_its_formula():
  network = Mixer(**SIZES)
  rng = np.random.default_rng(1)
  image = rng.uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
  variables = make_variables(network, image)
  params = variables["params"]
  patches = image[0].reshape(2, 4, 2, 4, 3).transpose(0, 2, 1, 3, 4)
  embed = params["EmbedPatches"]
  kernel = embed["kernel"].reshape(48, 6)
  x_ND = patches.reshape(4, 48) @ kernel + embed["bias"]
  block = params["encoder"]["encoderblock_0"]
  assert block["token_mixing"]["Dense_0"]["kernel"].shape == (4, 2)
  assert block["channel_mixing"]["Dense_0"]["kernel"].shape == (6, 16)
  normed_DN = layer_norm(x_ND, block["token_norm"]).T
  x_ND = x_ND + mlp(normed_DN, block["token_mixing"]).T
  normed_ND = layer_norm(x_ND, block["channel_norm"])
  x_ND = x_ND + mlp(normed_ND, block["channel_mixing"])
  want = layer_norm(x_ND, params["encoder"]["encoder_norm"])
  got = jax.jit(network.apply)(variables, image)
  np.testing.assert_allclose(got[0], want, atol=1e-5)


def test_it_knows_places_without_a_position_embedding():
  network = Mixer(**SIZES)
  image = np.random.default_rng(1).uniform(-1, 1, (1, 8, 8, 3))
  variables = make_variables(network, image)
  assert set(variables["params"]) == {"EmbedPatches", "encoder"}
  before = np.asarray(jax.jit(network.apply)(variables, image))
  # The upper two patches change places.
  swapped = np.roll(image[:, :4], 4, axis=2)
  image = np.concatenate([swapped, image[:, 4:]], axis=1)
  after = np.asarray(jax.jit(network.apply)(variables, image))
  assert np.abs(after[:, [1, 0, 2, 3]] - before).max() > 1e-2


@pytest.mark.parametrize("changes, message", [
    (dict(style=Style(num_prefix=1)), "a family whose network has a class"),
    (dict(style=Style(pre_norm=True)), "a family whose network has a class"),
    (dict(mlp_dim=7), "mlp_dim 7; it needs at least 8"),
])
def test_what_it_cannot_have(changes, message):
  network = Mixer(**(SIZES | changes))
  with pytest.raises(ConfigError, match=f"^{WHERE} and {message}"):
    network.check(WHERE)
