"""Panoptic segmentation: two integers per pixel, semantics and instance.

Semantics are class + 1, and 0 is void. Instances number all segments, stuff
too, in raster order of their centres, and 0 is void (paper section 4.1,
appendix D).

Suffixes: B batch · H W pixels · C channels (semantics, instance) · N patches
· P pixels of a patch · S segments of one image.
"""

import numpy as np

from uvim.nn import losses
from uvim.tasks import base, coco_format
from uvim.tasks.instances import OPTION_CHECKS, panoptic_from_logits
from uvim.typing import Int

KEYS = ("semantics", "instances")
# Color steps from one number to the next. Multiples of an irrational number,
# modulo 1, spread evenly and never repeat. These are close enough to one.
_GOLDEN_STEP = 0.618034
_OTHER_STEP = 0.414214


class PanopticTask(base.AbstractTask):
  """Labels [B,H,W,2] int32 (semantics, instances); two cross-entropies."""

  keys = KEYS
  output_keys = ("panoptic",)
  label_channels = 2
  label_dtype = "int32"
  file_ending = "png"
  list_file = "panoptic.json"

  @property
  def num_categories(self) -> int:
    """The classes without void."""
    num_classes, _ = self.outputs_spec["semantics"]
    return num_classes - 1

  def encode_labels(self, labels: Int[base.AnyArray, "B H W 2"]
                    ) -> dict[str, Int[base.AnyArray, "B N P"]]:
    """Integer ids per patch; ids out of range mean "unlabelled"."""
    labels_BNPC = base.patchify(labels, self.patch_size)
    return {key: labels_BNPC[..., i] for i, key in enumerate(KEYS)}

  def loss(self, logits, x):
    """Unweighted sum of both per-pixel cross-entropies, averaged over pixels.

    Unlabelled pixels count as zero in the average, as in the released code.

    Returns:
      loss [B] and {'loss_semantics', 'loss_instances'} [B], in nats.
    """
    logs = {}
    for key in KEYS:
      loss_BNP = losses.softmax_cross_entropy(logits[key], x[key])
      logs[f"loss_{key}"] = losses.per_example_mean(loss_BNP)
    return logs["loss_semantics"] + logs["loss_instances"], logs

  def outputs(self, logits, *, min_fraction: float = 0.0,
              instance_label: str = "logit_sum"):
    """{'panoptic': int32 [B,H,W,2]}, see `panoptic_from_logits`."""
    self.check_output_options(
        min_fraction=min_fraction, instance_label=instance_label)
    out_BNPC = panoptic_from_logits(
        logits["semantics"], logits["instances"], min_fraction=min_fraction,
        instance_label=instance_label)
    return {
        "panoptic":
            base.unpatchify(out_BNPC, self.input_size, self.patch_size)
    }

  outputs.checks = OPTION_CHECKS
  outputs.docs = {
      "min_fraction": "Drops segments under this share of the image.",
      "instance_label": "How the pixels of a class become instances.",
  }

  def truth(self, batch):
    return {"panoptic": batch["labels"]}

  def render(self, outputs) -> np.ndarray:
    """A hue per class, a shade per instance, black for void."""
    return render_panoptic(np.asarray(outputs["panoptic"]))

  def label_at(self, label, size, *, antialias=False):
    """Nearest, then the order of instances that the oracle was trained on."""
    label_HWC = super().label_at(label, size, antialias=antialias)
    return canonical_order(label_HWC)

  def write(self, path, output, categories=None):
    """A PNG of segment ids in COCO's format; returns its COCO record."""
    return coco_format.write_panoptic(path, output, categories)

  def write_list(self, path, images, records, categories=None):
    """COCO's JSON, which the official evaluation reads."""
    coco_format.write_panoptic_list(path, images, records, categories)


def canonical_order(label_HWC: Int[np.ndarray, "H W C"]
                    ) -> Int[np.ndarray, "H W C"]:
  """Numbers instances, the last channel, 1, 2, … by their centres.

  The order is by mean row, then by mean column, as in the op make_canonical.
  Ids of 0 and below stay as they are.
  """
  height, width = label_HWC.shape[:2]
  # `place` is the index of each pixel's id in `ids_S`.
  ids_S, place = np.unique(label_HWC[..., -1], return_inverse=True)
  # The shape of the inverse differs between versions of numpy.
  place_HW = place.reshape(height, width)
  mean_row_S = _mean_by_place(place_HW, np.arange(height)[:, None])
  mean_column_S = _mean_by_place(place_HW, np.arange(width)[None, :])
  # lexsort takes its most important key last.
  order_S = np.lexsort((mean_column_S, mean_row_S))
  # Places of the real instances, in their new order.
  instances = order_S[ids_S[order_S] > 0]
  new_ids_S = ids_S.copy()
  new_ids_S[instances] = np.arange(1, len(instances) + 1)
  renumbered_HWC = np.array(label_HWC)
  renumbered_HWC[..., -1] = new_ids_S[place_HW]
  return renumbered_HWC


def _mean_by_place(place_HW, values) -> np.ndarray:
  """Means [S] of values that are broadcast to [H,W], by the pixel's place."""
  places = place_HW.reshape(-1)
  values = np.broadcast_to(values, place_HW.shape).reshape(-1)
  return np.bincount(places, values) / np.bincount(places)


def render_panoptic(panoptic_BHWC: Int[np.ndarray, "B H W 2"]) -> np.ndarray:
  """uint8 [B,H,W,3]; a pair (semantics, instance) always has one color."""
  # Unlabelled pixels may be negative; draw them as void.
  positive_BHWC = np.maximum(panoptic_BHWC, 0)
  classes_BHW = positive_BHWC[..., 0]
  ids_BHW = positive_BHWC[..., 1]
  # A class chooses the hue; its instances differ from it by at most 6 %.
  hue_shift_BHW = (ids_BHW * _OTHER_STEP % 1 - 0.5) * 0.12
  hue_BHW = (classes_BHW * _GOLDEN_STEP + hue_shift_BHW) % 1
  brightness_BHW = 0.55 + 0.45 * (ids_BHW * _GOLDEN_STEP % 1)
  rgb_BHWC = _hue_to_rgb(hue_BHW, brightness_BHW, saturation=0.7)
  is_segment_BHW = classes_BHW > 0
  return np.uint8(np.where(is_segment_BHW[..., None], 255 * rgb_BHWC, 0))


def _hue_to_rgb(hue, brightness, *, saturation) -> np.ndarray:
  """HSV as RGB, all in [0, 1]; a new last axis of 3.

  Around the circle of hues, cut into six parts, each channel is full for two
  parts, falls for one, is low for two and rises for one. Red, green and blue
  do so two parts apart, which is what the starts 5, 3 and 1 say.
  """
  starts = np.array([5, 3, 1])
  part = (starts + hue[..., None] * 6) % 6
  # How much of the saturation a channel lacks: 0 is full, 1 is low.
  lack = np.clip(np.minimum(part, 4 - part), 0, 1)
  return brightness[..., None] * (1 - saturation * lack)
