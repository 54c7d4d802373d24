"""Both stages at a size that compiles in seconds, as files."""

import functools

import jax
import numpy as np
import pytest

from tests.trainers import tiny
from trainers.lm import LmStage
from trainers.vqvae import VqvaeStage
from uvim import files
from uvim.inference.api import UViM


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
  """(stage I, stage II) as .npz."""
  folder = tmp_path_factory.mktemp("weights")
  one, two = folder / "one.npz", folder / "two.npz"
  save_noise(VqvaeStage(tiny.stage_i_config()), one)
  save_noise(LmStage(tiny.stage_ii_config(one)), two)
  return one, two


def save_noise(stage, path, seed=5):
  """A checkpoint of plain noise: nothing to compile."""
  rng = np.random.default_rng(seed)
  params, codebook = jax.eval_shape(stage.init, jax.random.key(0))
  arrays = {"params": params}
  if codebook is not None:
    arrays["state"] = {"dictionary": codebook.dictionary}
  arrays = jax.tree.map(
      lambda x: rng.normal(size=x.shape).astype(x.dtype) / 3, arrays)
  if codebook is not None:
    arrays["state"]["counts"] = np.ones(codebook.counts.shape, np.float32)
  files.save_npz(path, arrays)


@pytest.fixture
def load_once(monkeypatch):
  """One UViM per checkpoint, so that a command compiles what is new to it."""
  monkeypatch.setattr(UViM, "from_checkpoint", _load_once)


_load_once = functools.cache(UViM.from_checkpoint)
