"""A small model with both stages, and requests to it."""

import numpy as np
import pytest

from tests.tools.conftest import load_once, weights  # noqa: F401
from tests.uvim.explorer.client import Client
from uvim import files
from uvim.inference.api import UViM


@pytest.fixture(scope="module")
def uvim(weights):  # noqa: F811 - the fixture above.
  return UViM.from_checkpoint(weights[0], lm=weights[1])


@pytest.fixture(scope="session")
def masked(weights, tmp_path_factory):  # noqa: F811
  """The same arrays, with a prior that can fill in the rest."""
  arrays = files.load_npz(weights[1])
  arrays["state"] = {"style_masked": np.ones((), np.int8)}
  path = tmp_path_factory.mktemp("masked") / "two.npz"
  files.save_npz(path, arrays)
  return UViM.from_checkpoint(weights[0], lm=path)


@pytest.fixture
def client(uvim):
  return Client(uvim)
