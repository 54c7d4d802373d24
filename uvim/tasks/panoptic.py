"""Panoptic segmentation: two integers per pixel, semantics and instance.

Semantics are class + 1, and 0 is void. Instances number all segments, stuff
too, in raster order of their centres, and 0 is void (paper section 4.1,
appendix D).

Suffixes: B batch · H W pixels · C channels (semantics, instance) · N patches
· P pixels of a patch · S segments of one image.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from uvim import palette
from uvim.nn import losses
from uvim.registry import ConfigError
from uvim.tasks import base, coco_format
from uvim.tasks.flaws import ANY, Flaw
from uvim.tasks.instances import OPTION_CHECKS, panoptic_from_logits
from uvim.typing import Int

LabelOfImage = Int[np.ndarray, "H W C"]

KEYS = ("semantics", "instances")
# How a model without patches calls its numbers of classes and of ids.
_FIELDS_OF_PIXELS = {
    "semantics": "model.num_classes", "instances": "model.num_ids"}


def fields_of_pixels(
    sizes: tuple[int, int], mask_size: tuple[int, int]
) -> dict[str, Any]:
  """The fields for `make_task` of a model without patches.

  Args:
    sizes: how many classes it has, with void, and how many ids, with 0.
    mask_size: height and width of its masks.
  """
  spec = {key: (size, 1) for key, size in zip(KEYS, sizes, strict=True)}
  return {
      "inputs": spec,
      "outputs": spec,
      "input_size": mask_size,
      "patch_size": (1, 1),
  }


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

  def encode_labels(self, labels: base.AnyArray) -> base.AnyArrays:
    """int [B,H,W,2] -> key -> int [B,N,P].

    Ids out of range mean "unlabelled".

    Raises:
      ConfigError: labels that are no integers, or not of two channels.
    """
    channels = labels.shape[-1]
    is_integer = jnp.issubdtype(labels.dtype, jnp.integer)
    if channels != self.label_channels or not is_integer:
      raise ConfigError(
          f"Labels are {labels.dtype} with {channels} channels; this task "
          "needs two channels of integers, semantics and instances.")
    labels_BNPC = base.patchify(labels, self.patch_size)
    ids = {}
    for channel, key in enumerate(KEYS):
      ids[key] = labels_BNPC[..., channel]
    return ids

  def label_flaws(self, labels):
    """Images without a class, and ids beyond those of the model."""
    semantics_BHW = labels[..., 0]
    instances_BHW = labels[..., 1]
    num_classes = self._num_ids("semantics")
    num_instances = self._num_ids("instances")
    last_class = num_classes - 1
    is_class_BHW = (semantics_BHW > 0) & (semantics_BHW < num_classes)
    is_beyond_BHW = semantics_BHW >= num_classes
    is_over_BHW = instances_BHW >= num_instances
    return [
        Flaw("beyond", is_beyond_BHW.any((1, 2)), "class ids", semantics_BHW,
             f"{self.field_of('semantics')} has 1..{last_class}, and 0 is "
             "void. A pixel that must not count has an id below 0.", ANY),
        Flaw("unlabelled", ~is_class_BHW.any((1, 2)), "class ids",
             semantics_BHW, f"a labelled pixel has one of 1..{last_class}."),
        Flaw("too_many", is_over_BHW.any((1, 2)), "instance ids",
             instances_BHW, f"{self.field_of('instances')} has "
             f"0..{num_instances - 1}. Pixels beyond count for nothing.")]

  def field_of(self, key):
    if tuple(self.patch_size) == (1, 1):
      # Only Pix2Seq-D has no larger patches.
      return _FIELDS_OF_PIXELS[key]
    return super().field_of(key)

  def _num_ids(self, key: str) -> int:
    """How many ids both the oracle and the base model have."""
    num_inputs, _ = self.inputs_spec[key]
    num_outputs, _ = self.outputs_spec[key]
    return min(num_inputs, num_outputs)

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
    loss_B = logs["loss_semantics"] + logs["loss_instances"]
    return loss_B, logs

  def outputs(self, logits, *, min_fraction: float = 0.0,
              instance_label: str = "logit_sum"):
    """{'panoptic': int32 [B,H,W,2]}, see `panoptic_from_logits`."""
    out_BNPC = panoptic_from_logits(
        logits["semantics"], logits["instances"], min_fraction=min_fraction,
        instance_label=instance_label)
    out_BHWC = base.unpatchify(out_BNPC, self.input_size, self.patch_size)
    return {"panoptic": out_BHWC}

  outputs.checks = OPTION_CHECKS
  outputs.docs = {
      "min_fraction": "Drops segments under this share of the image.",
      "instance_label": "How the pixels of a class become instances.",
  }

  def truth(self, batch):
    return {"panoptic": batch["labels"]}

  def render(self, outputs) -> np.ndarray:
    """A color per class, a shade per instance, black for void."""
    panoptic_BHWC = np.asarray(outputs["panoptic"])
    return render_panoptic(panoptic_BHWC)

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


def canonical_order(label_HWC: LabelOfImage) -> LabelOfImage:
  """Numbers instances, the last channel, 1, 2, … by their centres.

  The order is by mean row, then by mean column, as in the op make_canonical.
  Ids of 0 and below stay as they are.
  """
  height, width = label_HWC.shape[:2]
  # `place` is the index of each pixel's id in `ids_S`.
  instances_HW = label_HWC[..., -1]
  ids_S, place = np.unique(instances_HW, return_inverse=True)
  # The shape of the inverse differs between versions of numpy.
  place_HW = place.reshape(height, width)
  rows_H1 = np.arange(height)[:, None]
  columns_1W = np.arange(width)[None, :]
  mean_row_S = _mean_by_place(place_HW, rows_H1)
  mean_column_S = _mean_by_place(place_HW, columns_1W)
  # lexsort takes its most important key last.
  order_S = np.lexsort((mean_column_S, mean_row_S))
  # Places of the real instances, in their new order.
  is_instance = ids_S[order_S] > 0
  instances = order_S[is_instance]
  num_instances = len(instances)
  new_ids_S = ids_S.copy()
  new_ids_S[instances] = np.arange(1, num_instances + 1)
  renumbered_HWC = np.array(label_HWC)
  renumbered_HWC[..., -1] = new_ids_S[place_HW]
  return renumbered_HWC


def _mean_by_place(place_HW, values) -> np.ndarray:
  """Means [S] of values that are broadcast to [H,W], by the pixel's place."""
  places = place_HW.reshape(-1)
  values_HW = np.broadcast_to(values, place_HW.shape)
  sums_S = np.bincount(places, values_HW.reshape(-1))
  counts_S = np.bincount(places)
  return sums_S / counts_S


def render_panoptic(panoptic_BHWC: Int[np.ndarray, "B H W 2"]) -> np.ndarray:
  """uint8 [B,H,W,3]: the colors of `uvim.palette`; unlabelled is void."""
  drawings = [_render_image(panoptic_HWC) for panoptic_HWC in panoptic_BHWC]
  return np.stack(drawings)


def _render_image(panoptic_HWC) -> np.ndarray:
  """uint8 [H,W,3]."""
  # Unlabelled pixels may be negative.
  positive_HWC = np.maximum(panoptic_HWC, 0)
  ids_HW, classes = coco_format.number_segments(positive_HWC)
  # Void has the number 0.
  colors = np.zeros((len(classes) + 1, 3), np.uint8)
  colors[0] = palette.VOID
  colors[1:] = palette.segment_colors(classes)
  return colors[ids_HW]
