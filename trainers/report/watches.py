"""What a run is watched for: each watch looks for one kind of trouble.

A watch sees the reports of a run one after the other, as they stand in
metrics.jsonl. docs/troubleshooting.md explains every alarm.
"""

import abc
import collections
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from evaluators import HEADLINES
from trainers.report import pairs, run_files
from trainers.report.alarm_kinds import Alarm, advice_of
from trainers.report.pairs import Pair
from trainers.report.run_files import WORDS_PER_CODE

# The codebook has collapsed if a run uses less than this share of it. A healthy
# run uses nearly all.
MIN_USAGE = 0.25
# The share of a run after which a codebook must be in use.
WARM_UP = 0.1
# Usage starts from zero in every epoch, so the highest of the newest reports
# counts. These are so many.
RECENT = 10
# With fewer reports nothing is said about the codebook.
MIN_REPORTS = 3
# A gap alarms if it exceeds the smallest one by this factor …
WIDER = 1.25
# … and by this share of the oracle's score.
NOTICEABLE = 0.02
# A loss on unseen data alarms if it exceeds the lowest one by this factor.
RISEN = 1.05
# The share of a run after which the code of a language model must be of use: at
# first it knows no more than which words are frequent.
LM_WARM_UP = 0.25
# How much larger than without a code the error of an answer that fits the
# image may be, and the same for PSNR: see `is_below`.
LARGEST_FACTORS = {"RMSE": math.sqrt(2), "mean_angle": 2.0}
TWICE_IN_DECIBELS = 10 * math.log10(2)
# A code alarms if it has fewer different words, unless the oracle's codes need
# few.
FEW_WORDS = 2.0
# If no evaluator tells of the oracle's words, codes with fewer places never
# alarm.
MANY_WORDS = 4.0
# Shares of the oracle's different words. Fewer than the first alarm, even if
# they are more than FEW_WORDS; more than the second never do.
SMALL_SHARE = 0.1
LARGE_SHARE = 0.5

Values = Mapping[str, float]


class Watch(abc.ABC):
  """Looks for one kind of trouble."""

  @abc.abstractmethod
  def see(self, step: int, values: Values) -> Alarm | None:
    """The alarm that a report raises, if any.

    Args:
      step: of the report.
      values: name of a metric → number.
    """


def watches_of(config: Mapping[str, Any], total_steps: int) -> list[Watch]:
  """The watches that a run needs.

  Args:
    config: config.json; {}: nobody knows it.
    total_steps: of the run.
  """
  if run_files.kind_of(config) == "lm":
    return _watches_of_lm(config, total_steps)
  return [CollapseWatch(config, total_steps), OverfitWatch()]


def _watches_of_lm(config: Mapping[str, Any], total_steps: int) -> list[Watch]:
  """The watches of stage II.

  Its codebook is frozen: if that has collapsed, only stage I can mend it.
  """
  evals = config.get("evals", ())
  with_oracle = pairs.pairs_of(evals, pairs.ORACLE)
  watches = [OverfitWatch()]
  for pair in with_oracle:
    watches.append(GapWatch(pair))
  for pair in pairs.pairs_of(evals, pairs.NO_CODE):
    watches.append(NoCodeWatch(pair, total_steps))

  oracle_of = {pair.lm: pair.other for pair in with_oracle}
  code_len = run_files.code_len(config)
  for evaluator in evals:
    prefix = evaluator["prefix"]
    if evaluator["pred"] == pairs.LM:
      watches.append(
          RepeatWatch(prefix, oracle_of.get(prefix), code_len, total_steps))
  return watches


# ── The codebook ────────────────────────────────────────────────────────────


class CollapseWatch(Watch):
  """Warns when a run uses only a small part of its codebook."""

  def __init__(self, config: Mapping[str, Any], total_steps: int):
    """No report yet, of a run of `total_steps`."""
    self._advice = advice_of("codebook_collapse", config)
    self._first_step = WARM_UP * total_steps
    self._recent = collections.deque(maxlen=RECENT)

  def see(self, step, values):
    if "train/code/usage" not in values:
      return None
    self._recent.append(values["train/code/usage"])
    # The newest report alone may come from the first steps of an epoch.
    most = max(self._recent)
    is_early = step < self._first_step or len(self._recent) < MIN_REPORTS
    has_collapsed = most < MIN_USAGE
    if is_early or not has_collapsed:
      return None
    seen = f"{most:.1%} of all words are in use after {step} steps"
    return Alarm("codebook_collapse", most, seen, advice=self._advice)


# ── The language model's code ───────────────────────────────────────────────


class _Score(NamedTuple):
  """A number that an evaluator has reported."""
  step: int
  name: str
  value: float


class _PairWatch(Watch):
  """Compares two evaluators whenever both have reported.

  They report one after the other, so the second report of a step counts.
  """

  def __init__(self, pair: Pair):
    """No report yet of the two evaluators."""
    self.pair = pair
    self._scores: dict[str, _Score] = {}  # Prefix → the newest.

  def see(self, step, values):
    has_new = False
    for prefix in self.pair:
      name = self.score_name(prefix, values)
      if name is not None:
        self._scores[prefix] = _Score(step, name, values[prefix + name])
        has_new = True
    lm = self._scores.get(self.pair.lm)
    other = self._scores.get(self.pair.other)
    has_both = lm is not None and other is not None
    if not has_new or not has_both or lm.step != other.step:
      return None
    return self.compare(lm, other)

  @abc.abstractmethod
  def score_name(self, prefix: str, values: Values) -> str | None:
    """Which score of an evaluator is compared; None: it has not reported.

    Args:
      prefix: of the evaluator; the names of its scores have it in `values`.
      values: name of a metric → number.
    """

  @abc.abstractmethod
  def compare(self, lm: _Score, other: _Score) -> Alarm | None:
    """The alarm that two scores of one step raise, if any."""


