"""What an evaluator is, and the one loop that runs it.

An evaluator compares predictions with the truth of one split of a data set. It
sees numpy arrays, one example at a time, in the order of the split, without
padding. It never sees a model.

An evaluator keeps what it has seen in a *state*. A state is a value: nobody
changes it in place. `initial` gives the state before the first example,
`update` adds one example, `merge` adds up two states, and `result` makes
numbers of a state. So parts of a split can be scored apart.

Where the truth comes from: `read_truth` reads the record of the example with
`split.example(index)`. The batch that was predicted came from the same record,
so each record is read twice. The labels in the batch cannot stand in for it:
they have the size of the model's input, and some batches hold none.
"""

import abc
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from evaluators import common
from evaluators.common import Prediction, Truth
from uvim.fields import Check

State = Any  # Each evaluator has its own kind.


class Example(NamedTuple):
  """An example of the split that a report shows.

  Attributes:
    caption: how well it was predicted, in a few words.
    image: the file's bytes; None: the data set has none.
    truth: what a task draws, such as {'panoptic': int [H,W,2]}.
    prediction: the same of the prediction.
  """
  caption: str
  image: bytes | None
  truth: dict[str, np.ndarray]
  prediction: dict[str, np.ndarray]


class Details(NamedTuple):
  """What stands behind the numbers of a pass, for a report.

  Attributes:
    content: plain JSON.
    examples: such as the worst and the best.
  """
  content: dict[str, Any]
  examples: list[Example]


class Evaluator(abc.ABC):
  """A measure on one split.

  The options of a subclass are those keyword arguments of its constructor
  that have a default. A config sets them by name. An option that must be set
  has the default None, and the constructor raises a ConfigError without it.

  Attributes:
    checks: option → which values are allowed; options without a check may be
      anything.
    needs_truth: whether `update` gets the truth.
    split: the examples that are scored, a `pp.splits.Split`. All evaluators
      use `.num_examples` and `.example(index)`.
    is_writer: whether this process writes files. Only process 0 does, but all
      processes score all examples.
  """

  checks: ClassVar[Mapping[str, Check]] = {}
  needs_truth: ClassVar[bool] = True

  def __init__(self, split: Any):
    """Binds the split. Subclasses check their options; none reads examples."""
    self.split = split
    # Several processes that write one file would spoil it.
    self.is_writer = jax.process_index() == 0

  @classmethod
  def risks(cls, options: Mapping[str, Any]) -> list[str]:
    """The options with which a stranger could do harm, of those that are set.

    They name a folder that is written to, or a program that is run. A workdir
    may come from a stranger, so `tools.evaluate` takes them from the command
    line alone.

    Args:
      options: as a config sets them; not checked yet.
    """
    del options
    return []

  def read_truth(self, index: int) -> Truth | None:
    """The truth of one example, as `update` takes it.

    Returns:
      The raw example, a mapping that has its 'image/id'; None if this
      evaluator needs no truth. A subclass may keep what it reads and return a
      mapping of its own, which has 'image/id' too.
    """
    # Reading a record costs time.
    if not self.needs_truth:
      return None
    return self.split.example(index)

  def truth_problem(self, truth: Truth) -> str:
    """Why nothing can be scored with this truth, in one line; "" if it can.

    A few truths of the split are asked before a run starts.

    Args:
      truth: what `read_truth` returned.
    """
    del truth
    return ""

  @abc.abstractmethod
  def initial(self) -> State:
    """The state before the first example."""

  @abc.abstractmethod
  def update(
      self,
      state: State,
      prediction: Prediction,
      truth: Truth | None,
  ) -> State:
    """The state after one more example; `state` itself stays as it is.

    Args:
      state: what was seen before.
      prediction: name → numpy array of this example, and 'image/id' int.
      truth: what `read_truth` returned for it.
    """

  @abc.abstractmethod
  def merge(self, first: State, second: State) -> State:
    """The state after the examples of `first`, then those of `second`."""

  @abc.abstractmethod
  def result(self, state: State) -> dict[str, float]:
    """Metric → number. An evaluator that exports files writes them here."""

  def details(self, state: State) -> Details | None:
    """What a report shows besides the metrics; None: nothing.

    It changes no metric and writes nothing.
    """
    del state
    return None


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The result of one pass over a split.

  Attributes:
    state: the evaluator's state after all examples that could be read.
    num_skipped: how many examples could not be read.
  """

  state: State
  num_skipped: int


def run_pass(
    evaluator: Evaluator,
    predictions: Iterable[Prediction | None],
) -> Outcome:
  """Shows an evaluator the predictions of its whole split.

  Args:
    evaluator: what to update.
    predictions: one for each example of the split, in its order. None stands
      for an example that could not be read; it is left out and counted. A
      prediction without 'image/id' gets its place in the split as its id.

  Raises:
    ValueError: the predictions differ from the examples in order or number.
  """
  num_examples = evaluator.split.num_examples
  state = evaluator.initial()
  # `with_truth` raises unless there are as many predictions as examples, so
  # what was not scored was skipped.
  num_scored = 0
  pairs = common.with_truth(predictions, num_examples, evaluator.read_truth)
  for prediction, truth in pairs:
    # `update` returns a new state; the old one stays as it is.
    state = evaluator.update(state, prediction, truth)
    num_scored += 1
  return Outcome(state, num_examples - num_scored)


def score(
    evaluator: Evaluator,
    predictions: Iterable[Prediction | None],
) -> dict[str, float]:
  """Metric → number for the predictions of a whole split; see `run_pass`."""
  outcome = run_pass(evaluator, predictions)
  return evaluator.result(outcome.state)
