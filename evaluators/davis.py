"""J and F of DAVIS 2017, unsupervised: objects of a clip, found and tracked.

Caelles et al. 2019, arXiv:1905.00737. A proposal is a predicted thing, through
all frames of its clip. It is known by its instance id; its class does not
count. For each object and each proposal there are two numbers a frame:

* J, region similarity: the IoU of the two masks.
* F, contour accuracy: the harmonic mean of precision and recall of the pixels
  on the contours. A pixel is right if the other contour is near.

Each object of a clip gets a proposal of its own, so that the mean of J and F
over all frames is as high as it can be. Pixels of no class and crowds are left
out. The benchmark refuses more than 20 proposals a clip; here they are allowed.

Suffixes: H W pixels · G true objects · P proposals · K of either · T frames.
"""

import collections
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import ndimage, optimize

from evaluators import base, clips
from evaluators.clips import TrueFrame
from uvim.registry import ConfigError

# How near a contour must be, as a share of the diagonal of the image.
_NEAR = 0.008
# Above this, an object counts as found in a frame.
_FOUND = 0.5


class FrameCounts(NamedTuple):
  """Numbers of pixels in one frame.

  Attributes:
    clip_id: of its clip.
    objects: ids of the true objects that are seen.
    proposals: ids of the proposals that are seen.
    of_objects_2G: pixels of each object, and of its contour.
    of_proposals_2P: the same of each proposal.
    of_pairs_3GP: pixels in common; pixels of the object's contour that are near
      that of the proposal; the same the other way round.
  """
  clip_id: int
  objects: list[int]
  proposals: list[int]
  of_objects_2G: np.ndarray
  of_proposals_2P: np.ndarray
  of_pairs_3GP: np.ndarray


class Qualities(NamedTuple):
  """J and F of objects in the frames of their clip, in 0..1."""
  region_GT: np.ndarray
  contour_GT: np.ndarray


State = tuple[FrameCounts, ...]


class Davis(clips.ClipEvaluator):
  """Mean and recall of J and F, and JF, the mean of both means, in percent."""

  name = "davis"

  def initial(self) -> State:
    return ()

  def update(
      self,
      state: State,
      prediction: base.Prediction,
      truth: base.Truth,
  ) -> State:
    """`prediction` has 'panoptic' int [h,w,2]; it is resized to the truth."""
    true: TrueFrame = truth["frame"]
    semantics_HW, instances_HW = self._maps(prediction, true)
    has_class_HW = true.semantics_HW > 0
    is_scored_HW = has_class_HW & ~true.is_crowd_HW
    is_true_thing_HW = self.is_thing_V[true.semantics_HW]
    is_predicted_thing_HW = self.is_thing_V[semantics_HW]
    is_object_HW = is_true_thing_HW & is_scored_HW
    is_proposal_HW = is_predicted_thing_HW & is_scored_HW
    # Ids from 1: a predicted thing may have the instance id 0.
    ids_from_1_HW = instances_HW + 1
    counts = count_frame(
        true.clip_id,
        objects_HW=np.where(is_object_HW, true.instances_HW, 0),
        proposals_HW=np.where(is_proposal_HW, ids_from_1_HW, 0),
    )
    return (*state, counts)

  def merge(self, first: State, second: State) -> State:
    return first + second

  def result(self, state: State) -> dict[str, float]:
    frames_of_clip = collections.defaultdict(list)
    for frame in state:
      frames_of_clip[frame.clip_id].append(frame)
    # Name of a metric → its values, one of each object of any clip.
    percents = collections.defaultdict(list)
    for frames in frames_of_clip.values():
      qualities = match(frames)
      for name, percent_G in _percents(qualities).items():
        percents[name].extend(percent_G)
    if not percents["J_mean"]:
      raise ConfigError(
          f"davis: none of {len(state)} frames has an object, so there is "
          "nothing to measure.")
    metrics = {}
    # All objects count alike, whatever the lengths of their clips.
    for name, values in percents.items():
      metrics[name] = float(np.mean(values))
    both_means = metrics["J_mean"] + metrics["F_mean"]
    metrics["JF"] = both_means / 2
    return metrics


def _percents(qualities: Qualities) -> dict[str, np.ndarray]:
  """The metrics of each object of a clip, [G]: means over the frames."""
  region_GT, contour_GT = qualities
  is_region_found_GT = region_GT > _FOUND
  is_contour_found_GT = contour_GT > _FOUND
  return {
      "J_mean": 100 * region_GT.mean(1),
      "J_recall": 100 * is_region_found_GT.mean(1),
      "F_mean": 100 * contour_GT.mean(1),
      "F_recall": 100 * is_contour_found_GT.mean(1),
  }


