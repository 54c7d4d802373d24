"""Strict numerics for every test: eight virtual devices, no silent broadcast."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared():
  """The folder of real samples and parity fixtures, where there is one."""
  if not SHARED.is_dir():
    pytest.skip("skipped: no ../shared folder with samples and fixtures")
  return SHARED


@pytest.fixture(scope="session")
def fixtures(shared):
  return shared / "fixtures"
