"""Pairs of a run's evaluators that differ in nothing but who wrote the code."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Evaluator = Mapping[str, Any]  # An entry of "evals" in config.json.

# Names of stage II's predictions: the code comes from the language model, from
# the oracle, or there is none.
LM = "predict"
ORACLE = "oracle"
NO_CODE = "zero_code"


class Pair(NamedTuple):
  """Two evaluators with one measure on the same data.

  Attributes:
    lm: prefix of the one that scores the language model's code.
    other: prefix of the one that scores another code, or none.
  """
  lm: str
  other: str


def pairs_of(evals: Sequence[Evaluator], other: str) -> list[Pair]:
  """Each evaluator of the language model's code, and one to compare it with.

  Args:
    evals: those of config.json.
    other: the prediction that the second one scores: ORACLE or NO_CODE.

  Returns:
    The pairs. Ask for those of stage II alone: in stage I the prediction of
    the name LM has the oracle's code.
  """
  pairs = []
  for lm in evals:
    for evaluator in evals:
      is_pair = lm["pred"] == LM and evaluator["pred"] == other
      if is_pair and can_compare(lm, evaluator):
        pairs.append(Pair(lm["prefix"], evaluator["prefix"]))
  return pairs


def can_compare(first: Evaluator, second: Evaluator) -> bool:
  """Whether two evaluators measure the same on the same data."""
  prefixes = {first["prefix"], second["prefix"]}
  # An empty prefix fits every metric, so its scores cannot be told apart.
  have_prefixes = len(prefixes) == 2 and "" not in prefixes
  return have_prefixes and _measure(first) == _measure(second)


def _measure(evaluator: Evaluator) -> list[Any]:
  """What an evaluator measures, apart from who wrote the code."""
  return [evaluator[field]
          for field in ("type", "dataset", "split", "options")]
