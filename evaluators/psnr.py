"""Peak signal-to-noise ratio of color images in [-1, 1]."""

import dataclasses
import math
from typing import Any

import numpy as np

from evaluators import base
from uvim import fields, registry
from uvim.registry import ConfigError

_RANGE = 2.0  # From -1 to 1.


def psnr_image(truth: np.ndarray, prediction: np.ndarray) -> float:
  """PSNR in dB of two arrays in [-1, 1]; infinite where they are equal."""
  # In float64: a float32 sum of a million small squares loses digits.
  mean_square = np.mean((truth.astype(np.float64) - prediction) ** 2)
  if not mean_square:
    return math.inf
  return 10 * math.log10(_RANGE ** 2 / mean_square)


@dataclasses.dataclass(frozen=True)
class Total:
  """The sum of the PSNR of some images, and how many they are."""

  decibels: float = 0.0
  num_images: int = 0


class Psnr(base.Evaluator):
  """The mean over images of their PSNR, in dB."""

  checks = {"pp_truth": fields.optional(fields.TEXT)}

  def __init__(self, split: Any, *, pp_truth: str | None = None):
    """Parses `pp_truth`.

    Args:
      split: see `base.Evaluator`.
      pp_truth: preprocessing string that makes of a raw example 'labels'
        [h,w,3] in [-1,1], of the size of the predictions. Required.

    Raises:
      ConfigError: no pp_truth, or a mistake in it.
    """
    from pp import builder
    super().__init__(split)
    if not pp_truth:
      raise ConfigError(
          "psnr: needs pp_truth, the preprocessing string that makes 'labels' "
          "of a raw example, such as 'decode|central_crop|resize(512)|"
          "value_range(-1, 1)|copy(\"image\", \"labels\")'.")
    self._preprocess = builder.build(pp_truth)

  def initial(self) -> Total:
    return Total()

  def update(
      self,
      state: Total,
      prediction: base.Prediction,
      truth: base.Truth,
  ) -> Total:
    """`prediction` has 'color' float [h,w,3] in [-1,1].

    Raises:
      ConfigError: it has another size than the labels.
    """
    # Sizes must agree: a resize here would change the score unseen.
    color = prediction["color"]
    labels = self._labels(truth)
    if labels.shape != color.shape:
      raise ConfigError(f"psnr: pp_truth makes labels of {labels.shape}, the "
                        f"predictions are {color.shape}.")
    decibels = state.decibels + psnr_image(labels, color)
    return Total(decibels, state.num_images + 1)

  def merge(self, first: Total, second: Total) -> Total:
    return Total(first.decibels + second.decibels,
                 first.num_images + second.num_images)

  def result(self, state: Total) -> dict[str, float]:
    # The mean of decibels, not the decibels of a mean error.
    return {"PSNR": state.decibels / state.num_images}

  def _labels(self, example: base.Truth) -> np.ndarray:
    """The truth [h,w,3] of a raw example."""
    import tensorflow as tf
    # Preprocessing ops take tensors, not numpy arrays.
    tensors = tf.nest.map_structure(tf.constant, example)
    result = self._preprocess(tensors)
    return registry.lookup(result, "labels", "result of pp_truth").numpy()
