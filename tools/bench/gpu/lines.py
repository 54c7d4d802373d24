"""Lines of JSON, written as soon as a figure is there."""

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

# Digits of a figure that mean something.
_DIGITS = 4
# Letters of an error that are shown.
_ERROR_LENGTH = 300


class Lines:
  """Writes the lines of one run.

  Attributes:
    part: what is being measured; in every line.
    num_failed: parts that failed so far.
    waiting: names of the parts that have not begun.
  """

  def __init__(self):
    self.part = "start"
    self.num_failed = 0
    self.waiting: Sequence[str] = ()
    self._start = time.perf_counter()

  def seconds(self) -> float:
    """Since the beginning."""
    return time.perf_counter() - self._start

  def write(self, line: Mapping[str, Any]) -> None:
    """Writes a line, whole and at once."""
    head = {"part": self.part, "at_s": self.seconds()}
    text = json.dumps(_rounded({**head, **line}))
    # In one piece: another thread may write the last line.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()

  def run_part(self, name: str,
               part: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
    """Writes the lines of a part; whatever it raises ends that part alone."""
    self.part = name
    try:
      for line in part():
        self.write(line)
    except Exception as error:
      self.num_failed += 1
      reason = str(error).partition("\n")[0]
      reason = reason[:_ERROR_LENGTH]
      self.write({"failed": f"{type(error).__name__}: {reason}"})
      traceback.print_exc(limit=4)


def _rounded(value):
  """Figures with few digits, in dicts too."""
  if isinstance(value, float):
    return float(f"{value:.{_DIGITS}g}")
  if isinstance(value, Mapping):
    return {key: _rounded(entry) for key, entry in value.items()}
  return value
