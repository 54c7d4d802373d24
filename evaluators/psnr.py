"""Peak signal-to-noise ratio of colour images in [-1, 1]."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from evaluators import common
from uvim import registry
from uvim.registry import ConfigError

_RANGE = 2.0  # from -1 to 1


def psnr_image(truth: np.ndarray, prediction: np.ndarray) -> float:
  """PSNR in dB of two arrays in [-1, 1]; infinite where they are equal."""
  error = np.mean((truth.astype(np.float64) - prediction) ** 2)
  return 10 * math.log10(_RANGE ** 2 / error) if error else math.inf


class Evaluator:
  """The mean over images of their PSNR, in dB."""

  def __init__(self, predictions: Callable[[Any], Iterable[dict[str, Any]]],
               source: Any, *, pp_truth: str | None = None):
    """Parses `pp_truth`; reads nothing yet.

    Args:
      predictions: `predictions(variables)` gives, for each example of the
        source in its order, {'color': float [h,w,3] in [-1,1],
        'image/id': int}.
      source: `.num_examples`, `.example(index)`.
      pp_truth: preprocessing string that makes of a raw example 'labels'
        [h,w,3] in [-1,1], of the size of the predictions. Required.
    """
    from pp import builder
    if not pp_truth:
      raise ConfigError(
          "psnr: needs pp_truth, the preprocessing string that makes 'labels' "
          "of a raw example, such as 'decode|central_crop|resize(512)|"
          "value_range(-1, 1)|copy(\"image\", \"labels\")'.")
    self._predictions = predictions
    self._source = source
    self._preprocess = builder.build(pp_truth)

  def run(self, variables: Any) -> Iterator[tuple[str, float]]:
    """Yields PSNR."""
    total, count = 0.0, 0
    pairs = common.with_truth(self._predictions(variables), self._source)
    for prediction, example in pairs:
      color = prediction["color"]
      labels = self._labels(example)
      if labels.shape != color.shape:
        raise ConfigError(f"psnr: pp_truth makes labels of {labels.shape}, the "
                          f"predictions are {color.shape}.")
      total += psnr_image(labels, color)
      count += 1
    yield "PSNR", total / count

  def _labels(self, example: dict[str, Any]) -> np.ndarray:
    import tensorflow as tf
    tensors = tf.nest.map_structure(tf.constant, example)
    out = self._preprocess(tensors)
    return registry.lookup(out, "labels", "result of pp_truth").numpy()
