"""What a run warns of by itself: collapse, a widening gap, overfitting.

All of it follows from the lines of metrics.jsonl, so a run that is resumed
warns as the unbroken one does.
"""

import collections
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

MIN_USAGE = 0.25  # Share of the dictionary. A healthy one is nearly all used.
WARM_UP = 0.1  # Share of the run during which a dictionary may be half used.
RECENT = 10  # Reports: usage starts from nothing in every epoch.
WIDER = 1.25  # Gap over the smallest there was, …
NOTICEABLE = 0.02  # … by at least this share of the oracle's score.
RISEN = 1.05  # Loss on unseen data over the lowest there was.
QUIET = 0.1  # Share of the run during which the same alarm is not repeated.


class Pair(NamedTuple):
  """Prefixes of two evaluators of one measure on the same data."""
  lm: str
  oracle: str


class Alarms:
  """Reads the reports of a run, and speaks up where one needs attention."""

  def __init__(self, total_steps: int, pairs: Sequence[Pair] = ()):
    """A watch that has seen nothing yet.

    Args:
      total_steps: of the run.
      pairs: what `pairs_of` finds in its config.
    """
    self._total, self._pairs = total_steps, pairs
    self._usage = collections.deque(maxlen=RECENT)
    self._train = collections.deque(maxlen=RECENT)
    self._scores = {}  # Prefix → (step, name, value).
    self._gaps = {}  # Pair → the smallest.
    self._lowest = None  # (step, loss on unseen data, training loss then).
    self._spoken = {}  # Alarm → step.

  def see(self, step: int, values: Mapping[str, float]
          ) -> Iterator[tuple[str, float, str]]:
    """Yields (name, figure, message) of what a report gives cause for."""
    for name, figure, message in (
        *self._collapse(step, values), *self._gap(step, values),
        *self._overfit(step, values)):
      if step - self._spoken.get(name, -self._total) >= QUIET * self._total:
        self._spoken[name] = step
        yield name, figure, message

  def _collapse(self, step, values):
    if "train/code/usage" not in values:
      return
    self._usage.append(values["train/code/usage"])
    most = max(self._usage)
    if (step >= WARM_UP * self._total and len(self._usage) >= 3
        and most < MIN_USAGE):
      yield "codebook_collapse", most, (
          f"codebook collapse: of all words {most:.1%} are in use, after "
          f"{step} steps. Is model.dict_learning on, and the batch large "
          "enough for the dictionary?")

  def _gap(self, step, values):
    for pair in self._pairs:
      for prefix in pair:
        first = next((k for k in values if k.startswith(prefix)), None)
        if first:
          self._scores[prefix] = step, first, values[first]
      if not any(name.startswith(pair) for name in values):
        continue
      lm, oracle = (self._scores.get(prefix, (None,)) for prefix in pair)
      if not lm[0] == oracle[0] == step:  # The other is still to come.
        continue
      gap = abs(oracle[2] - lm[2])
      least = self._gaps[pair] = min(gap, self._gaps.get(pair, gap))
      if gap > WIDER * least and gap - least > NOTICEABLE * abs(oracle[2]):
        yield "oracle_gap", gap, (
            f"widening gap: {lm[1]} is {lm[2]:.4g}, with the oracle's code "
            f"{oracle[2]:.4g}; the two were once only {least:.4g} apart. The "
            "language model gets worse: overfitting, or too high a "
            "learning rate?")

  def _overfit(self, step, values):
    if "train/loss" in values:
      self._train.append(values["train/loss"])
    if "val/loss" not in values or not self._train:
      return
    loss, train = values["val/loss"], sum(self._train) / len(self._train)
    if self._lowest is None or loss <= self._lowest[1]:
      self._lowest = step, loss, train
    then, lowest, train_then = self._lowest
    if loss > RISEN * lowest and train < train_then:
      yield "overfitting", loss / lowest, (
          f"overfitting: val/loss rose to {loss:.4g} from {lowest:.4g} at "
          f"step {then}, while train/loss fell. More data, more "
          "augmentation, or fewer steps?")


def pairs_of(evals: Sequence[Mapping[str, Any]]) -> list[Pair]:
  """The evaluators of a run that differ in who wrote the code alone.

  Args:
    evals: those of config.json. Stage I has no language model, so no pair.
  """
  def same(e):
    return [e[k] for k in ("type", "dataset", "split", "options")]

  return [Pair(lm["prefix"], oracle["prefix"])
          for lm in evals if lm["pred"] == "predict" and lm["prefix"]
          for oracle in evals
          if oracle["pred"] == "oracle" and oracle["prefix"]
          and same(lm) == same(oracle)]


def of_run(workdir: pathlib.Path, total_steps: int) -> Alarms:
  """The alarms of a run, as they stand after what metrics.jsonl holds."""
  config = workdir / "config.json"
  evals = json.loads(config.read_text())["evals"] if config.exists() else ()
  alarms = Alarms(total_steps, pairs_of(evals))
  metrics = workdir / "metrics.jsonl"
  for line in metrics.read_text().splitlines() if metrics.exists() else ():
    values = json.loads(line)
    values.pop("settings", None)
    for _ in alarms.see(values.pop("step"), values):
      pass  # Said when it happened.
  return alarms
