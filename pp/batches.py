"""What every kind of split hands out: batches, and passes over a split."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from uvim.registry import lookup

# A dict of arrays whose first axis is the examples of this process.
Batch = dict[str, np.ndarray]

_SKIPS = {"error": False, "skip": True}


@dataclasses.dataclass(frozen=True)
class Pass:
  """A pass over a split in its order; it can be made again and again.

  Attributes:
    num_batches: how many batches one pass has.
    start: begins a pass: () → an iterator of `num_batches` batches.
  """
  num_batches: int
  start: Callable[[], Iterator[Batch]]


def skips(on_bad_example: str) -> bool:
  """Whether bad examples are skipped ('skip') or are an error ('error').

  Raises:
    ConfigError: `on_bad_example` is neither.
  """
  return lookup(_SKIPS, on_bad_example, "on_bad_example")


def num_batches(num_examples: int, batch_size: int) -> int:
  """Batches of one pass; the last one may be padded."""
  # Rounds up without floats.
  return -(-num_examples // batch_size)
