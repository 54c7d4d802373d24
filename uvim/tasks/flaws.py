"""What may be wrong with labels: a model learns nothing of them, silently.

A task says what its labels must be (`AbstractTask.label_flaws`). A sample of
examples is looked at before a run starts, and each training step counts the
examples that have a flaw.

Suffixes: B batch.
"""

import dataclasses
from typing import Any

import numpy as np

from uvim.typing import Array, Bool

# When a flaw of a sample is refused: if any example has it, if all of them
# have it, or never. What is not refused is a warning.
ANY = "any"
ALL = "all"
NEVER = "never"

_NUM_IDS = 3  # Named in a message.


@dataclasses.dataclass(frozen=True)
class Flaw:
  """One thing that may be wrong, and the examples in which it is.

  Attributes:
    name: of its figure in the logs, 'labels/NAME'.
    is_bad_B: bool [B], which examples have it.
    quantity: what was looked at, in the plural, such as "class ids".
    values: numbers [B, …] of that quantity; NaN counts for nothing.
    allowed: a sentence that says what it must be.
    refused: ANY, ALL or NEVER.
  """
  name: str
  is_bad_B: Bool[Array, "B"]
  quantity: str
  values: Any
  allowed: str
  refused: str = ALL

  @property
  def is_refused(self) -> bool:
    """Whether training must not start with these examples."""
    is_bad_B = np.asarray(self.is_bad_B)
    if self.refused == ANY:
      return bool(is_bad_B.any())
    return self.refused == ALL and bool(is_bad_B.all())

  def describe(self, ids_B: np.ndarray) -> str:
    """What was found in which examples, and what is allowed.

    Args:
      ids_B: int [B], the id of each example.
    """
    is_bad_B = np.asarray(self.is_bad_B)
    bad_ids = np.asarray(ids_B)[is_bad_B]
    names = ", ".join(map(str, bad_ids[:_NUM_IDS].tolist()))
    if len(bad_ids) > _NUM_IDS:
      names += ", …"
    bad_values = np.asarray(self.values)[is_bad_B]
    return (f"{self.quantity} {_range_of(bad_values)} in {len(bad_ids)} of "
            f"{len(is_bad_B)} examples (image/id {names}); {self.allowed}")


def _range_of(values: np.ndarray) -> str:
  """'lie in 0..9' of numbers, without those that are NaN."""
  numbers = values[~np.isnan(values)]
  if not numbers.size:
    return "are NaN"
  return f"lie in {numbers.min():g}..{numbers.max():g}"
