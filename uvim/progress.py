"""Progress bars, and the one rule for how often they are drawn.

Layer 0: no imports but the standard library and tqdm, where a bar is drawn.
"""

import sys
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def interval() -> float:
  """Seconds between two drawings of a bar."""
  # A terminal overwrites the line. A log file keeps every line.
  if sys.stderr.isatty():
    return 0.1
  return 15.0


def bar(items: Iterable[T], *, total: int, label: str, unit: str,
        stays: bool = True) -> Iterable[T]:
  """Yields `items` and draws a bar on stderr.

  Args:
    items: what the caller iterates over.
    total: how many there are.
    label: stands in front of the bar.
    unit: what is counted, in the plural, such as "files".
    stays: whether the bar is left there at the end. If not, it is first drawn
      after a second, so that what is quick shows nothing.
  """
  from tqdm import tqdm
  return tqdm(
      items, label, total, unit=f" {unit}", mininterval=interval(),
      leave=stays, delay=0 if stays else 1)
