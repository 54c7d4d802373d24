"""Both stages at a size that compiles in seconds, as files."""

import functools

import jax
import numpy as np
import pytest

from tests.trainers import tiny
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim import files
from uvim.inference.api import UViM


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
  """(stage I, stage II) as .npz."""
  folder = tmp_path_factory.mktemp("weights")
  one = folder / "one.npz"
  two = folder / "two.npz"
  save_noise(VqvaeFamily(tiny.stage_i_config()), one)
  save_noise(LmFamily(tiny.stage_ii_config(one)), two)
  return one, two


def save_noise(family, path, seed=5):
  """A checkpoint of plain noise: nothing to compile."""
  rng = np.random.default_rng(seed)

  def noise(spec):
    return rng.normal(size=spec.shape).astype(spec.dtype) / 3

  params, extra = jax.eval_shape(family.init, jax.random.key(0))
  arrays = {"params": jax.tree.map(noise, params)}
  if "state" in extra:
    state = jax.tree.map(noise, extra["state"])
    # Every word was used equally often.
    state["counts"] = np.ones(state["counts"].shape, np.float32)
    arrays["state"] = state
  files.save_npz(path, arrays)


@pytest.fixture(scope="session")
def load_once():
  """Opens each checkpoint once: a command compiles only what is new to it."""
  return functools.cache(UViM.from_checkpoint)
