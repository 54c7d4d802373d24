"""Segmentation and tracking quality, the measure of KITTI-STEP.

Weber et al. 2021, arXiv:2102.11859. STQ is the geometric mean of two measures:

* SQ, segmentation quality: the mean IoU of the classes, over all pixels of all
  clips. It knows no instances.
* AQ, association quality: how well the tracks of predicted things, each through
  its whole clip, cover those of true things, whatever their classes.

The numbers equal those of the released code (deeplab2).

Suffixes: H W pixels · V classes, void included.
"""

import collections
import dataclasses
from collections.abc import Mapping

import numpy as np

from evaluators import base, clips
from evaluators.clips import TrueFrame
from uvim.registry import ConfigError

# A track is a class and an id: `class * _STRIDE + id`.
_STRIDE = 2**32

# Track → pixels; or (true track, predicted track) → pixels in common.
Areas = collections.Counter


@dataclasses.dataclass(frozen=True, eq=False)
class ClipCounts:
  """Numbers of pixels in some frames of one clip; those of others add up.

  Attributes:
    confusion_VV: by true and by predicted class.
    true_areas: of each true track.
    predicted_areas: of each predicted track, outside of crowds.
    shared_areas: of each pair of tracks.
  """
  confusion_VV: np.ndarray
  true_areas: Areas
  predicted_areas: Areas
  shared_areas: Areas

  def __add__(self, other: "ClipCounts") -> "ClipCounts":
    return ClipCounts(
        confusion_VV=self.confusion_VV + other.confusion_VV,
        true_areas=self.true_areas + other.true_areas,
        predicted_areas=self.predicted_areas + other.predicted_areas,
        shared_areas=self.shared_areas + other.shared_areas,
    )


State = Mapping[int, ClipCounts]  # Of each clip.


class Stq(clips.ClipEvaluator):
  """STQ, AQ and SQ in percent."""

  name = "stq"

  def initial(self) -> State:
    return {}

  def update(
      self,
      state: State,
      prediction: base.Prediction,
      truth: base.Truth,
  ) -> State:
    """`prediction` has 'panoptic' int [h,w,2]; it is resized to the truth."""
    true: TrueFrame = truth["frame"]
    semantics_HW, instances_HW = self._maps(prediction, true)
    counts = count_frame(
        true,
        semantics_HW=semantics_HW,
        instances_HW=instances_HW,
        is_thing_V=self.is_thing_V,
    )
    of_frame = {true.clip_id: counts}
    return self.merge(state, of_frame)

  def merge(self, first: State, second: State) -> State:
    merged = dict(first)
    for clip_id, counts in second.items():
      if clip_id in merged:
        counts = merged[clip_id] + counts
      merged[clip_id] = counts
    return merged

  def result(self, state: State) -> dict[str, float]:
    confusion_VV = sum(counts.confusion_VV for counts in state.values())
    # Also where no frame was seen, and the sum is the number 0.
    if not np.any(confusion_VV):
      raise ConfigError(
          "stq: no pixel of the truth has a class, so there is nothing to "
          "measure.")
    sq = segmentation_quality(confusion_VV)
    aq = association_quality(state)
    stq = float(np.sqrt(aq * sq))
    return {
        "STQ": 100 * stq,
        "AQ": 100 * aq,
        "SQ": 100 * sq,
    }


