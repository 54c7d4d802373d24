"""The scores of a run that count most, and which evaluator is its best."""

from typing import NamedTuple

from evaluators import HEADLINES
from trainers.report import pairs, plots
from trainers.report.run_files import Evaluator, Run

# A score that differs by less than this share of another is as good.
NOTICEABLE = 0.02


class Finding(NamedTuple):
  """A sentence about a run.

  Attributes:
    seen: what the scores say.
    advice: what to do; may be empty.
  """
  seen: str
  advice: str = ""


class Score(NamedTuple):
  """The newest value of an evaluator's main score."""
  name: str
  value: float

  def __str__(self):
    return plots.number(self.value)


def main_evaluator(run: Run) -> Evaluator | None:
  """The evaluator by which a person judges the run; None: there is none.

  It is the best of those that score predictions; in stage II these are made
  with the language model's code.
  """
  best = None
  best_score = None
  for evaluator in run.evaluators:
    score = score_of(run, evaluator["prefix"])
    if evaluator["pred"] != pairs.LM or score is None:
      continue
    if best_score is None or is_better(score, best_score):
      best = evaluator
      best_score = score
  return best


def is_better(score: Score, other: Score) -> bool:
  """Whether a score beats another; False where they cannot be compared."""
  if score.name != other.name:
    return False
  if HEADLINES[score.name]:
    return score.value > other.value
  return score.value < other.value


def score_of(run: Run, prefix: str) -> Score | None:
  """The newest main score of an evaluator; None: it has none.

  Args:
    run: what the workdir says.
    prefix: of the evaluator.
  """
  for name in HEADLINES:
    points = run.metrics.get(prefix + name)
    if points:
      _, value = points[-1]
      return Score(name, value)
  return None


def same_measure(
    run: Run, evaluator: Evaluator, pred: str
) -> Evaluator | None:
  """The evaluator that differs from another in its prediction alone."""
  for other in run.evaluators:
    if other["pred"] == pred and pairs.can_compare(evaluator, other):
      return other
  return None
