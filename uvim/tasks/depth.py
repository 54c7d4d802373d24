"""Depth: metres for each pixel, as one of K uniform bins (paper section 3.3).

Suffixes: B batch · H W pixels · N patches · P pixels of a patch · K bins.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from uvim import fields, palette, resize
from uvim.nn import losses
from uvim.registry import ConfigError
from uvim.tasks import base, output_files
from uvim.tasks.flaws import NEVER, Flaw

KEY = "depth"
_MAX_UINT16 = 65535
# A share of the pixels with a depth; fewer beyond the range are as expected.
_MANY_PIXELS = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthTask(base.AbstractTask):
  """Labels [B,H,W,1] float in metres; one cross-entropy over K bins.

  A pixel has a depth if its label is finite and above 0. The others are
  holes; the files have 0 there. Depths beyond the range belong to its first or
  last bin.

  Attributes:
    min_depth: where the first bin begins, in metres.
    max_depth: where the last bin ends, in metres.
    ignore_first_bin: True does what the released code does. It cannot tell
      holes from depths of the first bin: the oracle reads both as that bin,
      and neither has a loss. With False only holes have no loss, and the
      oracle sees nothing there.
  """

  keys = (KEY,)
  label_channels = 1
  label_dtype = "float32"
  file_ending = "png"

  min_depth: float = fields.field(
      0.001, doc="Where the first bin begins, in metres.",
      check=fields.number(0))
  max_depth: float = fields.field(
      10.0, doc="Where the last bin ends, in metres.",
      check=fields.number(0))
  ignore_first_bin: bool = fields.field(
      False, doc="The first bin gives no loss, and holes are read as it.",
      check=fields.BOOL)

  def __post_init__(self):
    super().__post_init__()
    # In float32, as the bins are computed.
    if np.float32(self.min_depth) >= np.float32(self.max_depth):
      raise ConfigError(
          f"task_options have min_depth {self.min_depth} and max_depth "
          f"{self.max_depth}; it must be 0 <= min_depth < max_depth, in "
          "metres.")
    # One `encode_labels` makes both the oracle's input and the loss's target.
    if self.inputs_spec[KEY] != self.outputs_spec[KEY]:
      raise ConfigError(
          f"model.inputs['depth'] is {self.inputs_spec[KEY]} but "
          f"model.outputs['depth'] is {self.outputs_spec[KEY]}; both need the "
          "same bins.")

  @property
  def _depth_range(self) -> float:
    """From the nearest depth to the farthest, in metres."""
    return self.max_depth - self.min_depth

  @property
  def num_bins(self) -> int:
    num_bins, _ = self.outputs_spec[KEY]
    return num_bins

  def encode_labels(self, labels: base.AnyArray) -> base.AnyArrays:
    """float [B,H,W,1] -> key -> int32 bins [B,N,P], -1 without a depth.

    Raises:
      ConfigError: labels that are integers (millimetres?) or not one channel.
    """
    channels = labels.shape[-1]
    # Integers are most likely millimetres, and far out of the range.
    is_float = jnp.issubdtype(labels.dtype, jnp.floating)
    if channels != 1 or not is_float:
      raise ConfigError(
          f"Labels are {labels.dtype} with {channels} channels; the depth "
          "task needs one channel of floats in metres, 0 = no depth.")
    depth_BHW = jnp.asarray(labels[..., 0], jnp.float32)
    share_BHW = (depth_BHW - self.min_depth) / self._depth_range
    bins_BHW = jnp.floor(share_BHW * self.num_bins)
    # The end of the range is in the last bin: floor alone would say K.
    last_bin = self.num_bins - 1
    bins_BHW = jnp.clip(bins_BHW, 0, last_bin)
    hole = 0 if self.ignore_first_bin else -1
    # Before the cast: what an integer makes of NaN depends on the device.
    is_known_BHW = _has_depth(depth_BHW)
    bins_BHW = jnp.where(is_known_BHW, bins_BHW, hole)
    ids_BHW = bins_BHW.astype(jnp.int32)
    return {KEY: base.patchify(ids_BHW, self.patch_size)}

  def label_flaws(self, labels):
    """Images without a depth, and depths beyond the range."""
    depth_BHW = labels[..., 0]
    is_known_BHW = _has_depth(depth_BHW)
    is_far_BHW = depth_BHW > self.max_depth
    is_near_BHW = depth_BHW < self.min_depth
    is_beyond_BHW = is_known_BHW & (is_far_BHW | is_near_BHW)
    num_known_B = is_known_BHW.sum((1, 2))
    num_beyond_B = is_beyond_BHW.sum((1, 2))
    is_known_B = num_known_B > 0
    known_BHW = jnp.where(is_known_BHW, depth_BHW, jnp.nan)
    allowed = (f"task_options have min_depth {self.min_depth:g} and max_depth "
               f"{self.max_depth:g}, in metres.")
    return [
        Flaw("unlabelled", ~is_known_B, "depths", depth_BHW,
             "a pixel with a depth has a finite number of metres above 0."),
        Flaw("beyond", is_known_B & (num_beyond_B == num_known_B), "depths",
             known_BHW, f"{allowed} Are they millimetres or centimetres?"),
        Flaw("partly_beyond", num_beyond_B > _MANY_PIXELS * num_known_B,
             "depths", known_BHW, f"{allowed} Those beyond belong to the first "
             "or last bin.", NEVER)]

  def loss(self, logits, x):
    """Cross-entropy averaged over pixels.

    Pixels without a loss count as zero in the average, as in the released
    code.

    Returns:
      loss [B] and {'loss_depth'} [B], in nats.
    """
    ids_BNP = x[KEY]
    if self.ignore_first_bin:
      # -1 is "unlabelled" to the loss. The oracle still reads bin 0.
      is_first_BNP = ids_BNP == 0
      ids_BNP = jnp.where(is_first_BNP, -1, ids_BNP)
    loss_BNP = losses.softmax_cross_entropy(logits[KEY], ids_BNP)
    loss_B = losses.per_example_mean(loss_BNP)
    return loss_B, {"loss_depth": loss_B}

  def outputs(self, logits, *, bins: str = "likeliest"):
    """{'depth': f32 [B,H,W]} in metres.

    Args:
      logits: of the bins.
      bins: which bin counts: 'likeliest', or the 'mean' of all by their
        probabilities. The mean has the least squared error, and lies between
        near and far where the model is not sure of an edge.
    """
    fields.check_options(self.outputs, bins=bins)
    if bins == "mean":
      bins_BNP = _mean_bins(logits[KEY])
    else:
      bins_BNP = jnp.argmax(logits[KEY], axis=-2)
    bins_BHW = base.unpatchify(bins_BNP, self.input_size, self.patch_size)
    # A bin stands for its centre: half a width above its lower end.
    width = self._depth_range / self.num_bins
    bins_BHW = bins_BHW.astype(jnp.float32)
    centres_BHW = (bins_BHW + 0.5) * width
    return {KEY: self.min_depth + centres_BHW}

  outputs.checks = {"bins": fields.one_of(("likeliest", "mean"))}
  outputs.docs = {
      "bins": "Which bin a pixel has: the likeliest, or the mean of all by "
      "their probabilities, which has the least squared error."}

  def truth(self, batch):
    return {KEY: batch["labels"][..., 0]}

  @property
  def scale(self) -> base.Scale:
    """Metres."""
    return base.Scale(self.min_depth, self.max_depth, "m")

  def render(self, outputs) -> np.ndarray:
    """Near is bright, far is dark, holes are black; scaled to the range."""
    depth_BHW = np.asarray(outputs[KEY])
    return palette.depth_colors(depth_BHW, self.min_depth, self.max_depth)

  def write(self, path, output, categories=None):
    """A PNG of 16 bits with millimetres."""
    del categories
    levels = np.empty(output.shape, np.uint16)
    for strip in resize.strips(output.shape):
      # A cast alone would cut decimals, and wrap around what is too far.
      metres = output[strip].astype(np.float64)
      millimetres = np.rint(metres * 1000)
      levels[strip] = np.clip(millimetres, 0, _MAX_UINT16)
    output_files.write_png(path, levels)


def _mean_bins(logits_BNKP):
  """The mean index f32 [B,N,P] of the bins, by their probabilities."""
  num_bins = logits_BNKP.shape[-2]
  probability_BNKP = jax.nn.softmax(logits_BNKP.astype(jnp.float32), axis=-2)
  bins_K = jnp.arange(num_bins, dtype=jnp.float32)
  return jnp.einsum("bnkp,k->bnp", probability_BNKP, bins_K,
                    precision=jax.lax.Precision.HIGHEST)


def _has_depth(depth: base.AnyArray) -> base.AnyArray:
  """False for 0, negative, NaN and infinite values."""
  return (depth > 0) & (depth < float("inf"))
