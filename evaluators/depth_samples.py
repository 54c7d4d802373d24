"""Scores of several depth maps of one image, as a prior draws them.

See `evaluators.joint_scores` for what each score says. All figures are taken
per image and then averaged over images, as `nyu_depth` does.

Suffixes: H W pixels · S samples · K valid pixels of one image.
"""

import dataclasses
from typing import Any

import numpy as np

from evaluators import base, joint_scores
from evaluators.nyu_depth import NyuDepth, check_positive, is_valid
from uvim import fields, resize
from uvim.registry import ConfigError

# In metres, but for the last: a share.
METRICS = ("energy", "CRPS", "CRPS_pairs", "RMSE_one", "RMSE_best", "RMSE_mean",
           "ordering")


@dataclasses.dataclass(frozen=True, eq=False)
class SampleStat:
  """Sums over images; those of two sets of images add up with `+`.

  Attributes:
    totals: f64 [len(METRICS)], each image's figure, summed over images.
    images: how many images went into `totals`.
    skipped: how many had too few pixels to compare, and went nowhere.
  """

  totals: np.ndarray
  images: int = 0
  skipped: int = 0

  def __add__(self, other: "SampleStat") -> "SampleStat":
    return SampleStat(
        totals=self.totals + other.totals,
        images=self.images + other.images,
        skipped=self.skipped + other.skipped)


class DepthSamples(NyuDepth):
  """Scores of one or more answers: energy, CRPS and others, see METRICS.

  'RMSE_one' is the mean over samples, 'RMSE_best' that of the best sample,
  'RMSE_mean' that of the mean of all samples.
  """

  checks = NyuDepth.checks | {
      "num_pairs": fields.integer(1),
      "min_ratio": fields.number(1),
  }

  def __init__(self, split: Any, *, crop: str = "eigen", crop_top: int = 45,
               min_depth: float = 0.001, max_depth: float = 10.0,
               num_pairs: int = 2000, min_ratio: float = 1.05):
    """Keeps the options.

    Args:
      split: see `NyuDepth`.
      crop: 'eigen' or 'none', as of `nyu_depth`.
      crop_top: first row of the Eigen crop.
      min_depth: metres; the truth must exceed it.
      max_depth: metres; the truth must lie below it.
      num_pairs: pairs of pixels of each image, for 'CRPS_pairs' and 'ordering'.
      min_ratio: 'ordering' leaves out pairs whose depths are closer than by
        this factor.

    Raises:
      ConfigError: the range of valid depths is empty.
    """
    super().__init__(split, crop=crop, crop_top=crop_top, min_depth=min_depth,
                     max_depth=max_depth)
    fields.check_options(type(self), num_pairs=num_pairs, min_ratio=min_ratio)
    self._num_pairs = num_pairs
    self._min_ratio = min_ratio

  def initial(self) -> SampleStat:
    return SampleStat(np.zeros(len(METRICS)))

  def update(
      self,
      state: SampleStat,
      prediction: base.Prediction,
      truth: base.Truth,
  ) -> SampleStat:
    """`prediction` has 'depth' float [S,h,w] in metres, or [h,w]: one sample.

    Samples are resized (nearest) to the truth after its crop.
    """
    true_HW = self._scored_part(truth)
    is_valid_HW = is_valid(true_HW, self._min_depth, self._max_depth)
    true_K = true_HW[is_valid_HW].astype(np.float64)
    depth = prediction["depth"]
    maps_SHW = depth if depth.ndim == 3 else depth[None]
    samples = []
    for map_HW in maps_SHW:
      resized_HW = resize.resize_nearest(map_HW, true_HW.shape)
      samples.append(resized_HW[is_valid_HW].astype(np.float64))
    samples_SK = np.stack(samples)
    check_positive(samples_SK)

    totals = self._scores(samples_SK, true_K, prediction["image/id"])
    if totals is None:
      skipped = dataclasses.replace(self.initial(), skipped=1)
      return state + skipped
    return state + SampleStat(totals, images=1)

  def _scores(self, samples_SK, true_K, image_id) -> np.ndarray | None:
    """An image's METRICS; None: it has too few pixels to compare."""
    if true_K.size < 2:
      return None
    # The same pairs for all models, which have the same images.
    seed = int(image_id) % 2**32
    pairs = joint_scores.draw_pairs(true_K.size, self._num_pairs, seed)
    ordering = joint_scores.ordering(
        samples_SK, true_K, pairs, min_ratio=self._min_ratio)
    if ordering is None:
      return None
    rmse_S = joint_scores.rmse_of_each(samples_SK, true_K)
    mean_1K = samples_SK.mean(0, keepdims=True)
    # In the order of METRICS.
    return np.array([
        joint_scores.energy_score(samples_SK, true_K),
        joint_scores.crps(samples_SK, true_K).mean(),
        joint_scores.pair_crps(samples_SK, true_K, pairs),
        rmse_S.mean(),
        rmse_S.min(),
        joint_scores.rmse_of_each(mean_1K, true_K).item(),
        ordering])

  def merge(self, first: SampleStat, second: SampleStat) -> SampleStat:
    return first + second

  def result(self, state: SampleStat) -> dict[str, float]:
    """The METRICS, and 'num_skipped' images.

    Raises:
      ConfigError: no image had pixels to compare.
    """
    if not state.images:
      raise ConfigError(f"None of {state.skipped} images has two pixels of "
                        "valid depths that differ, so there is nothing to "
                        "measure.")
    means = state.totals / state.images
    metrics = dict(zip(METRICS, means.tolist(), strict=True))
    metrics["num_skipped"] = float(state.skipped)
    return metrics
