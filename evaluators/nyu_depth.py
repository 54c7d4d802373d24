"""Depth errors as they are reported on NYU Depth V2.

Every figure but RMSE_pooled is taken per image and then averaged over images,
so an image with few measured pixels weighs as much as any other. The released
evaluation does this for RMSE too; RMSE_pooled takes all pixels together.

Suffixes: H W pixels.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from evaluators import common
from uvim import registry
from uvim.registry import ConfigError

METRICS = ("RMSE", "abs_RE", "log10", "delta1", "delta2", "delta3")
FRAME = (480, 640)
CROP = (426, 560)
CROP_LEFT = 41
_CROPS = {"eigen": CROP, "none": None}


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
    return DepthStat(*(getattr(self, f.name) + getattr(other, f.name)
                       for f in dataclasses.fields(self)))

  def result(self) -> dict[str, float]:
    """The METRICS, 'RMSE_pooled' (metres), and 'num_skipped' images.

    Raises:
      ValueError: no image had a valid pixel.
    """
    if not self.images:
      raise ValueError(f"None of {self.skipped} images has a pixel of valid "
                       "depth, so there is nothing to measure.")
    means = map(float, self.totals / self.images)
    return {**dict(zip(METRICS, means, strict=True)),
            "RMSE_pooled": float(np.sqrt(self.squares / self.pixels)),
            "num_skipped": float(self.skipped)}


def depth_image(truth: np.ndarray, prediction: np.ndarray, *,
                min_depth: float = 0.001, max_depth: float = 10.0
                ) -> DepthStat:
  """The statistics of one image.

  Args:
    truth: float [H,W], metres; counts where min_depth < truth < max_depth.
    prediction: float [H,W], metres, positive where the truth counts.

  Raises:
    ValueError: a prediction that has no logarithm.
  """
  valid_HW = (truth > truth.dtype.type(min_depth)) & (
      truth < truth.dtype.type(max_depth))
  gt, pred = (x[valid_HW].astype(np.float64) for x in (truth, prediction))
  if not gt.size:
    return dataclasses.replace(DepthStat.zeros(), skipped=1)
  bad = np.count_nonzero(~(np.isfinite(pred) & (pred > 0)))
  if bad:
    raise ValueError(f"The predicted depth is not positive and finite at {bad} "
                     f"of {gt.size} valid pixels.")
  squares = float(np.sum((gt - pred) ** 2))
  # In float32: of a truth stored so, 2.5 m against 1.6 m is just the limit.
  ratio = np.maximum(gt / pred, pred / gt).astype(np.float32)
  totals = np.array([
      np.sqrt(squares / gt.size),
      np.mean(np.abs(gt - pred) / gt),
      np.mean(np.abs(np.log10(gt) - np.log10(pred))),
      *(np.mean(ratio < 1.25 ** power) for power in (1, 2, 3))])
  return DepthStat(totals, 1, 0, squares, gt.size)


class Evaluator:
  """RMSE, RMSE_pooled (metres), abs_RE, log10, delta1, delta2, delta3."""

  def __init__(self, predictions: Callable[[Any], Iterable[dict[str, Any]]],
               source: Any, *, crop: str = "eigen", crop_top: int = 45,
               min_depth: float = 0.001, max_depth: float = 10.0):
    """Binds predictions and truth; reads nothing yet.

    Args:
      predictions: `predictions(variables)` gives, for each example of the
        source in its order, {'depth': float [h,w] in metres, 'image/id': int},
        which is resized (nearest) to the truth after its crop.
      source: `.num_examples`, `.example(index)` with 'depth' [H,W] or [H,W,1]
        in metres.
      crop: 'eigen' scores the 426×560 pixels of a 480×640 frame that Eigen et
        al. (2014) do: the predictions are of that part. 'none': all of the
        truth, whatever its size.
      crop_top: first row of the Eigen crop. The released implementation
        starts at row 54.
      min_depth: metres; the truth must exceed it.
      max_depth: metres; the truth must lie below it.
    """
    registry.lookup(_CROPS, crop, "crop of nyu_depth")
    last = FRAME[0] - CROP[0]
    if not isinstance(crop_top, int) or not 0 <= crop_top <= last:
      raise ConfigError(f"nyu_depth: crop_top is a row in 0..{last}, not "
                        f"{crop_top!r}.")
    if not 0 <= min_depth < max_depth:
      raise ConfigError("nyu_depth: needs 0 <= min_depth < max_depth, not "
                        f"{min_depth!r} and {max_depth!r}.")
    self._predictions = predictions
    self._source = source
    self._crop = crop
    self._crop_top = crop_top
    self._limits = {"min_depth": min_depth, "max_depth": max_depth}

  def run(self, variables: Any) -> Iterator[tuple[str, float]]:
    """Yields the metrics of `DepthStat.result`."""
    stat = DepthStat.zeros()
    pairs = common.with_truth(self._predictions(variables), self._source)
    for prediction, example in pairs:
      truth = self._truth(example)
      depth = common.resize_nearest(prediction["depth"], truth.shape)
      stat = stat + depth_image(truth, depth, **self._limits)
    yield from stat.result().items()

  def _truth(self, example: dict[str, Any]) -> np.ndarray:
    """float32 [H,W] in metres: of the example, the part that is scored."""
    depth = np.asarray(registry.lookup(example, "depth", "feature"))
    depth_HW = depth.reshape(depth.shape[:2]).astype(np.float32)
    if self._crop == "none":
      return depth_HW
    if depth_HW.shape != FRAME:
      raise ConfigError(
          f"nyu_depth: crop='eigen' is for a depth of {FRAME} pixels, this one "
          f"has {depth_HW.shape}; crop='none' scores the whole image.")
    return depth_HW[self._crop_top:self._crop_top + CROP[0],
                    CROP_LEFT:CROP_LEFT + CROP[1]]
