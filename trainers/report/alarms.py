"""What a run warns of by itself: collapse, a widening gap, overfitting.

All alarms follow from the lines of metrics.jsonl, so a resumed run warns as
one that was never stopped.
"""

import collections
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from trainers.report import run_files

# A share of the codebook. A healthy run uses nearly all of it.
MIN_USAGE = 0.25
# The share of a run after which a codebook must be in use.
WARM_UP = 0.1
# Usage starts from zero in every epoch: the best of so many reports counts.
RECENT = 10
MIN_REPORTS = 3
# A gap alarms if it exceeds the smallest one by this factor …
WIDER = 1.25
# … and by this share of the oracle's score.
NOTICEABLE = 0.02
# A loss on unseen data alarms if it exceeds the lowest one by this factor.
RISEN = 1.05
# The share of a run for which the same alarm is not repeated.
QUIET = 0.1

Values = Mapping[str, float]


class Pair(NamedTuple):
  """Prefixes of two evaluators with one measure on the same data."""
  lm: str
  oracle: str


class Alarm(NamedTuple):
  """A warning: its name in the metrics, the figure behind it, one line."""
  name: str
  figure: float
  message: str


class Alarms:
  """Reads the reports of a run, and warns where one needs attention."""

  def __init__(self, total_steps: int, pairs: Sequence[Pair] = ()):
    """A watch that has seen nothing yet.

    Args:
      total_steps: of the run.
      pairs: what `pairs_of` finds in its config.
    """
    self._quiet_steps = QUIET * total_steps
    self._last_steps = {}  # Alarm's name → the step at which it was raised.
    self._watches = [_CollapseWatch(total_steps)]
    for pair in pairs:
      self._watches.append(_GapWatch(pair))
    self._watches.append(_OverfitWatch())

  def see(self, step: int, values: Values) -> list[Alarm]:
    """The alarms that a report (name → number at `step`) raises."""
    raised = []
    for watch in self._watches:
      alarm = watch.see(step, values)
      if alarm is not None and not self._is_repeated(alarm.name, step):
        # An alarm that is held back does not count: it comes as soon as the
        # quiet time is over.
        self._last_steps[alarm.name] = step
        raised.append(alarm)
    return raised

  def _is_repeated(self, name, step) -> bool:
    if name not in self._last_steps:
      return False
    return step - self._last_steps[name] < self._quiet_steps


class _CollapseWatch:
  """Warns when a run uses only a small part of its codebook."""

  def __init__(self, total_steps):
    self._first_step = WARM_UP * total_steps
    self._recent = collections.deque(maxlen=RECENT)

  def see(self, step: int, values: Values) -> Alarm | None:
    if "train/code/usage" not in values:
      return None
    self._recent.append(values["train/code/usage"])
    # The newest report alone may come from the first steps of an epoch.
    most = max(self._recent)
    is_early = step < self._first_step or len(self._recent) < MIN_REPORTS
    has_collapsed = most < MIN_USAGE
    if is_early or not has_collapsed:
      return None
    return Alarm("codebook_collapse", most, (
        f"codebook collapse: {most:.1%} of all words are in use after "
        f"{step} steps. Is model.dict_learning on, and the batch large "
        "enough for the codebook?"))


class _Score(NamedTuple):
  step: int
  name: str
  value: float


class _GapWatch:
  """Warns when the language model's code falls behind the oracle's."""

  def __init__(self, pair):
    self._pair = pair
    self._scores = {}  # Prefix → the newest _Score.
    self._smallest = None

  def see(self, step: int, values: Values) -> Alarm | None:
    if not self._note_scores(step, values):
      return None
    lm = self._scores.get(self._pair.lm)
    oracle = self._scores.get(self._pair.oracle)
    # The two evaluators report one after the other: wait for the second.
    if lm is None or oracle is None or lm.step != oracle.step:
      return None

    # Some scores are better when they fall, so only the distance counts.
    gap = abs(oracle.value - lm.value)
    if self._smallest is None:
      self._smallest = gap
    self._smallest = min(gap, self._smallest)
    is_wider = gap > WIDER * self._smallest
    # The smallest gap may be nearly 0, and then any noise is many times wider.
    is_noticeable = gap - self._smallest > NOTICEABLE * abs(oracle.value)
    if not (is_wider and is_noticeable):
      return None
    return Alarm("oracle_gap", gap, (
        f"widening gap: {lm.name} is {lm.value:.4g}, with the oracle's code "
        f"{oracle.value:.4g}; the smallest gap was {self._smallest:.4g}. The "
        "language model gets worse: overfitting, or too high a learning "
        "rate?"))

  def _note_scores(self, step, values) -> bool:
    """Keeps each evaluator's first score; whether there was one."""
    found = False
    for prefix in self._pair:
      for name, value in values.items():
        if name.startswith(prefix):
          self._scores[prefix] = _Score(step, name, value)
          found = True
          break
    return found


class _Lowest(NamedTuple):
  step: int
  val_loss: float
  train_loss: float


class _OverfitWatch:
  """Warns when the loss rises on unseen data and falls in training."""

  def __init__(self):
    # A single report is noisy, so their mean is compared.
    self._train_losses = collections.deque(maxlen=RECENT)
    self._lowest = None

  def see(self, step: int, values: Values) -> Alarm | None:
    if "train/loss" in values:
      self._train_losses.append(values["train/loss"])
    if "val/loss" not in values or not self._train_losses:
      return None
    val_loss = values["val/loss"]
    train_loss = sum(self._train_losses) / len(self._train_losses)
    if self._lowest is None or val_loss <= self._lowest.val_loss:
      self._lowest = _Lowest(step, val_loss, train_loss)

    lowest = self._lowest
    has_risen = val_loss > RISEN * lowest.val_loss
    # If the training loss rises too, the run has another trouble.
    has_learned = train_loss < lowest.train_loss
    if not (has_risen and has_learned):
      return None
    return Alarm("overfitting", val_loss / lowest.val_loss, (
        f"overfitting: val/loss rose to {val_loss:.4g} from "
        f"{lowest.val_loss:.4g} at step {lowest.step}, while train/loss "
        "fell. More data, more augmentation, or fewer steps?"))


def pairs_of(evals: Sequence[Mapping[str, Any]]) -> list[Pair]:
  """Evaluators that differ only in whether the language model wrote the code.

  Args:
    evals: those of config.json. Stage I has no language model, so no pair.
  """
  lms = [item for item in evals if item["pred"] == "predict"]
  oracles = [item for item in evals if item["pred"] == "oracle"]
  pairs = []
  for lm in lms:
    for oracle in oracles:
      # An empty prefix fits every metric, so its scores cannot be told apart.
      have_prefixes = lm["prefix"] and oracle["prefix"]
      if have_prefixes and _measure(lm) == _measure(oracle):
        pairs.append(Pair(lm["prefix"], oracle["prefix"]))
  return pairs


def _measure(evaluator):
  """What an evaluator measures, apart from who wrote the code."""
  return [evaluator[field]
          for field in ("type", "dataset", "split", "options")]


def of_run(workdir: pathlib.Path, total_steps: int,
           lines: Iterable[run_files.Line]) -> Alarms:
  """The alarms of a run, as they stand after these lines of its metrics."""
  evaluators = run_files.read_config(workdir).get("evals", ())
  alarms = Alarms(total_steps, pairs_of(evaluators))
  for line in lines:
    # The run has already reported these: only the watches need them.
    alarms.see(line.step, line.values)
  return alarms
