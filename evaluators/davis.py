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

Suffixes: H W pixels · G true objects · P proposals · T frames.
"""

import collections
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

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


class Davis(base.Evaluator):
  """Mean and recall of J and F, and JF, the mean of both means, in percent."""

  def __init__(self, split: Any):
    """Reads no example.

    Args:
      split: see `base.Evaluator`. It has `.categories`, and its examples are
        frames of clips.

    Raises:
      ConfigError: a data set without categories.
    """
    super().__init__(split)
    self._is_thing_V = clips.is_thing_table(split, "davis")

  def read_truth(self, index: int) -> dict[str, Any]:
    example = self.split.example(index)
    frame = clips.true_frame(example, "davis")
    return {"image/id": int(example["image/id"]), "frame": frame}

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
    semantics_HW, instances_HW = clips.predicted_maps(
        prediction, true.semantics_HW.shape, len(self._is_thing_V))
    is_scored_HW = (true.semantics_HW > 0) & ~true.is_crowd_HW
    is_object_HW = self._is_thing_V[true.semantics_HW] & is_scored_HW
    is_proposal_HW = self._is_thing_V[semantics_HW] & is_scored_HW
    objects_HW = np.where(is_object_HW, true.instances_HW, 0)
    # Ids from 1: a predicted thing may have the instance id 0.
    proposals_HW = np.where(is_proposal_HW, instances_HW + 1, 0)
    counts = count_frame(true.clip_id, objects_HW, proposals_HW)
    return (*state, counts)

  def merge(self, first: State, second: State) -> State:
    return first + second

  def result(self, state: State) -> dict[str, float]:
    frames_of_clip = collections.defaultdict(list)
    for frame in state:
      frames_of_clip[frame.clip_id].append(frame)
    # Of the objects of all clips, in percent.
    percents = {"J_mean": [], "J_recall": [], "F_mean": [], "F_recall": []}
    for frames in frames_of_clip.values():
      qualities = match(frames)
      percents["J_mean"] += _means(qualities.region_GT)
      percents["J_recall"] += _means(qualities.region_GT > _FOUND)
      percents["F_mean"] += _means(qualities.contour_GT)
      percents["F_recall"] += _means(qualities.contour_GT > _FOUND)
    if not percents["J_mean"]:
      raise ConfigError(f"davis: none of {len(state)} frames has an object, so "
                        "there is nothing to measure.")
    metrics = {}
    # All objects count alike, whatever the lengths of their clips.
    for name, values in percents.items():
      metrics[name] = float(np.mean(values))
    metrics["JF"] = (metrics["J_mean"] + metrics["F_mean"]) / 2
    return metrics


def _means(quality_GT: np.ndarray) -> list[float]:
  """The mean over the frames for each object, in percent."""
  mean_G = 100 * quality_GT.mean(1)
  return mean_G.tolist()


# ── One frame ─────────────────────────────────────────────────────────────


def count_frame(clip_id: int, objects_HW: np.ndarray, proposals_HW: np.ndarray
                ) -> FrameCounts:
  """The counts of one frame.

  Args:
    clip_id: of its clip.
    objects_HW: ids of objects; 0 where there is none, or nothing is scored.
    proposals_HW: ids of proposals, likewise.
  """
  objects, object_mask_GN = _masks(objects_HW)
  proposals, proposal_mask_PN = _masks(proposals_HW)
  shape = objects_HW.shape
  object_contour_GN, object_zone_GN = _contours(object_mask_GN, shape)
  proposal_contour_PN, proposal_zone_PN = _contours(proposal_mask_PN, shape)
  shared_GP = _count_shared(object_mask_GN, proposal_mask_PN)
  object_near_GP = _count_shared(object_contour_GN, proposal_zone_PN)
  proposal_near_GP = _count_shared(object_zone_GN, proposal_contour_PN)
  return FrameCounts(
      clip_id=clip_id,
      objects=objects,
      proposals=proposals,
      of_objects_2G=_count_both(object_mask_GN, object_contour_GN),
      of_proposals_2P=_count_both(proposal_mask_PN, proposal_contour_PN),
      of_pairs_3GP=np.stack([shared_GP, object_near_GP, proposal_near_GP]))


def _masks(ids_HW: np.ndarray) -> tuple[list[int], np.ndarray]:
  """The ids but for 0, and the mask of each: bool [ids, pixels]."""
  ids = np.unique(ids_HW)
  ids = ids[ids != 0]
  mask_KN = ids[:, None] == ids_HW.ravel()
  return ids.tolist(), mask_KN


def _count_both(mask_KN: np.ndarray, contour_KN: np.ndarray) -> np.ndarray:
  """Pixels of each mask and of its contour, [2, K]."""
  area_K = mask_KN.sum(1)
  length_K = contour_KN.sum(1)
  return np.stack([area_K, length_K])


def _count_shared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Pixels that masks [G, pixels] and [P, pixels] have in common: [G, P]."""
  # A product of floats is fast, and exact up to 2**53 pixels.
  one = one.astype(np.float64)
  other = other.astype(np.float64)
  return one @ other.T


