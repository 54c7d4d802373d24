"""Depth errors as they are reported on NYU Depth V2.

Every figure but RMSE_pooled is taken per image and then averaged over images,
so an image with few measured pixels weighs as much as any other. The released
evaluation does this for RMSE too; RMSE_pooled takes all pixels together.

Suffixes: H W pixels · K valid pixels of one image.
"""

import dataclasses
from typing import Any

import numpy as np

from evaluators import base
from uvim import fields, registry, resize
from uvim.registry import ConfigError

METRICS = ("RMSE", "abs_RE", "log10", "delta1", "delta2", "delta3")

# Eigen et al. (2014) score a part of each frame: height, width, left edge.
FRAME = (480, 640)
CROP = (426, 560)
CROP_LEFT = 41


@dataclasses.dataclass(frozen=True, eq=False)
class DepthStat:
  """Sums over images; those of two sets of images add up with `+`.

  Attributes:
    totals: f64 [len(METRICS)], each image's figure, summed over images.
    images: how many images went into `totals`.
    skipped: how many had no pixel with a valid depth, and went nowhere.
    squares: sum of the squared errors in m² over all valid pixels.
    pixels: number of valid pixels.
  """

  totals: np.ndarray
  images: int = 0
  skipped: int = 0
  squares: float = 0.0
  pixels: int = 0

  @classmethod
  def zeros(cls) -> "DepthStat":
    """The statistics of no image."""
    return cls(np.zeros(len(METRICS)))

  def __add__(self, other: "DepthStat") -> "DepthStat":
    return DepthStat(
        totals=self.totals + other.totals,
        images=self.images + other.images,
        skipped=self.skipped + other.skipped,
        squares=self.squares + other.squares,
        pixels=self.pixels + other.pixels)

  def result(self) -> dict[str, float]:
    """The METRICS, 'RMSE_pooled' (metres), and 'num_skipped' images.

    Raises:
      ConfigError: no image had a valid pixel.
    """
    if not self.images:
      raise ConfigError(f"None of {self.skipped} images has a pixel of valid "
                        "depth, so there is nothing to measure.")
    # Every image weighs the same, however many valid pixels it has.
    means = self.totals / self.images
    metrics = dict(zip(METRICS, means.tolist(), strict=True))
    mean_square = self.squares / self.pixels
    metrics["RMSE_pooled"] = float(np.sqrt(mean_square))
    metrics["num_skipped"] = float(self.skipped)
    return metrics


def depth_image(truth: np.ndarray, prediction: np.ndarray, *,
                min_depth: float = 0.001, max_depth: float = 10.0
                ) -> DepthStat:
  """The statistics of one image.

  Args:
    truth: float [H,W], metres; counts where min_depth < truth < max_depth.
    prediction: float [H,W], metres, positive where the truth counts.
    min_depth: see `truth`.
    max_depth: see `truth`.

  Raises:
    ConfigError: a prediction that has no logarithm.
  """
  is_valid_HW = is_valid(truth, min_depth, max_depth)
  true_K = truth[is_valid_HW].astype(np.float64)
  predicted_K = prediction[is_valid_HW].astype(np.float64)
  if not true_K.size:
    # An average over no pixel would be NaN for the whole split.
    return dataclasses.replace(DepthStat.zeros(), skipped=1)
  check_positive(predicted_K)

  error_K = true_K - predicted_K
  squares = float(np.sum(error_K ** 2))
  log_error_K = np.log10(true_K) - np.log10(predicted_K)
  # Too near and too far count alike; 1 is perfect.
  ratio_K = np.maximum(true_K / predicted_K, predicted_K / true_K)
  # In float32: of a truth stored so, 2.5 m against 1.6 m is just the limit.
  ratio_K = ratio_K.astype(np.float32)
  # In the order of METRICS.
  totals = np.array([
      np.sqrt(squares / true_K.size),
      np.mean(np.abs(error_K) / true_K),
      np.mean(np.abs(log_error_K)),
      np.mean(ratio_K < 1.25),
      np.mean(ratio_K < 1.25 ** 2),
      np.mean(ratio_K < 1.25 ** 3)])
  return DepthStat(totals, images=1, squares=squares, pixels=true_K.size)


