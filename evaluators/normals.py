"""Angles between predicted and true normals, over the pixels of all images."""

import numpy as np

from evaluators import common


class Evaluator:
  """Mean and median in degrees, and the shares (%) below some angles."""

  def __init__(self, predictions, source, *, pp_truth: str = "rooms_normals"):
    """`pp_truth` makes 'labels' [H,W,3], 0 = unknown, of a raw example."""
    from pp import builder
    self._predictions, self._source = predictions, source
    self._preprocess = builder.build(pp_truth)

  def run(self, variables):
    """Yields (name, value)."""
    import tensorflow as tf
    degrees = []
    for prediction, example in common.with_truth(
        self._predictions(variables), self._source):
      raw = tf.nest.map_structure(tf.constant, example)
      truth = self._preprocess(raw)["labels"].numpy()
      degrees.append(angles(truth, prediction["normals"]))
    degrees = np.concatenate(degrees)
    yield "mean_angle", degrees.mean()
    yield "median_angle", np.median(degrees)
    for limit in (11.25, 22.5, 30.0):
      yield f"below_{limit:g}", 100 * np.mean(degrees < limit)


def angles(truth, prediction):
  """Degrees at the pixels with a true normal; 90 where the prediction is 0."""
  known = truth.any(-1)
  prediction = common.resize_nearest(prediction, known.shape)[known]
  a, b = truth[known].astype(np.float64), prediction.astype(np.float64)
  length = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
  cosine = np.sum(a * b, -1) / np.maximum(length, 1e-12)
  return np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))
