"""Both stages at a size that compiles in seconds, as files."""

import jax
import pytest

from tests.trainers import tiny
from trainers.lm import LmStage
from trainers.vqvae import VqvaeStage
from uvim import checkpoint


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
  """(stage I, stage II) as .npz."""
  folder = tmp_path_factory.mktemp("weights")
  one, two = folder / "one.npz", folder / "two.npz"
  tiny.save_stage_i(VqvaeStage(tiny.stage_i_config()), one)
  stage = LmStage(tiny.stage_ii_config(one))
  params, _ = jax.jit(stage.init)(jax.random.key(5))
  checkpoint.save_npz(two, {"params": params})
  return one, two
