"""Pretrained image encoders by family.

A new family is one file with one class and one line in `ENCODERS`.
"""

from collections.abc import Iterable

from uvim.encoders import augreg
from uvim.encoders.base import Encoder

# Asked in this order; the first that knows the names takes the file.
ENCODERS = {"augreg": augreg.AugReg()}


def recognise(names: Iterable[str]) -> Encoder | None:
  """The family whose checkpoints have arrays of these names; None: none."""
  names = list(names)
  for encoder in ENCODERS.values():
    if encoder.is_mine(names):
      return encoder
  return None
