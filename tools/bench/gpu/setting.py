"""What the measurements on a GPU share: sizes, and what the machine can do."""

import dataclasses
from typing import Any, NamedTuple

from tools.bench.sizes import (
  OPTIMIZER,
  PAPER_I,
  PAPER_II,
  TINY_I,
  TINY_II,
  Fields,
)

# One line of the output, without its time and the name of its part.
Line = dict[str, Any]

# Products in half precision, and one layer compiled for all. The rest is what
# the models choose on a GPU.
_AS_TRAINED = dict(dtype="bfloat16", scan_layers=True)


class Ceilings(NamedTuple):
  """What the device can do at best; None where that was not measured.

  Attributes:
    flops: operations per second of a product of large matrices.
    bandwidth: bytes per second of its memory, read and written.
  """
  flops: float | None = None
  bandwidth: float | None = None


@dataclasses.dataclass(frozen=True)
class Setting:
  """How large the measurements are.

  Attributes:
    stage_i: fields of stage I's model.
    stage_ii: fields of stage II's model.
    optimizer: config fields of the optimizer.
    batch_sizes: images of a training step: few, more, and many.
    decode_batch: images that are decoded at once.
    few_images: the same where the question is what one word costs.
    kernel_batch: images of what is measured outside of a model.
    matrix_side: of the product whose speed is the ceiling.
    array_bytes: of the array that shows the bandwidth.
    repeats: runs of each measurement.
  """
  stage_i: Fields
  stage_ii: Fields
  optimizer: Fields
  batch_sizes: tuple[int, int, int]
  decode_batch: int
  few_images: int
  kernel_batch: int
  matrix_side: int
  array_bytes: int
  repeats: int

  @property
  def num_tokens(self) -> int:
    """Patches of an image, the same in both stages."""
    height, width = self.stage_i["input_size"]
    patch_height, patch_width = self.stage_i["patch_size"]
    return (height // patch_height) * (width // patch_width)


PAPER = Setting(
    stage_i=PAPER_I | _AS_TRAINED,
    stage_ii=PAPER_II | _AS_TRAINED,
    optimizer=OPTIMIZER,
    batch_sizes=(32, 64, 128),
    decode_batch=64,
    few_images=8,
    kernel_batch=16,
    matrix_side=8192,
    array_bytes=2**32,
    repeats=5,
)
# Shows that everything runs; its figures mean nothing.
TINY = Setting(
    stage_i=TINY_I | _AS_TRAINED,
    stage_ii=TINY_II | _AS_TRAINED,
    optimizer=OPTIMIZER,
    batch_sizes=(2, 2, 2),
    decode_batch=2,
    few_images=2,
    kernel_batch=2,
    matrix_side=64,
    array_bytes=2**16,
    repeats=1,
)


def share(value: float, whole: float | None) -> float | None:
  """value / whole; None if the whole is not known."""
  if whole is None:
    return None
  return value / whole
