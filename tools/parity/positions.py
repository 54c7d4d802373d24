"""Fixtures of resized position embeddings.

C channels · A B rows and columns before · H W after
"""

from collections.abc import Iterator

import numpy as np

from tools.parity import common, fixtures
from tools.parity.common import Quantity
from tools.parity.fixtures import Fixture
from uvim.encoders import positions

# A method's name in the file → ours, where they differ.
_NAMES = {"bicubic_offset_0.1": "bicubic_offset"}
_INPUT = "in"


def compare(fixture: Fixture) -> Iterator[Quantity]:
  """Every method on every pair of grids."""
  arrays = fixtures.read_arrays(fixture.path)
  for name, theirs in arrays.items():
    case, _, method = name.rpartition("/")
    if method == _INPUT:
      continue
    old_1CAB = arrays[f"{case}/{_INPUT}"]
    our_method = _NAMES.get(method, method)
    ours = None
    if our_method in positions.METHODS:
      ours = _resize(old_1CAB, theirs.shape[2:], our_method)
    yield Quantity(f"{fixture.name}/{name}", ours, theirs,
                   tolerance=common.TOLERANCE)


def _resize(old_1CAB, new, method) -> np.ndarray:
  """[1, C, H, W] as the original has it."""
  _, channels, *old = old_1CAB.shape
  old_1NC = old_1CAB.reshape(1, channels, -1).swapaxes(1, 2)
  new_1MC = positions.resize(old_1NC, tuple(old), tuple(new), method)
  return new_1MC.swapaxes(1, 2).reshape(1, channels, *new)
