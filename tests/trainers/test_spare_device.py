"""A spare CPU device predicts, and does not train."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.trainers import tiny, with_spare
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim import files
from uvim.inference.api import UViM
from uvim.learn import devices, sharding

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  """(stage I, stage II) as .npz."""
  folder = tmp_path_factory.mktemp("weights")
  one = folder / "one.npz"
  two = folder / "two.npz"
  tiny.save_stage_i(VqvaeFamily(tiny.stage_i_config()), one)
  family = LmFamily(tiny.stage_ii_config(one))
  params, _ = jax.jit(family.init)(jax.random.key(5))
  files.save_npz(two, {"params": params})
  return str(one), str(two)


def results_of_process(weights, out, **environ):
  """What a process of its own trains and predicts."""
  subprocess.run(
      [sys.executable, "-m", "tests.trainers.with_spare", *weights, str(out)],
      cwd=ROOT, check=True,
      env={**os.environ, "JAX_PLATFORMS": "cpu", **environ})
  return np.load(out)


@pytest.mark.skipif(devices.num_cores() < 2, reason="skipped: one core")
def test_words_and_losses_are_those_of_one_device(weights, tmp_path):
  got = results_of_process(weights, tmp_path / "out.npz")
  model = UViM.from_checkpoint(weights[0], lm=weights[1])
  want = with_spare.results(model, weights[0], [("data", 1)])
  # Here nobody has made a spare device.
  assert want["num_devices"] == 1 and got["num_devices"] == 2
  np.testing.assert_array_equal(got["codes"], want["codes"])
  np.testing.assert_allclose(got["logprob"], want["logprob"], atol=1e-5)
  # Training stays on one device: not a bit differs.
  np.testing.assert_array_equal(got["train_loss"], want["train_loss"])
  np.testing.assert_allclose(got["loss"], want["loss"], rtol=1e-5)


def test_a_number_that_the_user_has_set_stays():
  # These tests have set theirs.
  devices.add_spare()
  assert devices.spare() is None and len(devices.of_runs()) == 8


@pytest.mark.parametrize("num_devices, batch_size, num_parameters, expected", [
    (1, 8, 4, 2),
    (1, 7, 4, 1),
    # A run on several devices predicts on them.
    (2, 8, 4, 2),
    (1, 8, sharding.MAX_COPY_BYTES // 4 + 1, 1),
])
def test_where_predictions_are_computed(
    num_devices, batch_size, num_parameters, expected):
  mesh = sharding.make_mesh([("data", num_devices)])
  spare = jax.devices()[5]
  # It has that size, but takes no memory.
  params = {"a": np.broadcast_to(np.float32(0), num_parameters)}
  chosen = sharding.prediction_mesh(mesh, params, batch_size, spare)
  assert chosen.size == expected
  assert (chosen == mesh) is (spare not in chosen.devices)