def _contours(mask_KN: np.ndarray, shape: tuple[int, int]
              ) -> tuple[np.ndarray, np.ndarray]:
  """The contour of each mask, and all pixels near it: bool [K, pixels]."""
  radius = math.ceil(_NEAR * math.hypot(*shape))
  contour_KN = np.zeros_like(mask_KN)
  zone_KN = np.zeros_like(mask_KN)
  for number, mask in enumerate(mask_KN):
    contour_HW = contour(mask.reshape(shape))
    # Where there is no contour, nothing is near it.
    if contour_HW.any():
      distance_HW = ndimage.distance_transform_edt(~contour_HW)
      contour_KN[number] = contour_HW.ravel()
      zone_KN[number] = distance_HW.ravel() <= radius
  return contour_KN, zone_KN


def contour(mask_HW: np.ndarray) -> np.ndarray:
  """Pixels that differ from the next one: below, to the right, or both ways.

  A border of the image is no contour.
  """
  # A pixel at the border is its own neighbor beyond it.
  padded = np.pad(mask_HW, ((0, 1), (0, 1)), mode="edge")
  below_HW = padded[1:, :-1]
  right_HW = padded[:-1, 1:]
  both_ways_HW = padded[1:, 1:]
  contour_HW = mask_HW != below_HW
  contour_HW |= mask_HW != right_HW
  contour_HW |= mask_HW != both_ways_HW
  return contour_HW


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
  both_TGP = (region_TGP + contour_TGP) / 2
  mean_GP = both_TGP.mean(0)
  object_G, proposal_G = optimize.linear_sum_assignment(-mean_GP)
  return Qualities(
      region_TGP[:, object_G, proposal_G].T,
      contour_TGP[:, object_G, proposal_G].T)


def _all_ids(ids_of_frames: Iterable[list[int]]) -> list[int]:
  """The ids that occur in any frame, in rising order."""
  return sorted(set().union(*ids_of_frames))


def _of_clip(frame: FrameCounts, objects: list[int], proposals: list[int]
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
  rows = np.searchsorted(objects, frame.objects)
  columns = np.searchsorted(proposals, frame.proposals)
  of_objects_2G[:, rows] = frame.of_objects_2G
  of_proposals_2P[:, columns] = frame.of_proposals_2P
  of_pairs_3GP[:, rows[:, None], columns] = frame.of_pairs_3GP
  return FrameCounts(frame.clip_id, objects, proposals, of_objects_2G,
                     of_proposals_2P, of_pairs_3GP)


def region_similarity(counts: FrameCounts) -> np.ndarray:
  """J of each pair, [G, P]; 1 where neither is seen."""
  object_area_G, _ = counts.of_objects_2G
  proposal_area_P, _ = counts.of_proposals_2P
  shared_GP, _, _ = counts.of_pairs_3GP
  sum_GP = object_area_G[:, None] + proposal_area_P[None]
  return _share(shared_GP, sum_GP - shared_GP)


def contour_accuracy(counts: FrameCounts) -> np.ndarray:
  """F of each pair, [G, P]; 1 where neither has a contour."""
  _, object_contour_G = counts.of_objects_2G
  _, proposal_contour_P = counts.of_proposals_2P
  _, object_near_GP, proposal_near_GP = counts.of_pairs_3GP
  recall_GP = _share(object_near_GP, object_contour_G[:, None])
  precision_GP = _share(proposal_near_GP, proposal_contour_P[None])
  twice_product_GP = 2 * precision_GP * recall_GP
  sum_GP = precision_GP + recall_GP
  # Where both are 0, so is their harmonic mean.
  return twice_product_GP / np.where(sum_GP > 0, sum_GP, 1)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
  """The quotient of counts; 1 of nothing, since nothing is wrong there."""
  quotient = part / np.maximum(whole, 1)
  return np.where(whole > 0, quotient, 1)