def count_frame(
    true: TrueFrame,
    semantics_HW: np.ndarray,
    instances_HW: np.ndarray,
    is_thing_V: np.ndarray,
) -> ClipCounts:
  """The counts of one frame.

  Args:
    true: its truth.
    semantics_HW: predicted classes, ints in 0..V-1.
    instances_HW: predicted instances.
    is_thing_V: which classes are things.
  """
  is_true_thing_HW = is_thing_V[true.semantics_HW]
  is_predicted_thing_HW = is_thing_V[semantics_HW]
  # Nobody knows the tracks in a crowd of things.
  is_told_apart_HW = ~(true.is_crowd_HW & is_true_thing_HW)
  is_true_thing_HW = is_true_thing_HW & is_told_apart_HW
  is_predicted_thing_HW = is_predicted_thing_HW & is_told_apart_HW
  is_both_HW = is_true_thing_HW & is_predicted_thing_HW
  true_HW = _tracks(true.semantics_HW, true.instances_HW)
  predicted_HW = _tracks(semantics_HW, instances_HW)
  confusion_VV = _confusion(
      true.semantics_HW,
      predicted_HW=semantics_HW,
      num_classes=len(is_thing_V),
  )
  shared_areas = _count_pairs(
      true=true_HW[is_both_HW],
      predicted=predicted_HW[is_both_HW],
  )
  return ClipCounts(
      confusion_VV=confusion_VV,
      true_areas=_count(true_HW[is_true_thing_HW]),
      predicted_areas=_count(predicted_HW[is_predicted_thing_HW]),
      shared_areas=shared_areas,
  )


def _tracks(
    semantics_HW: np.ndarray,
    instances_HW: np.ndarray,
) -> np.ndarray:
  """The track of each pixel, int64."""
  classes_HW = semantics_HW.astype(np.int64)
  return classes_HW * _STRIDE + instances_HW


def _confusion(
    true_HW: np.ndarray,
    predicted_HW: np.ndarray,
    num_classes: int,
) -> np.ndarray:
  """Pixels by true and by predicted class, int64 [V,V]; none of true void."""
  # One number for each pair of classes.
  pairs_HW = true_HW * num_classes + predicted_HW
  pairs = pairs_HW.ravel()
  num_pairs = num_classes**2
  counts = np.bincount(pairs, minlength=num_pairs)
  confusion_VV = counts.reshape(num_classes, num_classes)
  confusion_VV[0] = 0
  return confusion_VV


def _count(tracks: np.ndarray) -> Areas:
  """Pixels of each track, in rising order."""
  different, areas = np.unique(tracks, return_counts=True)
  pairs = zip(different.tolist(), areas.tolist(), strict=True)
  return Areas(dict(pairs))


def _count_pairs(true: np.ndarray, predicted: np.ndarray) -> Areas:
  """Counts equal pairs, in rising order.

  Args:
    true: the true tracks of some pixels.
    predicted: the predicted tracks of the same pixels.
  """
  true_tracks, true_places = np.unique(true, return_inverse=True)
  predicted_tracks, predicted_places = np.unique(
      predicted, return_inverse=True)
  num_predicted = len(predicted_tracks)
  # One number for each pair of places.
  pairs = true_places * num_predicted + predicted_places
  shared = Areas()
  for pair, area in _count(pairs).items():
    true_place, predicted_place = divmod(pair, num_predicted)
    true_track = int(true_tracks[true_place])
    predicted_track = int(predicted_tracks[predicted_place])
    shared[true_track, predicted_track] = area
  return shared


def segmentation_quality(confusion_VV: np.ndarray) -> float:
  """Mean IoU of the classes that occur; see `ClipCounts`."""
  hits_V = confusion_VV.diagonal()
  true_V = confusion_VV.sum(1)
  predicted_V = confusion_VV.sum(0)
  union_V = true_V + predicted_V - hits_V
  # As in the released code, void counts as a class of IoU 0 where it is
  # predicted on pixels of a class.
  is_there_V = union_V > 0
  hits = hits_V[is_there_V]
  union = union_V[is_there_V]
  iou = hits / union
  return float(iou.mean())


def association_quality(state: State) -> float:
  """Mean over the true tracks of all clips; 0 if there is none."""
  total = 0.0
  num_tracks = 0
  for counts in state.values():
    num_tracks += len(counts.true_areas)
    for (true, predicted), shared in counts.shared_areas.items():
      true_area = counts.true_areas[true]
      predicted_area = counts.predicted_areas[predicted]
      union = true_area + predicted_area - shared
      iou = shared / union
      # Each predicted track counts by its share of the true one.
      total += iou * shared / true_area
  return total / max(1, num_tracks)
