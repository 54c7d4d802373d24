"""Panoptic outputs, panoptic quality and preprocessing the plain way.

With a mask per segment, or a loop over segments, as the definitions read. That
is what tools.bench compares with, so nothing of the project is used here.

B batch · N patches · P pixels in a patch · K classes · I instance ids
H W image pixels · S segments · V distinct ids · X rows or columns
"""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# More than any id.
_NUM_IDS = 1 << 24


def panoptic_outputs(semantics_BNKP, instances_BNIP):
  """(semantics, instance) int32 [B, N, P, 2] by a stack of masks."""
  import jax
  import jax.numpy as jnp
  num_ids = instances_BNIP.shape[-2]
  ids_BNP = jnp.argmax(instances_BNIP, axis=-2).astype(jnp.int32)
  masks_BNIP = jax.nn.one_hot(ids_BNP, num_ids, axis=-2, dtype=jnp.float32)
  # The class with the largest sum of logits over a segment is its class.
  logits_BNKP = semantics_BNKP.astype(jnp.float32)
  sums_BIK = jnp.einsum("bnip,bnkp->bik", masks_BNIP, logits_BNKP)
  label_BI = jnp.argmax(sums_BIK, axis=-1)
  area_BI = jnp.sum(masks_BNIP, axis=(1, 3))
  # An id that no pixel has gets class 0.
  label_BI = jnp.where(area_BI > 0, label_BI, 0)
  classes_BNP = jnp.einsum(
      "bnip,bi->bnp", masks_BNIP, label_BI.astype(jnp.float32))
  return jnp.stack([classes_BNP.astype(jnp.int32), ids_BNP], axis=-1)


# ── Panoptic quality ────────────────────────────────────────────────────────


@dataclasses.dataclass
class _Counts:
  """What all images add up to, per category id.

  Attributes:
    iou: summed over the matches.
    matches: segments that truth and prediction share.
    extra: segments of predictions without a match.
    missed: segments of the truth without a match.
  """
  iou: Counter = dataclasses.field(default_factory=Counter)
  matches: Counter = dataclasses.field(default_factory=Counter)
  extra: Counter = dataclasses.field(default_factory=Counter)
  missed: Counter = dataclasses.field(default_factory=Counter)

  def quality(self, category_id: int) -> float | None:
    """PQ of a category; None if no image has it."""
    # PQ is summed IoU / (matches + ½ extra + ½ missed).
    matches = self.matches[category_id]
    extra = self.extra[category_id]
    missed = self.missed[category_id]
    weight = matches + 0.5 * extra + 0.5 * missed
    if weight == 0:
      return None
    return self.iou[category_id] / weight


def panoptic_quality(images: Iterable[Any],
                     categories: Sequence[Any]) -> dict[str, float]:
  """PQ over `images` of (truth, its segments, prediction, its segments).

  An image at a time, a segment at a time, in dictionaries: the manner of the
  official scorer. Neither crowd regions nor ids without a segment occur.

  Returns:
    'All', 'Things', 'Stuff' → PQ as a fraction.
  """
  counts = _Counts()
  for image in images:
    _count_image(counts, *image)
  things = [c for c in categories if c.isthing]
  stuff = [c for c in categories if not c.isthing]
  return {"All": _mean_quality(counts, categories),
          "Things": _mean_quality(counts, things),
          "Stuff": _mean_quality(counts, stuff)}


def _mean_quality(counts, categories):
  """The mean over the categories that occur."""
  qualities = []
  for category in categories:
    quality = counts.quality(category.id)
    if quality is not None:
      qualities.append(quality)
  return sum(qualities) / max(len(qualities), 1)


def _count_image(counts, truth_HW, truth_segments, pred_HW, pred_segments):
  """Adds an image to the counts."""
  truth_category = _category_by_id(truth_segments)
  pred_category = _category_by_id(pred_segments)
  truth_area = _areas(truth_HW)
  pred_area = _areas(pred_HW)
  common_area = _common_areas(truth_HW, pred_HW)

  def void_area(pred):
    """Pixels of a prediction where the truth is void."""
    return common_area.get((0, pred), 0)

  unmatched_truth = set(truth_category)
  unmatched_pred = set(pred_category)
  for (truth, pred), shared in common_area.items():
    if truth not in truth_category or pred not in pred_category:
      continue
    category = truth_category[truth]
    if pred_category[pred] != category:
      continue
    union = truth_area[truth] + pred_area[pred] - shared
    # What lies on void pixels does not count against a prediction.
    iou = shared / (union - void_area(pred))
    # At most one segment can overlap by more than half.
    if iou > 0.5:
      counts.iou[category] += iou
      counts.matches[category] += 1
      unmatched_truth.remove(truth)
      unmatched_pred.remove(pred)

  for truth in unmatched_truth:
    counts.missed[truth_category[truth]] += 1
  for pred in unmatched_pred:
    # A segment that lies mostly on void is no mistake.
    void_share = void_area(pred) / pred_area[pred]
    if void_share <= 0.5:
      counts.extra[pred_category[pred]] += 1