class GapWatch(_PairWatch):
  """Warns when the language model's code falls behind the oracle's."""

  def __init__(self, pair: Pair):
    """No report yet of the two evaluators."""
    super().__init__(pair)
    self._smallest = math.inf

  def score_name(self, prefix, values):
    """The evaluator's first score."""
    for name in values:
      if name.startswith(prefix) and not name.endswith(WORDS_PER_CODE):
        return name.removeprefix(prefix)
    return None

  def compare(self, lm, other):
    # Some scores are better when they fall, so only the distance counts.
    gap = abs(other.value - lm.value)
    self._smallest = min(gap, self._smallest)
    is_wider = gap > WIDER * self._smallest
    # The smallest gap may be nearly 0, and then any noise is many times wider.
    is_noticeable = gap - self._smallest > NOTICEABLE * abs(other.value)
    if not (is_wider and is_noticeable):
      return None
    return Alarm("oracle_gap", gap, (
        f"{self.pair.lm}{lm.name} is {lm.value:.4g}, with the oracle's code "
        f"{other.value:.4g}; the smallest gap was {self._smallest:.4g}"))


def is_below(score: str, value: float, without: float) -> bool:
  """Whether a score with a code is worse than it could be by its measure.

  By an error of single pixels, one answer that fits the image may well be worse
  than the mean of all that fit, which is what a model without a code tends to
  give. A random one of them has twice the squared error of the mean, and at
  most twice the mean angle. Only what is worse than that counts.

  Args:
    score: a key of HEADLINES.
    value: with the language model's code.
    without: with no code.
  """
  allowed = without
  if score == "PSNR":
    allowed = without - TWICE_IN_DECIBELS
  elif score in LARGEST_FACTORS:
    allowed = without * LARGEST_FACTORS[score]
  if HEADLINES[score]:
    return value < allowed
  return value > allowed


class NoCodeWatch(_PairWatch):
  """Warns when the language model's code is worse than none at all."""

  def __init__(self, pair: Pair, total_steps: int):
    """No report yet of the two evaluators, in a run of `total_steps`."""
    super().__init__(pair)
    self._first_step = LM_WARM_UP * total_steps

  def score_name(self, prefix, values):
    """The evaluator's headline."""
    for name in HEADLINES:
      if prefix + name in values:
        return name
    return None

  def compare(self, lm, other):
    is_early = lm.step < self._first_step
    if is_early or not is_below(lm.name, lm.value, other.value):
      return None
    return Alarm("below_no_code", lm.value, (
        f"{self.pair.lm}{lm.name} is {lm.value:.4g}, without any code "
        f"{other.value:.4g}"))


class RepeatWatch(Watch):
  """Warns when the language model writes one word nearly everywhere."""

  def __init__(
      self,
      prefix: str,
      oracle_prefix: str | None,
      code_len: int | None,
      total_steps: int,
  ):
    """No report yet.

    Args:
      prefix: of the evaluator that scores the language model's codes.
      oracle_prefix: of one that scores the oracle's; None: there is none.
      code_len: places of a code; None: nobody knows it.
      total_steps: of the run.
    """
    self._name = prefix + WORDS_PER_CODE
    self._oracle_name = None
    if oracle_prefix is not None:
      self._oracle_name = oracle_prefix + WORDS_PER_CODE
    self._code_len = code_len
    self._first_step = LM_WARM_UP * total_steps
    self._newest: _Score | None = None
    self._oracle_words = None

  def see(self, step, values):
    if self._name in values:
      self._newest = _Score(step, self._name, values[self._name])
    elif self._oracle_name not in values:
      return None
    # The oracle is frozen: what it once needed it needs now.
    self._oracle_words = values.get(self._oracle_name, self._oracle_words)
    if self._newest is None or self._newest.step != step:
      return None
    is_early = step < self._first_step
    waits_for_oracle = self._oracle_name and self._oracle_words is None
    words = self._newest.value
    if is_early or waits_for_oracle or not self._are_few(words):
      return None
    if self._oracle_words is None:
      others = f"a code has {self._code_len or 'many'} places"
    else:
      others = f"the oracle's codes have {self._oracle_words:.3g}"
    return Alarm("repeated_word", words, (
        f"{self._name} is {words:.3g}, so one word stands nearly everywhere; "
        f"{others}"))

  def _are_few(self, words: float) -> bool:
    """Whether `words` different words are too few for a code."""
    if self._oracle_words is None:
      # A code of few places cannot have many different words.
      is_long = self._code_len is None or self._code_len >= MANY_WORDS
      return is_long and words < FEW_WORDS
    limit = max(FEW_WORDS, SMALL_SHARE * self._oracle_words)
    return words < min(limit, LARGE_SHARE * self._oracle_words)


# ── The loss ────────────────────────────────────────────────────────────────


class _Lowest(NamedTuple):
  """The lowest loss on unseen data, and the training loss of that time."""
  step: int
  val_loss: float
  train_loss: float


class OverfitWatch(Watch):
  """Warns when the loss rises on unseen data and falls in training."""

  def __init__(self):
    """No report yet."""
    # Single reports are noisy, so the mean of the newest ones counts.
    self._train_losses = collections.deque(maxlen=RECENT)
    self._lowest = None

  def see(self, step, values):
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
        f"val/loss rose to {val_loss:.4g} from {lowest.val_loss:.4g} at step "
        f"{lowest.step}, while train/loss fell"))
