"""The mean of per-example numbers over a split: validation losses."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Evaluator:
  """Means in float64 of every scalar that the prediction function returns."""

  def __init__(self, predictions: Callable[[Any], Iterable[dict[str, Any]]],
               source: Any = None):
    """Takes `predictions(variables)`: dicts of scalars without padding."""
    del source  # all evaluators are built alike; this one needs no truth
    self._predictions = predictions

  def run(self, variables: Any) -> Iterator[tuple[str, float]]:
    """Yields (name, mean), each name in the order it first came."""
    sums, count = {}, 0
    for example in self._predictions(variables):
      if example is None:  # Skipped, as it could not be read.
        continue
      count += 1
      for key, value in example.items():
        if key != "image/id":
          sums[key] = sums.get(key, 0.0) + float(value)
    for key, total in sums.items():
      yield key, total / count