# ── One frame ─────────────────────────────────────────────────────────────


class _Masks(NamedTuple):
  """The objects or the proposals of one frame.

  Attributes:
    ids: K ids.
    mask_KHW: bool, the pixels of each.
    contour_KHW: bool, those on its contour.
    zone_KHW: bool, those near its contour.
  """
  ids: list[int]
  mask_KHW: np.ndarray
  contour_KHW: np.ndarray
  zone_KHW: np.ndarray


def count_frame(
    clip_id: int,
    objects_HW: np.ndarray,
    proposals_HW: np.ndarray,
) -> FrameCounts:
  """The counts of one frame.

  Args:
    clip_id: of its clip.
    objects_HW: ids of objects; 0 where there is none, or nothing is scored.
    proposals_HW: ids of proposals, likewise.
  """
  objects = _find_masks(objects_HW)
  proposals = _find_masks(proposals_HW)
  of_pairs = [
      _count_shared(objects.mask_KHW, proposals.mask_KHW),
      _count_shared(objects.contour_KHW, proposals.zone_KHW),
      _count_shared(objects.zone_KHW, proposals.contour_KHW),
  ]
  return FrameCounts(
      clip_id=clip_id,
      objects=objects.ids,
      proposals=proposals.ids,
      of_objects_2G=_count_both(objects),
      of_proposals_2P=_count_both(proposals),
      of_pairs_3GP=np.stack(of_pairs),
  )


def _find_masks(ids_HW: np.ndarray) -> _Masks:
  """The mask of each id that occurs; 0 is none."""
  all_ids = np.unique(ids_HW)
  ids = all_ids[all_ids != 0]
  shape = (len(ids), *ids_HW.shape)
  mask_KHW = np.zeros(shape, bool)
  contour_KHW = np.zeros(shape, bool)
  zone_KHW = np.zeros(shape, bool)
  for place, mask_id in enumerate(ids):
    mask_HW = ids_HW == mask_id
    mask_KHW[place] = mask_HW
    contour_HW = contour(mask_HW)
    contour_KHW[place] = contour_HW
    zone_KHW[place] = _zone(contour_HW)
  return _Masks(
      ids=ids.tolist(),
      mask_KHW=mask_KHW,
      contour_KHW=contour_KHW,
      zone_KHW=zone_KHW,
  )


def _count_both(masks: _Masks) -> np.ndarray:
  """Pixels of each mask and of its contour, [2, K]."""
  area_K = masks.mask_KHW.sum((1, 2))
  length_K = masks.contour_KHW.sum((1, 2))
  return np.stack([area_K, length_K])


def _count_shared(
    one_GHW: np.ndarray,
    other_PHW: np.ndarray,
) -> np.ndarray:
  """Pixels that each two masks have in common, [G, P]."""
  # A product of floats is fast, and exact up to 2**53 pixels.
  one_GHW = one_GHW.astype(np.float64)
  other_PHW = other_PHW.astype(np.float64)
  return np.einsum(
      "ghw,phw->gp",
      one_GHW,
      other_PHW,
      optimize=True,
  )


def contour(mask_HW: np.ndarray) -> np.ndarray:
  """Pixels that differ from the next one: below, to the right, or both ways.

  A border of the image is no contour.
  """
  # A pixel at the border is its own neighbor beyond it.
  padded = np.pad(mask_HW, (0, 1), mode="edge")
  lower = padded[1:]
  below_HW = lower[:, :-1]
  both_ways_HW = lower[:, 1:]
  right_HW = padded[:-1, 1:]
  contour_HW = mask_HW != below_HW
  contour_HW |= mask_HW != right_HW
  contour_HW |= mask_HW != both_ways_HW
  return contour_HW


def _zone(contour_HW: np.ndarray) -> np.ndarray:
  """The pixels near a contour, bool [H, W]."""
  if not contour_HW.any():
    # Nothing is near a contour that is not there.
    return contour_HW
  diagonal = math.hypot(*contour_HW.shape)
  radius = math.ceil(_NEAR * diagonal)
  distance_HW = ndimage.distance_transform_edt(~contour_HW)
  return distance_HW <= radius


