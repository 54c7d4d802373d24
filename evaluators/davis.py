"""J and F of DAVIS 2017, unsupervised: objects of a clip, found and tracked.

Caelles et al. 2019, arXiv:1905.00737. A proposal is a predicted thing, through
all frames of its clip. It is known by its instance id; its class does not
count. For each object and each proposal there are two numbers a frame:

* J, region similarity: the IoU of the two masks.
* F, contour accuracy: the harmonic mean of precision and recall of the pixels
  on the contours. A pixel is right if the other contour is near.

Each object of a clip gets another proposal, so that the mean of J and F over
all frames is as high as it can be. What nobody labelled, and crowds, are left
out. The benchmark refuses more than 20 proposals a clip; here they are allowed.

Suffixes: H W pixels · G true objects · P proposals · T frames.
"""

import collections
import math
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
    is_proposal_HW = self._is_thing_V[semantics_HW]
    # Ids from 1: a thing may have the instance id 0.
    proposals_HW = np.where(is_proposal_HW, instances_HW + 1, 0)
    is_object_HW = self._is_thing_V[true.semantics_HW]
    objects_HW = np.where(is_object_HW, true.instances_HW, 0)
    is_scored_HW = (true.semantics_HW > 0) & ~true.is_crowd_HW
    counts = count_frame(
        true.clip_id, objects_HW * is_scored_HW, proposals_HW * is_scored_HW)
    return (*state, counts)

  def merge(self, first: State, second: State) -> State:
    return first + second

  def result(self, state: State) -> dict[str, float]:
    frames_of_clip = collections.defaultdict(list)
    for frame in state:
      frames_of_clip[frame.clip_id].append(frame)
    region = []
    contour = []
    for frames in frames_of_clip.values():
      qualities = match(frames)
      region.append(_mean_and_recall(qualities.region_GT))
      contour.append(_mean_and_recall(qualities.contour_GT))
    num_objects = sum(len(of_clip) for of_clip in region)
    if not num_objects:
      raise ConfigError(f"davis: none of {len(state)} frames has an object, so "
                        "there is nothing to measure.")
    # All objects count alike, whatever the lengths of their clips.
    region_mean, region_recall = np.concatenate(region).mean(0).tolist()
    contour_mean, contour_recall = np.concatenate(contour).mean(0).tolist()
    return {
        "JF": 100 * (region_mean + contour_mean) / 2,
        "J_mean": 100 * region_mean,
        "J_recall": 100 * region_recall,
        "F_mean": 100 * contour_mean,
        "F_recall": 100 * contour_recall,
    }


def _mean_and_recall(quality_GT: np.ndarray) -> np.ndarray:
  """Mean over the frames, and the share of frames where it is high: [G, 2]."""
  mean_G = quality_GT.mean(1)
  recall_G = (quality_GT > _FOUND).mean(1)
  return np.stack([mean_G, recall_G], -1)


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
  return ids.tolist(), ids[:, None] == ids_HW.ravel()


def _count_both(mask_KN: np.ndarray, contour_KN: np.ndarray) -> np.ndarray:
  """Pixels of each mask and of its contour, [2, K]."""
  return np.stack([mask_KN.sum(1), contour_KN.sum(1)])


def _count_shared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Pixels that masks [G, pixels] and [P, pixels] have in common: [G, P]."""
  # A product of floats is fast, and exact up to 2**53 pixels.
  return one.astype(np.float64) @ other.T.astype(np.float64)


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
  padded = np.pad(mask_HW, ((0, 1), (0, 1)), mode="edge")
  contour_HW = np.zeros_like(mask_HW)
  for below, right in ((0, 1), (1, 0), (1, 1)):
    height, width = mask_HW.shape
    neighbor_HW = padded[below:below + height, right:right + width]
    contour_HW |= mask_HW != neighbor_HW
  return contour_HW


# ── One clip ──────────────────────────────────────────────────────────────


def match(frames: list[FrameCounts]) -> Qualities:
  """Gives each object of a clip a proposal; returns how well they fit.

  Args:
    frames: the counts of all frames of the clip.
  """
  objects = sorted({number for frame in frames for number in frame.objects})
  proposals = sorted(
      {number for frame in frames for number in frame.proposals})
  regions = []
  contours = []
  for frame in frames:
    counts = _of_clip(frame, objects, proposals)
    regions.append(region_similarity(counts))
    contours.append(contour_accuracy(counts))
  region_TGP = np.stack(regions)
  contour_TGP = np.stack(contours)
  mean_GP = (region_TGP.mean(0) + contour_TGP.mean(0)) / 2
  object_G, proposal_G = optimize.linear_sum_assignment(-mean_GP)
  return Qualities(
      region_TGP[:, object_G, proposal_G].T,
      contour_TGP[:, object_G, proposal_G].T)


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
  union_GP = object_area_G[:, None] + proposal_area_P[None] - shared_GP
  return np.where(union_GP > 0, shared_GP / np.maximum(union_GP, 1), 1)


def contour_accuracy(counts: FrameCounts) -> np.ndarray:
  """F of each pair, [G, P]; 1 where neither has a contour."""
  _, object_contour_G = counts.of_objects_2G
  _, proposal_contour_P = counts.of_proposals_2P
  _, object_near_GP, proposal_near_GP = counts.of_pairs_3GP
  recall_GP = _share(object_near_GP, object_contour_G[:, None])
  precision_GP = _share(proposal_near_GP, proposal_contour_P[None])
  both_GP = precision_GP + recall_GP
  product_GP = precision_GP * recall_GP
  return np.where(both_GP > 0, 2 * product_GP / np.maximum(both_GP, 1e-15), 0)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
  """The quotient; 1 of nothing, since nothing is wrong there."""
  return np.where(whole > 0, part / np.maximum(whole, 1), 1)
