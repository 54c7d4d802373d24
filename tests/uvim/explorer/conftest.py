"""A small model with both stages, and requests to it."""

import pytest

from tests.tools.conftest import load_once, weights  # noqa: F401
from tests.uvim.explorer.client import Client
from uvim.inference.api import UViM


@pytest.fixture(scope="module")
def uvim(weights):  # noqa: F811 - the fixture above.
  return UViM.from_checkpoint(weights[0], lm=weights[1])


@pytest.fixture
def client(uvim):
  return Client(uvim)
