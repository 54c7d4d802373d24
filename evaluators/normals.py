"""Angles between predicted and true normals, over the pixels of all images.

Suffixes: H W pixels · K pixels of known truth · 3 the axes of a normal.
"""

from typing import Any

import numpy as np

from evaluators import base
from uvim import fields, resize
from uvim.registry import ConfigError

_LIMITS = (11.25, 22.5, 30.0)  # Degrees, as the literature reports them.
_SMALLEST = 1e-12

# For each image, the angles at its known pixels.
State = tuple[np.ndarray, ...]


class Normals(base.Evaluator):
  """Mean and median angle in degrees, and the share (%) below some angles."""

  checks = {"pp_truth": fields.TEXT}

  def __init__(self, split: Any, *, pp_truth: str = "rooms_normals"):
    """Parses `pp_truth`.

    Args:
      split: see `base.Evaluator`.
      pp_truth: preprocessing string that makes 'labels' [H,W,3] of a raw
        example; (0, 0, 0) means unknown.
    """
    from pp import builder
    super().__init__(split)
    self._preprocess = builder.build(pp_truth)

  def initial(self) -> State:
    return ()

  def update(
      self,
      state: State,
      prediction: base.Prediction,
      truth: base.Truth,
  ) -> State:
    """`prediction` has 'normals' float [h,w,3]; they are resized."""
    import tensorflow as tf
    # Preprocessing ops take tensors, not numpy arrays.
    tensors = tf.nest.map_structure(tf.constant, truth)
    true_HW3 = self._preprocess(tensors)["labels"].numpy()
    degrees = angles(true_HW3, prediction["normals"])
    return (*state, degrees)

  def merge(self, first: State, second: State) -> State:
    return first + second

  def result(self, state: State) -> dict[str, float]:
    # All pixels count alike, whichever image they come from.
    degrees = np.concatenate([np.zeros(0), *state])
    if not degrees.size:
      raise ConfigError(f"normals: none of {len(state)} images has a pixel "
                        "with a known normal, so there is nothing to measure.")
    metrics = {}
    metrics["mean_angle"] = float(degrees.mean())
    metrics["median_angle"] = float(np.median(degrees))
    for limit in _LIMITS:
      percent = 100 * np.mean(degrees < limit)
      metrics[f"below_{limit:g}"] = float(percent)
    return metrics


def angles(true_HW3: np.ndarray, predicted: np.ndarray) -> np.ndarray:
  """Degrees f64 [K] at the pixels with a true normal.

  They are 90 where the prediction is zero. Vectors may have any length.
  """
  # The zero vector means "unknown".
  known_HW = true_HW3.any(-1)
  predicted_HW3 = resize.resize_nearest(predicted, known_HW.shape)
  true_K3 = true_HW3[known_HW].astype(np.float64)
  predicted_K3 = predicted_HW3[known_HW].astype(np.float64)
  true_length_K = np.linalg.norm(true_K3, axis=-1)
  predicted_length_K = np.linalg.norm(predicted_K3, axis=-1)
  product_K = np.sum(true_K3 * predicted_K3, -1)
  # Not 0, so that a zero prediction has the cosine 0.
  lengths_K = np.maximum(true_length_K * predicted_length_K, _SMALLEST)
  # Rounding may leave a cosine just above 1.
  cosine_K = np.clip(product_K / lengths_K, -1, 1)
  return np.rad2deg(np.arccos(cosine_K))
