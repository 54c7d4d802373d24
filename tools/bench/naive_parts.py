"""Panoptic outputs, panoptic quality and preprocessing the plain way.

With a mask per segment, or a loop over segments, as the definitions read: what
tools/bench/__main__.py compares with.

B batch · N patches · P pixels in a patch · K classes · I instance ids
H W pixels · S segments · V distinct ids
"""

import collections
from typing import Any

import numpy as np


def panoptic_outputs(semantics_BNKP, instances_BNIP):
  """(semantics, instance) int32 [B, N, P, 2] by a stack of masks."""
  import jax
  import jax.numpy as jnp
  ids_BNP = jnp.argmax(instances_BNIP, axis=-2).astype(jnp.int32)
  masks_BNIP = jax.nn.one_hot(
      ids_BNP, instances_BNIP.shape[-2], axis=-2, dtype=jnp.float32)
  sums_BIK = jnp.einsum("bnip,bnkp->bik", masks_BNIP,
                        semantics_BNKP.astype(jnp.float32))
  label_BI = jnp.argmax(sums_BIK, axis=-1)
  area_BI = jnp.sum(masks_BNIP, axis=(1, 3))
  label_BI = jnp.where(area_BI > 0, label_BI, 0)
  classes_BNP = jnp.einsum("bnip,bi->bnp", masks_BNIP,
                           label_BI.astype(jnp.float32))
  return jnp.stack([classes_BNP.astype(jnp.int32), ids_BNP], axis=-1)


def panoptic_quality(images, categories) -> dict[str, float]:
  """PQ over `images` of (truth, its segments, prediction, its segments).

  A picture at a time, a segment at a time, in dictionaries: the manner of the
  official scorer. Neither crowd regions nor ids without a segment occur.

  Returns:
    'All', 'Things', 'Stuff' → PQ as a fraction.
  """
  iou, tp, fp, fn = (collections.Counter() for _ in range(4))
  for truth in images:
    _score_picture(*truth, iou=iou, tp=tp, fp=fp, fn=fn)
  out = {}
  for group, kinds in (("All", (True, False)), ("Things", (True,)),
                       ("Stuff", (False,))):
    values = []
    for c in categories:
      weight = tp[c.id] + 0.5 * fp[c.id] + 0.5 * fn[c.id]
      if weight and c.isthing in kinds:
        values.append(iou[c.id] / weight)
    out[group] = sum(values) / max(len(values), 1)
  return out


def _score_picture(gt_HW, gt_segments, pred_HW, pred_segments, *, iou, tp, fp,
                   fn):
  offset = 1 << 24
  gt = {s["id"]: s["category_id"] for s in gt_segments}
  pred = {s["id"]: s["category_id"] for s in pred_segments}
  areas = [dict(zip(*map(np.ndarray.tolist, pair), strict=True)) for pair in (
      np.unique(x_HW, return_counts=True) for x_HW in (gt_HW, pred_HW))]
  pairs = gt_HW.astype(np.uint64) * offset + pred_HW.astype(np.uint64)
  common = {divmod(int(pair), offset): int(area) for pair, area in zip(
      *np.unique(pairs, return_counts=True), strict=True)}
  matched_gt, matched_pred = set(), set()
  for (g, p), area in common.items():
    if g not in gt or p not in pred or gt[g] != pred[p]:
      continue
    union = areas[0][g] + areas[1][p] - area - common.get((0, p), 0)
    if area / union > 0.5:
      iou[gt[g]] += area / union
      tp[gt[g]] += 1
      matched_gt.add(g)
      matched_pred.add(p)
  for g in gt.keys() - matched_gt:
    fn[gt[g]] += 1
  for p in pred.keys() - matched_pred:
    if common.get((0, p), 0) / areas[1][p] <= 0.5:
      fp[pred[p]] += 1


def coco_panoptic(data: dict[str, Any]) -> dict[str, Any]:
  """The op of that name, with a mask of the whole picture per segment."""
  import tensorflow as tf
  objects = data["panoptic_objects"]
  red, green, blue = tf.unstack(
      tf.cast(data["panoptic_image"], tf.int32), axis=-1)
  ids_HW = red + 256 * green + 65536 * blue
  id_S, label_S = (tf.cast(objects[k], tf.int32) for k in ("id", "label"))
  masks_SHW = tf.cast(ids_HW[None] == id_S[:, None, None], tf.int32)
  place_S = tf.range(1, tf.size(id_S) + 1)
  maps = {name: tf.reduce_sum(masks_SHW * x_S[:, None, None], 0)[..., None]
          for name, x_S in (("semantics", label_S + 1),
                            ("instances", place_S))}
  return {**data, **maps}


def make_canonical(data: dict[str, Any]) -> dict[str, Any]:
  """The op of that name (sorted by rows), with a mask per segment."""
  import tensorflow as tf
  ids_HW = data["labels"][..., -1]
  ids_V = tf.unique(tf.reshape(ids_HW, [-1])).y
  ids_V = tf.boolean_mask(ids_V, ids_V > 0)
  masks_VHW = tf.cast(ids_HW[None] == ids_V[:, None, None], tf.float32)
  shape = tf.shape(ids_HW)
  rows = tf.cast(tf.range(shape[0]), tf.float32)[None, :, None]
  columns = tf.cast(tf.range(shape[1]), tf.float32)[None, None]
  area_V = tf.reduce_sum(masks_VHW, (1, 2))
  y_V = tf.reduce_sum(masks_VHW * rows, (1, 2)) / area_V
  x_V = tf.reduce_sum(masks_VHW * columns, (1, 2)) / area_V
  order_V = tf.argsort(x_V, stable=True)
  order_V = tf.gather(order_V, tf.argsort(tf.gather(y_V, order_V), stable=True))
  rank_V = tf.math.invert_permutation(order_V) + 1
  masks_VHW = tf.cast(masks_VHW, tf.int32)
  new_HW = tf.reduce_sum(masks_VHW * rank_V[:, None, None], 0)
  new_HW += tf.where(ids_HW > 0, 0, ids_HW)
  labels = tf.concat([data["labels"][..., :-1], new_HW[..., None]], -1)
  return {**data, "labels": labels}