# ── One clip ──────────────────────────────────────────────────────────────


def match(frames: list[FrameCounts]) -> Qualities:
  """Gives each object of a clip a proposal; returns how well they fit.

  Args:
    frames: the counts of all frames of the clip.
  """
  objects = _all_ids(frame.objects for frame in frames)
  proposals = _all_ids(frame.proposals for frame in frames)
  regions = []
  contours = []
  for frame in frames:
    counts = _of_clip(frame, objects, proposals)
    regions.append(region_similarity(counts))
    contours.append(contour_accuracy(counts))
  region_TGP = np.stack(regions)
  contour_TGP = np.stack(contours)
  sum_TGP = region_TGP + contour_TGP
  both_TGP = sum_TGP / 2
  both_GP = both_TGP.mean(0)
  object_G, proposal_G = optimize.linear_sum_assignment(
      both_GP, maximize=True)
  region_TG = region_TGP[:, object_G, proposal_G]
  contour_TG = contour_TGP[:, object_G, proposal_G]
  return Qualities(
      region_GT=region_TG.T,
      contour_GT=contour_TG.T,
  )


def _all_ids(ids_of_frames: Iterable[list[int]]) -> list[int]:
  """The ids that occur in any frame, in rising order."""
  all_ids = set()
  for ids in ids_of_frames:
    all_ids.update(ids)
  return sorted(all_ids)


def _of_clip(
    frame: FrameCounts,
    objects: list[int],
    proposals: list[int],
) -> FrameCounts:
  """The counts for all objects and proposals of the clip.

  Those that are not seen in the frame have 0 pixels. There are at least as many
  proposals as objects: an object that none is left for gets an empty one.

  Args:
    frame: its counts.
    objects: ids of the objects of the clip, in rising order.
    proposals: likewise.
  """
  num_objects = len(objects)
  num_proposals = max(num_objects, len(proposals))
  of_objects_2G = np.zeros((2, num_objects))
  of_proposals_2P = np.zeros((2, num_proposals))
  of_pairs_3GP = np.zeros((3, num_objects, num_proposals))
  # Where those that are seen stand among all.
  rows = np.searchsorted(objects, frame.objects)
  columns = np.searchsorted(proposals, frame.proposals)
  of_objects_2G[:, rows] = frame.of_objects_2G
  of_proposals_2P[:, columns] = frame.of_proposals_2P
  # One row of the index for each object: then it means all pairs.
  rows_of_pairs = rows[:, None]
  of_pairs_3GP[:, rows_of_pairs, columns] = frame.of_pairs_3GP
  return FrameCounts(
      clip_id=frame.clip_id,
      objects=objects,
      proposals=proposals,
      of_objects_2G=of_objects_2G,
      of_proposals_2P=of_proposals_2P,
      of_pairs_3GP=of_pairs_3GP,
  )


def region_similarity(counts: FrameCounts) -> np.ndarray:
  """J of each pair, [G, P]; 1 where neither is seen."""
  object_area_G, _ = counts.of_objects_2G
  proposal_area_P, _ = counts.of_proposals_2P
  shared_GP, _, _ = counts.of_pairs_3GP
  sum_GP = np.add.outer(object_area_G, proposal_area_P)
  union_GP = sum_GP - shared_GP
  return _share(part=shared_GP, whole=union_GP)


def contour_accuracy(counts: FrameCounts) -> np.ndarray:
  """F of each pair, [G, P]; 1 where neither has a contour."""
  _, object_contour_G = counts.of_objects_2G
  _, proposal_contour_P = counts.of_proposals_2P
  _, object_near_GP, proposal_near_GP = counts.of_pairs_3GP
  recall_GP = _share(
      part=object_near_GP,
      whole=object_contour_G[:, None],
  )
  precision_GP = _share(
      part=proposal_near_GP,
      whole=proposal_contour_P[None],
  )
  twice_product_GP = 2 * precision_GP * recall_GP
  sum_GP = precision_GP + recall_GP
  # Where both are 0, so is their harmonic mean.
  divisor_GP = np.where(sum_GP > 0, sum_GP, 1)
  return twice_product_GP / divisor_GP


def _share(
    part: np.ndarray,
    whole: np.ndarray,
) -> np.ndarray:
  """The quotient of counts; 1 of nothing, since nothing is wrong there."""
  divisor = np.maximum(whole, 1)
  quotient = part / divisor
  return np.where(whole > 0, quotient, 1)
