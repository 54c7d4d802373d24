"""Fréchet distance between two sets of features, in float64.

Heusel et al. 2017, arXiv:1706.08500.

Suffixes: n images · d features · r rank of a covariance.
"""

import numpy as np

Array = np.ndarray
Moments = tuple[Array, Array]  # Mean [d] and covariance [d,d].


def mean_and_covariance(features: Array) -> Moments:
  """Mean f64 [d] and unbiased covariance f64 [d,d] of features [n,d].

  Raises:
    ValueError: fewer than two rows, or a feature that is not finite.
  """
  features_nd = np.asarray(features, np.float64)
  is_table = features_nd.ndim == 2
  if not is_table or len(features_nd) < 2:
    shape = features_nd.shape
    raise ValueError("Needs features of at least two images, got an array of "
                     f"shape {shape}.")
  # One NaN would make the whole distance NaN, without a hint why.
  is_finite_nd = np.isfinite(features_nd)
  if not is_finite_nd.all():
    raise ValueError("Some features are not finite.")
  mean_d = features_nd.mean(0)
  centered_nd = features_nd - mean_d
  scatter_dd = centered_nd.T @ centered_nd
  # One less than the number of images: the covariance is unbiased.
  num_free = len(features_nd) - 1
  return mean_d, scatter_dd / num_free


def frechet_distance(mean1: Array, cov1: Array, mean2: Array, cov2: Array
                     ) -> float:
  """|m1 − m2|² + tr(C1 + C2 − 2 (C1 C2)^½), means [d], covariances [d,d].

  The trace of the root is the sum of the singular values of F1ᵀ F2 for any
  factors F Fᵀ = C. So nothing is inverted, no root of a non-symmetric matrix
  is taken, and fewer images than features do no harm.
  """
  mean1_d = np.asarray(mean1, np.float64)
  mean2_d = np.asarray(mean2, np.float64)
  offset_d = mean1_d - mean2_d
  factor1_dr = _factor(cov1)
  factor2_dr = _factor(cov2)
  # Neither side is longer than the number of images, so the SVD stays small.
  product_rr = factor1_dr.T @ factor2_dr
  singular_values = np.linalg.svd(product_rr, compute_uv=False)
  root_trace = singular_values.sum()
  square_offset = offset_d @ offset_d
  distance = square_offset + np.trace(cov1)
  distance += np.trace(cov2)
  distance -= 2 * root_trace
  # Rounding may leave −1e-13.
  return max(float(distance), 0.0)


def _factor(covariance: Array) -> Array:
  """F [d,r] with F Fᵀ = covariance."""
  covariance_dd = np.asarray(covariance, np.float64)
  # For a symmetric matrix; it gives real eigenvalues in rising order.
  values_d, vectors_dd = np.linalg.eigh(covariance_dd)
  # Rounding makes something tiny of a zero eigenvalue. Its root would count.
  epsilon = np.finfo(np.float64).eps
  largest = values_d.max(initial=0)
  num_values = len(values_d)
  floor = num_values * epsilon * largest
  is_kept_d = values_d > floor
  vectors_dr = vectors_dd[:, is_kept_d]
  values_r = values_d[is_kept_d]
  roots_r = np.sqrt(values_r)
  # Scales each column by the root of its eigenvalue.
  return vectors_dr * roots_r