def _category_by_id(segments) -> dict[int, int]:
  """Id of a segment → id of its category."""
  categories = {}
  for segment in segments:
    categories[segment["id"]] = segment["category_id"]
  return categories


def _areas(ids_HW) -> dict[int, int]:
  """Id → pixels."""
  ids, areas = np.unique(ids_HW, return_counts=True)
  return dict(zip(ids.tolist(), areas.tolist(), strict=True))


def _common_areas(truth_HW, pred_HW) -> dict[tuple[int, int], int]:
  """(id of the truth, id of the prediction) → pixels that have both."""
  # Both ids fit into one number, so that one `unique` counts all pairs.
  truth_HW = truth_HW.astype(np.uint64)
  pred_HW = pred_HW.astype(np.uint64)
  pairs_HW = truth_HW * _NUM_IDS + pred_HW
  common = {}
  for pair, area in _areas(pairs_HW).items():
    truth, pred = divmod(pair, _NUM_IDS)
    common[truth, pred] = area
  return common


def read_ids(path: pathlib.Path) -> np.ndarray:
  """The ids of a panoptic PNG, uint32 [H, W]."""
  from PIL import Image
  rgb_HWC = np.asarray(Image.open(path), np.uint32)
  red_HW, green_HW, blue_HW = np.moveaxis(rgb_HWC, -1, 0)
  return red_HW + 256 * green_HW + 65536 * blue_HW


# ── Preprocessing ───────────────────────────────────────────────────────────


def coco_panoptic(data: dict[str, Any]) -> dict[str, Any]:
  """The op of that name, with a mask of the whole image per segment."""
  import tensorflow as tf
  objects = data["panoptic_objects"]
  rgb = tf.cast(data["panoptic_image"], tf.int32)
  red_HW, green_HW, blue_HW = tf.unstack(rgb, axis=-1)
  ids_HW = red_HW + 256 * green_HW + 65536 * blue_HW
  id_S = tf.cast(objects["id"], tf.int32)
  label_S = tf.cast(objects["label"], tf.int32)
  # S maps of the whole image: clear, but it is what costs memory.
  id_S11 = id_S[:, None, None]
  masks_SHW = ids_HW[None] == id_S11

  def fill(value_S):
    """The map that has this value in each segment, [H, W, 1]."""
    value_S11 = value_S[:, None, None]
    filled_SHW = tf.where(masks_SHW, value_S11, 0)
    filled_HW = tf.reduce_sum(filled_SHW, axis=0)
    return filled_HW[..., None]

  # 0 is void in both maps.
  place_S = tf.range(1, tf.size(id_S) + 1)
  return {**data, "semantics": fill(label_S + 1), "instances": fill(place_S)}


def make_canonical(data: dict[str, Any]) -> dict[str, Any]:
  """The op of that name (sorted by rows), with a mask per segment."""
  import tensorflow as tf
  ids_HW = data["labels"][..., -1]
  ids_V = tf.unique(tf.reshape(ids_HW, [-1])).y
  ids_V = tf.boolean_mask(ids_V, ids_V > 0)
  ids_V11 = ids_V[:, None, None]
  masks_VHW = ids_HW[None] == ids_V11
  order_V = _order_of_segments(tf.cast(masks_VHW, tf.float32))
  # The new id of a segment is its place in the order, from 1.
  new_id_V = tf.math.invert_permutation(order_V) + 1
  new_id_V11 = new_id_V[:, None, None]
  segments_VHW = tf.where(masks_VHW, new_id_V11, 0)
  segments_HW = tf.reduce_sum(segments_VHW, axis=0)
  # Void keeps its id, which is not above 0.
  void_HW = tf.where(ids_HW > 0, 0, ids_HW)
  new_ids_HW = segments_HW + void_HW
  others = data["labels"][..., :-1]
  labels = tf.concat([others, new_ids_HW[..., None]], axis=-1)
  return {**data, "labels": labels}


def _order_of_segments(masks_VHW):
  """By the row of their centers; where that is equal, by the column."""
  import tensorflow as tf
  # Pixels of a segment in each row, and in each column.
  in_row_VH = tf.reduce_sum(masks_VHW, axis=2)
  in_column_VW = tf.reduce_sum(masks_VHW, axis=1)
  y_V = _mean_place(in_row_VH)
  x_V = _mean_place(in_column_VW)
  # Both sorts are stable: equal rows keep the order of their columns.
  by_column_V = tf.argsort(x_V, stable=True)
  by_row_V = tf.argsort(tf.gather(y_V, by_column_V), stable=True)
  return tf.gather(by_column_V, by_row_V)


def _mean_place(counts_VX):
  """The mean of 0, 1, …, X - 1, each weighted by its count, float32 [V]."""
  import tensorflow as tf
  num_places = tf.shape(counts_VX)[1]
  place_X = tf.cast(tf.range(num_places), tf.float32)
  sum_V = tf.reduce_sum(counts_VX * place_X[None], axis=1)
  return sum_V / tf.reduce_sum(counts_VX, axis=1)
