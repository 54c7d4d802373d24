"""Fréchet distance between two sets of features, in float64.

Heusel et al. 2017, arXiv:1706.08500.

Suffixes: n images · d features · r rank of a covariance.
"""

import numpy as np


def mean_and_covariance(features: np.ndarray
                        ) -> tuple[np.ndarray, np.ndarray]:
  """Mean f64 [d] and unbiased covariance f64 [d,d] of features [n,d].

  Raises:
    ValueError: fewer than two rows, or a feature that is not finite.
  """
  features_nd = np.asarray(features, np.float64)
  if features_nd.ndim != 2 or len(features_nd) < 2:
    raise ValueError("Needs features of at least two images, got an array of "
                     f"shape {features_nd.shape}.")
  if not np.isfinite(features_nd).all():
    raise ValueError("Some features are not finite.")
  mean_d = features_nd.mean(0)
  centered_nd = features_nd - mean_d
  scatter_dd = centered_nd.T @ centered_nd
  covariance_dd = scatter_dd / (len(features_nd) - 1)
  return mean_d, covariance_dd


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray,
                     mean2: np.ndarray, cov2: np.ndarray) -> float:
  """|m1 − m2|² + tr(C1 + C2 − 2 (C1 C2)^½), means [d], covariances [d,d].

  The trace of the root is the sum of the singular values of F1ᵀ F2 for any
  factors F Fᵀ = C. So nothing is inverted, no root of a non-symmetric matrix
  is taken, and fewer images than features do no harm.
  """
  offset_d = np.asarray(mean1, np.float64) - np.asarray(mean2, np.float64)
  product_rr = _factor(cov1).T @ _factor(cov2)
  trace_of_root = np.linalg.svd(product_rr, compute_uv=False).sum()
  distance = offset_d @ offset_d + np.trace(cov1) + np.trace(cov2)
  distance = distance - 2 * trace_of_root
  # Rounding may leave −1e-13.
  return max(float(distance), 0.0)


def _factor(covariance: np.ndarray) -> np.ndarray:
  """F [d,r] with F Fᵀ = covariance."""
  covariance_dd = np.asarray(covariance, np.float64)
  values_d, vectors_dd = np.linalg.eigh(covariance_dd)
  # Rounding makes something tiny of a zero eigenvalue. Its root would count.
  epsilon = np.finfo(np.float64).eps
  floor = len(values_d) * epsilon * values_d.max(initial=0)
  is_kept_d = values_d > floor
  return vectors_dd[:, is_kept_d] * np.sqrt(values_d[is_kept_d])