def is_valid(truth: np.ndarray, min_depth: float, max_depth: float
              ) -> np.ndarray:
  """Bool [H,W], which pixels count."""
  # Limits of the truth's own type: as a float32, 0.001 is not the float64.
  is_far_HW = truth > truth.dtype.type(min_depth)
  is_near_HW = truth < truth.dtype.type(max_depth)
  return is_far_HW & is_near_HW


def check_positive(predicted_K: np.ndarray) -> None:
  """Raises a ConfigError unless all predicted depths have a logarithm."""
  is_good_K = np.isfinite(predicted_K) & (predicted_K > 0)
  num_bad = np.count_nonzero(~is_good_K)
  if num_bad:
    raise ConfigError("The predicted depth is not positive and finite at "
                      f"{num_bad} of {predicted_K.size} valid pixels.")


class NyuDepth(base.Evaluator):
  """RMSE, RMSE_pooled (metres), abs_RE, log10, delta1, delta2, delta3."""

  checks = {
      "crop": fields.one_of(("eigen", "none")),
      "crop_top": fields.integer(0, FRAME[0] - CROP[0]),
      "min_depth": fields.number(0),
      "max_depth": fields.POSITIVE,
  }

  def __init__(self, split: Any, *, crop: str = "eigen", crop_top: int = 45,
               min_depth: float = 0.001, max_depth: float = 10.0):
    """Keeps the options.

    Args:
      split: see `base.Evaluator`. Its examples have 'depth' [H,W] or [H,W,1]
        in metres.
      crop: 'eigen' scores the 426×560 pixels of a 480×640 frame that Eigen et
        al. (2014) do: the predictions are of that part. 'none': all of the
        truth, whatever its size.
      crop_top: first row of the Eigen crop. The released implementation
        starts at row 54.
      min_depth: metres; the truth must exceed it.
      max_depth: metres; the truth must lie below it.

    Raises:
      ConfigError: the range of valid depths is empty.
    """
    super().__init__(split)
    fields.check_options(
        type(self), crop=crop, crop_top=crop_top, min_depth=min_depth,
        max_depth=max_depth)
    if not min_depth < max_depth:
      raise ConfigError("nyu_depth: needs min_depth < max_depth, not "
                        f"{min_depth!r} and {max_depth!r}.")
    self._crop = crop
    self._crop_top = crop_top
    self._min_depth = min_depth
    self._max_depth = max_depth

  def truth_problem(self, truth: base.Truth) -> str:
    true_HW = self._scored_part(truth)
    if is_valid(true_HW, self._min_depth, self._max_depth).any():
      return ""
    known = true_HW[np.isfinite(true_HW) & (true_HW > 0)]
    if not known.size:
      return "no pixel has a depth."
    return (f"its depths lie in {known.min():g}..{known.max():g}; min_depth "
            f"and max_depth are {self._min_depth:g} and {self._max_depth:g}, "
            "in metres.")

  def initial(self) -> DepthStat:
    return DepthStat.zeros()

  def update(
      self,
      state: DepthStat,
      prediction: base.Prediction,
      truth: base.Truth,
  ) -> DepthStat:
    """`prediction` has 'depth' float [h,w] in metres.

    It is resized (nearest) to the truth after its crop.
    """
    true_HW = self._scored_part(truth)
    # Nearest invents no depth between a near and a far surface.
    predicted_HW = resize.resize_nearest(prediction["depth"], true_HW.shape)
    return state + depth_image(
        true_HW, predicted_HW, min_depth=self._min_depth,
        max_depth=self._max_depth)

  def merge(self, first: DepthStat, second: DepthStat) -> DepthStat:
    return first + second

  def result(self, state: DepthStat) -> dict[str, float]:
    return state.result()

  def _scored_part(self, example: base.Truth) -> np.ndarray:
    """The part of an example's depth that is scored: float32 [H,W], metres."""
    depth = np.asarray(registry.lookup(example, "depth", "feature"))
    # Drops a channel axis of 1, if there is one.
    depth_HW = depth.reshape(depth.shape[:2]).astype(np.float32)
    if self._crop == "none":
      return depth_HW
    if depth_HW.shape != FRAME:
      raise ConfigError(
          f"nyu_depth: crop='eigen' is for a depth of {FRAME} pixels, this one "
          f"has {depth_HW.shape}; crop='none' scores the whole image.")
    rows = slice(self._crop_top, self._crop_top + CROP[0])
    columns = slice(CROP_LEFT, CROP_LEFT + CROP[1])
    return depth_HW[rows, columns]
