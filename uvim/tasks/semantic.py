"""Semantic segmentation: a class for each pixel, and segments made of it.

This is the task for labels that know no instances, such as a folder of masks.
Classes are numbered from 1, and 0 is void. Each connected region of a class of
things is an instance; any other class is one segment.

Suffixes: B batch · H W pixels · C channels (semantics, instance) · N patches
· P pixels of a patch · K classes · S segments of an image.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from uvim import fields
from uvim.nn import losses
from uvim.registry import ConfigError
from uvim.tasks import base, coco_format, instances, panoptic, regions
from uvim.tasks.flaws import ANY, Flaw

KEY = "semantics"


def _are_classes(value):
  if not isinstance(value, (tuple, list)):
    return False
  is_class = fields.integer(1).fits
  return all(map(is_class, value))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SemanticTask(base.AbstractTask):
  """Labels [B,H,W,1] int32, the class; one cross-entropy.

  Attributes:
    things: the classes whose regions are instances.
  """

  keys = (KEY,)
  output_keys = ("panoptic",)
  label_channels = 1
  label_dtype = "int32"
  file_ending = "png"
  list_file = "panoptic.json"

  things: tuple[int, ...] = fields.field(
      (), doc="Classes, from 1, of which each connected region is an instance. "
      "Any other class is one segment.",
      check=fields.Check("classes, as in (9, 10, 11)", _are_classes))

  def __post_init__(self):
    super().__post_init__()
    for number in self.things:
      if number >= self._num_ids:
        raise ConfigError(
            f"task_options.things has class {number}; model.outputs[{KEY!r}] "
            f"has 1..{self.num_categories}, and 0 is void.")

  @property
  def _num_ids(self) -> int:
    """K: the classes and void."""
    num_ids, _ = self.outputs_spec[KEY]
    return num_ids

  @property
  def num_categories(self) -> int:
    """The classes without void."""
    return self._num_ids - 1

  def encode_labels(self, labels: base.AnyArray) -> base.AnyArrays:
    """int [B,H,W,1] -> key -> int [B,N,P]; −1 where there is no class.

    Raises:
      ConfigError: labels that are no integers, or not of one channel.
    """
    channels = labels.shape[-1]
    is_integer = jnp.issubdtype(labels.dtype, jnp.integer)
    if channels != 1 or not is_integer:
      raise ConfigError(
          f"Labels are {labels.dtype} with {channels} channels; this task "
          "needs one channel of integers, the class.")
    ids_BNP = base.patchify(labels[..., 0], self.patch_size)
    # Void says nothing to the oracle and costs nothing.
    return {KEY: jnp.where(ids_BNP > 0, ids_BNP, -1)}

  def label_flaws(self, labels):
    """Images without a class, and classes beyond those of the model."""
    ids_BHW = labels[..., 0]
    is_beyond_BHW = ids_BHW > self.num_categories
    is_class_BHW = (ids_BHW > 0) & ~is_beyond_BHW
    return [
        Flaw("beyond", is_beyond_BHW.any((1, 2)), "class ids", ids_BHW,
             f"model.outputs[{KEY!r}] has 1..{self.num_categories}, and 0 is "
             "void.", ANY),
        Flaw("unlabelled", ~is_class_BHW.any((1, 2)), "class ids", ids_BHW,
             f"a labelled pixel has one of 1..{self.num_categories}.")]

  def loss(self, logits, x):
    """The cross-entropy in nats; void counts as zero in the mean."""
    loss_BNP = losses.softmax_cross_entropy(logits[KEY], x[KEY])
    loss_B = losses.per_example_mean(loss_BNP)
    return loss_B, {f"loss_{KEY}": loss_B}

  def outputs(self, logits, *, min_fraction: float = 0.0):
    """{'panoptic': int32 [B,H,W,2]}: the likeliest class, and its segments."""
    # Nothing teaches void, so its logits mean nothing.
    ids_BNP = instances.argmax_classes(logits[KEY][:, :, 1:]) + 1
    ids_BHW = base.unpatchify(ids_BNP, self.input_size, self.patch_size)
    return {"panoptic": self._segments(ids_BHW, min_fraction)}

  outputs.checks = {"min_fraction": instances.OPTION_CHECKS["min_fraction"]}
  outputs.docs = {"min_fraction": "Drops segments under this share of the "
                  "image."}

  def _segments(self, ids_BHW, min_fraction: float = 0.0):
    """(class, instance) of each pixel, or (0, 0) in a segment too small."""
    regions_BHW = regions.number_regions(ids_BHW)
    is_thing_K = np.zeros(self._num_ids, bool)
    is_thing_K[list(self.things)] = True
    # Classes stand before the regions, so that the numbers cannot meet.
    numbers_BHW = jnp.where(
        jnp.asarray(is_thing_K)[ids_BHW], regions_BHW + self._num_ids, ids_BHW)
    # Pixels of each segment. There may be as many regions as pixels.
    batch, height, width = ids_BHW.shape
    num_pixels = height * width
    length = self._num_ids + num_pixels + 1
    numbers_BX = numbers_BHW.reshape(batch, num_pixels)
    count = functools.partial(jnp.bincount, length=length)
    area_BS = jax.vmap(count)(numbers_BX)
    area_BX = jnp.take_along_axis(area_BS, numbers_BX, axis=1)
    largest = instances.max_removed_area(min_fraction, num_pixels)
    is_kept_BHW = (area_BX > largest).reshape(ids_BHW.shape) & (ids_BHW > 0)
    pairs_BHWC = jnp.stack([ids_BHW, numbers_BHW], axis=-1)
    return jnp.where(is_kept_BHW[..., None], pairs_BHWC, 0)

  def truth(self, batch):
    ids_BHW = jnp.asarray(batch["labels"])[..., 0]
    return {"panoptic": self._segments(jnp.maximum(ids_BHW, 0))}

  def render(self, outputs) -> np.ndarray:
    """As in panoptic segmentation."""
    return panoptic.render_panoptic(np.asarray(outputs["panoptic"]))

  def write(self, path, output, categories=None):
    """A PNG of segment ids in COCO's format; returns its COCO record."""
    return coco_format.write_panoptic(path, output, categories)

  def write_list(self, path, images, records, categories=None):
    """COCO's JSON, which the official evaluation reads."""
    coco_format.write_panoptic_list(path, images, records, categories)
