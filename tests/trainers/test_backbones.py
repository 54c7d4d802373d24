"""Stage II trains with every network that can read its image."""

import jax
import numpy as np
import pytest

from tests.trainers import tiny
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim import tree
from uvim.nn.backbones import BACKBONES
from uvim.registry import ConfigError

# No loss depends on them, so rounding alone moves them: a softmax does not see
# what is added to all keys, nor a layer norm what is added to all channels.
INVISIBLE = ("key/bias", "token_mixing/Dense_1/bias")
ENCODER = dict(
    family="siglip", variant="S/8", depth=1, width=16, mlp_dim=8, num_heads=2,
    input_size=(16, 24), frozen=False)
# The parameters of which a backbone is known.
SIGNS = {
    "vit": "image_encoder/EmbedPatches/kernel",
    "conv_stem": "image_encoder/EmbedPatches/conv_0/kernel",
    "mixer": "image_encoder/encoder/encoderblock_0/token_mixing/Dense_0/kernel",
}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
  """The path of a stage I checkpoint."""
  path = tmp_path_factory.mktemp("oracle") / "oracle.npz"
  tiny.save_stage_i(VqvaeFamily(tiny.stage_i_config()), path)
  return path


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "vit"])
def test_steps_agree_on_one_device_and_on_eight(oracle, name):
  config = tiny.stage_ii_config(
      oracle, {"backbone": name}, optax={"dtype_momentum": "float32"})
  family = LmFamily(config)
  want_state, want_logs = tiny.run(family, mesh=[("data", 1)])
  got_state, got_logs = tiny.run(family)
  want_losses = [float(log["loss"]) for log in want_logs]
  got_losses = [float(log["loss"]) for log in got_logs]
  # It learns, and the same on all.
  assert want_losses[0] != want_losses[1]
  np.testing.assert_allclose(got_losses, want_losses, rtol=1e-5)
  want = tree.flatten(want_state.params)
  for path, value in tree.flatten(got_state.params).items():
    if not path.endswith(INVISIBLE):
      np.testing.assert_allclose(
          value, want[path], rtol=1e-3, atol=1e-4, err_msg=path)


def test_a_patch_that_the_stem_cannot_have_is_named(oracle):
  config = tiny.stage_ii_config(
      oracle, {"backbone": "conv_stem", "patches": {"size": (16, 8)}})
  with pytest.raises(ConfigError, match="backbone = 'conv_stem' and patches"):
    LmFamily(config)


@pytest.mark.parametrize("name", BACKBONES)
def test_an_image_encoder_may_be_any_of_them(name):
  block = ENCODER | {"backbone": name}
  family = VqvaeFamily(tiny.stage_i_config({"image_encoder": block}))
  params, _ = jax.eval_shape(family.init, jax.random.key(0))
  assert SIGNS[name] in tree.flatten(params)


@pytest.mark.parametrize("changes, message", [
    (dict(backbone="conv_stem", variant="S/14", input_size=(14, 28)),
     "'conv_stem' and patches of 14 × 14 pixels"),
    (dict(backbone="mixer", family="dinov2"), "'mixer' and a family whose"),
])
def test_an_image_encoder_that_cannot_be_is_named(changes, message):
  with pytest.raises(
      ConfigError, match=f"model.image_encoder.backbone = {message}"):
    VqvaeFamily(tiny.stage_i_config({"image_encoder": ENCODER | changes}))


def test_an_unknown_backbone_is_named(oracle):
  with pytest.raises(ConfigError, match="backbone = 'swin'.*vit, conv_stem"):
    LmFamily(tiny.stage_ii_config(oracle, {"backbone": "swin"}))
