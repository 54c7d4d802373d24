"""Scores the predictions of a head on a whole split.

B images · N tokens of the encoder's grid · K classes · P pixels of a token
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

import evaluators
from evaluators import base
from tools.probe.examples import Examples
from tools.probe.head import Head
from tools.probe.rivals import Rival
from uvim.typing import Array

_BATCH_SIZE = 8


def score(
    rival: Rival,
    head: Head,
    examples: Examples,
    split: Any,
    block: Any,
) -> dict[str, float]:
  """Metrics by name: those of the evaluator, and the rival's own.

  Args:
    rival: turns logits into predictions.
    head: a trained one.
    examples: those of the split, in its order; there may be more, which are
      padding.
    split: the Split that the evaluator reads the truth of.
    block: the evaluator's block of the config.

  Raises:
    ConfigError: options that the evaluator does not know.
  """
  evaluator = evaluators.make_evaluator(
      block.type, split, block.options, f"config.{block.name}.options")
  confusion_KK = np.zeros((rival.num_classes, rival.num_classes), np.int64)
  predictions = _predictions(
      rival, head, examples, split.num_examples, confusion_KK)
  metrics = base.score(evaluator, predictions)
  return rival.accuracy(confusion_KK) | metrics


def outputs_of(
    rival: Rival,
    head: Head,
    examples: Examples,
    rows: range,
) -> dict[str, np.ndarray]:
  """Predictions [B, H, W, …] for these rows; see `Rival.outputs`."""
  return rival.outputs(_logits(head, examples, rows))


def _predictions(
    rival: Rival,
    head: Head,
    examples: Examples,
    num_examples: int,
    confusion_KK: np.ndarray,
) -> Iterator[dict[str, Any] | None]:
  """Yields the prediction of each example; None: it could not be read.

  Adds to `confusion_KK` how often a pixel of each class (rows) was predicted as
  each class (columns).
  """
  for start in range(0, num_examples, _BATCH_SIZE):
    rows = range(start, start + _BATCH_SIZE)
    logits_BNKP = _logits(head, examples, rows)
    _count(rival, logits_BNKP, _slice(examples.ids_MTP, rows), confusion_KK)
    outputs = rival.outputs(logits_BNKP)
    # What follows the last example is padding.
    for place, row in enumerate(rows[:num_examples - start]):
      if not examples.is_good_M[row]:
        yield None
        continue
      prediction = {name: output[place] for name, output in outputs.items()}
      prediction["image/id"] = int(examples.image_id_M[row])
      yield prediction


def _logits(head: Head, examples: Examples, rows: range) -> Array:
  """The head's logits [B, N, K, P] for these rows."""
  return head(_slice(examples.features_MTD, rows))


def _slice(array: np.ndarray, rows: range) -> np.ndarray:
  return array[rows.start:rows.stop]


def _count(
    rival: Rival,
    logits_BNKP: Array,
    ids_BNP: np.ndarray,
    confusion_KK: np.ndarray,
) -> None:
  """Adds the pixels of a batch that have a label to `confusion_KK`."""
  predicted_BNP = rival.classes(logits_BNKP)
  is_labelled_BNP = ids_BNP >= 0
  truth = ids_BNP[is_labelled_BNP]
  predicted = predicted_BNP[is_labelled_BNP]
  # Unlike `+=`, this counts a pair as often as it comes.
  np.add.at(confusion_KK, (truth, predicted), 1)
