"""Fréchet distance between two sets of features, in float64.

Heusel et al. 2017, arXiv:1706.08500.

Suffixes: n images · d features.
"""

import numpy as np


def mean_and_covariance(features: np.ndarray
                        ) -> tuple[np.ndarray, np.ndarray]:
  """Mean f64 [d] and unbiased covariance f64 [d,d] of features [n,d].

  Raises:
    ValueError: fewer than two rows, or a feature that is not finite.
  """
  x_nd = np.asarray(features, np.float64)
  if x_nd.ndim != 2 or len(x_nd) < 2:
    raise ValueError("Needs features of at least two images, got an array of "
                     f"shape {x_nd.shape}.")
  if not np.isfinite(x_nd).all():
    raise ValueError("Some features are not finite.")
  mean_d = x_nd.mean(0)
  centred_nd = x_nd - mean_d
  return mean_d, centred_nd.T @ centred_nd / (len(x_nd) - 1)


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray,
                     mean2: np.ndarray, cov2: np.ndarray) -> float:
  """|m1 − m2|² + tr(C1 + C2 − 2 (C1 C2)^½), means [d], covariances [d,d].

  The trace of the root is the sum of the singular values of F1ᵀ F2 for any
  factors F Fᵀ = C. So nothing is inverted and no root of a non-symmetric
  matrix is taken, and fewer images than features do no harm.
  """
  offset = np.asarray(mean1, np.float64) - np.asarray(mean2, np.float64)
  cross = np.linalg.svd(_factor(cov1).T @ _factor(cov2), compute_uv=False)
  distance = (offset @ offset + np.trace(cov1) + np.trace(cov2)
              - 2 * cross.sum())
  return max(float(distance), 0.0)  # rounding may leave −1e-13


def _factor(cov: np.ndarray) -> np.ndarray:
  """F [d,rank] with F Fᵀ = cov."""
  values_d, vectors_dd = np.linalg.eigh(np.asarray(cov, np.float64))
  # What rounding makes of a zero eigenvalue has a root that would count.
  floor = len(values_d) * np.finfo(np.float64).eps * values_d.max(initial=0)
  keep = values_d > floor
  return vectors_dd[:, keep] * np.sqrt(values_d[keep])
