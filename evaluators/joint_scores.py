"""Scores of several answers to one question: are they right, and together?

A squared error of one answer is least for the mean of all that is possible,
and a mean need not be possible itself. These scores compare what a model says
of the whole, its samples, with the truth. `crps` looks at each pixel by itself,
the others at pixels together. Less is better for all but `ordering`.

S samples · K pixels · P pairs of pixels
"""

import numpy as np
from jaxtyping import Float

# Numbers of the first pixels and of the second ones, int [P] both.
Pairs = tuple[np.ndarray, np.ndarray]
Samples = Float[np.ndarray, "S K"]
Truth = Float[np.ndarray, "K"]


def crps(samples_SK: Samples, truth_K: Truth) -> Float[np.ndarray, "K"]:
  """The continuous ranked probability score of each pixel, in its unit.

  It is the mean distance of the samples from the truth, less half of their mean
  distance from each other, each pair and each sample with itself included. Of
  one sample it is the absolute error.
  """
  num_samples = len(samples_SK)
  error_SK = np.abs(samples_SK - truth_K)
  # Sorted, the sum of the distances needs no pairs: a sample is added once for
  # each smaller one and subtracted once for each larger one.
  sorted_SK = np.sort(samples_SK, axis=0)
  num_smaller_S = np.arange(num_samples)
  num_larger_S = num_samples - 1 - num_smaller_S
  weights_S = num_smaller_S - num_larger_S
  sum_K = weights_S @ sorted_SK
  # Each pair counts twice, and half of the mean is taken.
  half_spread_K = sum_K / num_samples ** 2
  return error_SK.mean(0) - half_spread_K


def energy_score(samples_SK: Samples, truth_K: Truth) -> float:
  """The same for whole maps, whose distance is the root of the mean square.

  It is half of the squared energy distance between the samples and the truth
  (Gneiting and Raftery 2007). Of one sample it is the RMSE.
  """
  error_S = rmse_of_each(samples_SK, truth_K)
  # Each sample's mean distance from all, itself included.
  spread_S = []
  for sample_K in samples_SK:
    distance_S = rmse_of_each(samples_SK, sample_K)
    spread_S.append(distance_S.mean())
  return float(error_S.mean() - np.mean(spread_S) / 2)


def rmse_of_each(samples_SK: Samples, truth_K: Truth
                 ) -> Float[np.ndarray, "S"]:
  """The root of the mean squared error of each sample."""
  error_SK = samples_SK - truth_K
  mean_square_S = np.mean(error_SK ** 2, axis=1)
  return np.sqrt(mean_square_S)


def draw_pairs(num_pixels: int, num_pairs: int, seed: int) -> Pairs:
  """Random pairs of pixels, each of two different ones.

  Args:
    num_pixels: at least 2.
    num_pairs: P.
    seed: equal ones draw equal pairs.
  """
  rng = np.random.default_rng(seed)
  first_P = rng.integers(0, num_pixels, num_pairs)
  # At least one pixel further, and at most all the way round but one.
  step_P = rng.integers(1, num_pixels, num_pairs)
  return first_P, (first_P + step_P) % num_pixels


def pair_crps(samples_SK: Samples, truth_K: Truth, pairs: Pairs) -> float:
  """The mean CRPS of the difference between the two pixels of a pair.

  Samples whose pixels are right one by one but do not fit together have
  differences that spread too far.
  """
  first_P, second_P = pairs
  difference_SP = samples_SK[:, first_P] - samples_SK[:, second_P]
  true_P = truth_K[first_P] - truth_K[second_P]
  score_P = crps(difference_SP, true_P)
  return float(score_P.mean())


def ordering(samples_SK: Samples, truth_K: Truth, pairs: Pairs, *,
             min_ratio: float = 1.05) -> float | None:
  """The share of pairs of which a sample says rightly which pixel is nearer.

  Each sample is judged by itself. Where it says that both are equally near, the
  pair counts half.

  Args:
    samples_SK: positive.
    truth_K: positive.
    pairs: of pixels.
    min_ratio: pairs whose true depths differ by a smaller factor do not count.

  Returns:
    The mean over samples; None if no pair counts.
  """
  first_P, second_P = pairs
  ratio_P = truth_K[first_P] / truth_K[second_P]
  is_apart_P = np.maximum(ratio_P, 1 / ratio_P) >= min_ratio
  if not is_apart_P.any():
    return None
  first_P = first_P[is_apart_P]
  second_P = second_P[is_apart_P]
  true_sign_P = np.sign(truth_K[first_P] - truth_K[second_P])
  sign_SP = np.sign(samples_SK[:, first_P] - samples_SK[:, second_P])
  # 1 where the signs agree, 0 where they differ, a half for a tie.
  right_SP = (1 + sign_SP * true_sign_P) / 2
  return float(right_SP.mean())
