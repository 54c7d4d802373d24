"""Stage II trains with every network that can read its image."""

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
