"""The mean of per-example numbers over a split: validation losses."""

import dataclasses
from collections.abc import Mapping

from evaluators import base


@dataclasses.dataclass(frozen=True)
class Totals:
  """Sums over examples.

  Attributes:
    num_examples: how many there were.
    sums: name → sum in float64, each name in the order it first came.
  """

  num_examples: int
  sums: Mapping[str, float]


class Mean(base.Evaluator):
  """Means in float64 of every scalar that the prediction function returns."""

  needs_truth = False

  def initial(self) -> Totals:
    return Totals(0, {})

  def update(
      self,
      state: Totals,
      prediction: base.Prediction,
      truth: None,
  ) -> Totals:
    del truth
    # A copy: states are values.
    sums = dict(state.sums)
    for name, value in prediction.items():
      # The id comes along with every prediction and is no measure.
      if name != "image/id":
        sums[name] = sums.get(name, 0.0) + float(value)
    return Totals(state.num_examples + 1, sums)

  def merge(self, first: Totals, second: Totals) -> Totals:
    # Either side may lack a name that the other has.
    sums = dict(first.sums)
    for name, value in second.sums.items():
      sums[name] = sums.get(name, 0.0) + value
    return Totals(first.num_examples + second.num_examples, sums)

  def result(self, state: Totals) -> dict[str, float]:
    return {name: total / state.num_examples
            for name, total in state.sums.items()}
