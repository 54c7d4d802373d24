"""Panoptic outputs, panoptic quality and preprocessing the plain way.

With a mask per segment, or a loop over segments, as the definitions read. That
is what tools.bench compares with, so nothing of the project is used here.

B batch · N patches · P pixels in a patch · K classes · I instance ids
H W image pixels · S segments · V distinct ids
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
    weight = (self.matches[category_id] + 0.5 * self.extra[category_id]
              + 0.5 * self.missed[category_id])
    return self.iou[category_id] / weight if weight else None


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
  truth_category = {s["id"]: s["category_id"] for s in truth_segments}
  pred_category = {s["id"]: s["category_id"] for s in pred_segments}
  truth_area = _areas(truth_HW)
  pred_area = _areas(pred_HW)
  common_area = _common_areas(truth_HW, pred_HW)
  matched_truth = set()
  matched_pred = set()
  for (truth, pred), area in common_area.items():
    if truth not in truth_category or pred not in pred_category:
      continue
    category = truth_category[truth]
    if pred_category[pred] != category:
      continue
    # What lies on void pixels does not count against a prediction.
    void = common_area.get((0, pred), 0)
    iou = area / (truth_area[truth] + pred_area[pred] - area - void)
    # At most one segment can overlap by more than half.
    if iou > 0.5:
      counts.iou[category] += iou
      counts.matches[category] += 1
      matched_truth.add(truth)
      matched_pred.add(pred)
  # What is left on either side has no partner.
  for truth in truth_category.keys() - matched_truth:
    counts.missed[truth_category[truth]] += 1
  for pred in pred_category.keys() - matched_pred:
    void = common_area.get((0, pred), 0)
    # A segment that lies mostly on void is no mistake.
    if void / pred_area[pred] <= 0.5:
      counts.extra[pred_category[pred]] += 1


def _areas(ids_HW) -> dict[int, int]:
  """Id → pixels."""
  ids, areas = np.unique(ids_HW, return_counts=True)
  return dict(zip(ids.tolist(), areas.tolist(), strict=True))


def _common_areas(truth_HW, pred_HW) -> dict[tuple[int, int], int]:
  """(id of the truth, id of the prediction) → pixels that have both."""
  # Both ids fit into one number, so that one `unique` counts all pairs.
  pairs_HW = truth_HW.astype(np.uint64) * _NUM_IDS + pred_HW.astype(np.uint64)
  common = {}
  for pair, area in _areas(pairs_HW).items():
    common[divmod(pair, _NUM_IDS)] = area
  return common


def read_ids(path: pathlib.Path) -> np.ndarray:
  """The ids of a panoptic PNG, uint32 [H, W]."""
  from PIL import Image
  rgb = np.asarray(Image.open(path), np.uint32)
  return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]


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
  masks_SHW = ids_HW[None] == id_S[:, None, None]

  def fill(value_S):
    """The map that has this value in each segment, [H, W, 1]."""
    filled_SHW = tf.where(masks_SHW, value_S[:, None, None], 0)
    return tf.reduce_sum(filled_SHW, axis=0)[..., None]

  # 0 is void in both maps.
  place_S = tf.range(1, tf.size(id_S) + 1)
  return {**data, "semantics": fill(label_S + 1), "instances": fill(place_S)}


def make_canonical(data: dict[str, Any]) -> dict[str, Any]:
  """The op of that name (sorted by rows), with a mask per segment."""
  import tensorflow as tf
  ids_HW = data["labels"][..., -1]
  ids_V = tf.unique(tf.reshape(ids_HW, [-1])).y
  ids_V = tf.boolean_mask(ids_V, ids_V > 0)
  masks_VHW = ids_HW[None] == ids_V[:, None, None]
  order_V = _order_of_segments(tf.cast(masks_VHW, tf.float32))
  rank_V = tf.math.invert_permutation(order_V) + 1
  new_VHW = tf.where(masks_VHW, rank_V[:, None, None], 0)
  # Void keeps its id, which is not above 0.
  new_HW = tf.reduce_sum(new_VHW, axis=0) + tf.where(ids_HW > 0, 0, ids_HW)
  others = data["labels"][..., :-1]
  return {**data, "labels": tf.concat([others, new_HW[..., None]], axis=-1)}


def _order_of_segments(masks_VHW):
  """By the row of their centers; where that is equal, by the column."""
  import tensorflow as tf
  _, height, width = tf.unstack(tf.shape(masks_VHW))
  row_1H = tf.cast(tf.range(height), tf.float32)[None]
  column_1W = tf.cast(tf.range(width), tf.float32)[None]
  # Pixels of a segment in each row, and in each column.
  in_row_VH = tf.reduce_sum(masks_VHW, axis=2)
  in_column_VW = tf.reduce_sum(masks_VHW, axis=1)
  area_V = tf.reduce_sum(in_row_VH, axis=1)
  y_V = tf.reduce_sum(in_row_VH * row_1H, axis=1) / area_V
  x_V = tf.reduce_sum(in_column_VW * column_1W, axis=1) / area_V
  # Both sorts are stable: equal rows keep the order of their columns.
  by_column_V = tf.argsort(x_V, stable=True)
  by_row_V = tf.argsort(tf.gather(y_V, by_column_V), stable=True)
  return tf.gather(by_column_V, by_row_V)
