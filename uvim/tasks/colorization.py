"""Colorization: three real numbers per pixel (paper section 3.2).

The image that the models see is grey: preprocessing copies its luma to three
channels and keeps the colors as labels.

Suffixes: B batch · H W pixels · C channels.
"""

import jax.numpy as jnp
import numpy as np

from uvim import fields, resize
from uvim.nn import losses
from uvim.tasks import base, output_files
from uvim.tasks.flaws import ANY, Flaw

KEY = "color"
# A resize that sharpens may leave [-1, 1] a little.
_LARGEST = 1.5


class ColorizationTask(base.RealTask):
  """Labels [B,H,W,3] float RGB in [-1,1]; mean squared error."""

  keys = (KEY,)
  label_channels = 3
  meaning = ("red, green and blue in [-1, 1], as of "
             'value_range(-1, 1, key="labels") in the preprocessing string')
  labels_from_image = True
  sees_grey = True
  file_ending = "png"

  def label_flaws(self, labels):
    """Also colors that are not scaled to [-1, 1]."""
    largest_B = abs(labels).max((1, 2, 3))
    beyond = Flaw(
        "beyond", largest_B > _LARGEST, "colors", labels,
        f"they must be {self.meaning}.", ANY)
    return [*super().label_flaws(labels), beyond]

  def loss(self, logits, x):
    """Squared error averaged over channels and pixels.

    The logits are not clipped: a clip would have no gradient outside of
    [-1, 1].

    Returns:
      loss [B] and {'loss_color'} [B].
    """
    error = logits[KEY].astype(jnp.float32) - x[KEY]
    loss_B = losses.per_example_mean(jnp.square(error))
    return loss_B, {"loss_color": loss_B}

  def outputs(self, logits):
    """{'color': f32 [B,H,W,3]} clipped to [-1,1]."""
    return {KEY: jnp.clip(self.pixels(logits), -1, 1)}

  def render(self, outputs) -> np.ndarray:
    """The colors themselves, rounded to 8 bits."""
    return resize.to_bytes(np.asarray(outputs[KEY]))

  def label_at(self, label, size, *, antialias=False):
    """The image in color, resized as the models' input is."""
    # Not nearest, as other labels: this one is the image itself.
    return resize.to_model(label, size, antialias=antialias)

  def to_image_size(self, output, image, *, full_luma: bool = False):
    """Resizes predicted colors bilinearly to the size of the image.

    Args:
      output: float32 [h, w, 3] in [-1, 1].
      image: [H, W, 3], uint8 or floats in [-1, 1].
      full_luma: takes the luma from the image. It is sharper than what the
        model saw. Only the colors are then the model's.
    """
    fields.check_options(self.to_image_size, full_luma=full_luma)
    color_HWC = resize.resize_bilinear(output, image.shape[:2])
    if color_HWC is output:
      # What follows works in place.
      color_HWC = output.copy()
    if full_luma:
      for strip in resize.strips(image.shape):
        color_HWC[strip] = _with_luma(color_HWC[strip], image[strip])
    # The shift may leave the range of colors.
    return np.clip(color_HWC, -1, 1, out=color_HWC)

  to_image_size.checks = {"full_luma": fields.BOOL}
  to_image_size.docs = {
      "full_luma": "Keeps the luma of the image, at its full resolution."}

  def write(self, path, output, categories=None):
    """An RGB PNG."""
    del categories
    output_files.write_png(path, resize.to_bytes(output))


def _with_luma(color_HWC: np.ndarray, image_HWC: np.ndarray) -> np.ndarray:
  """The colors, float32 in [-1, 1], with the luma of an image."""
  is_bytes = image_HWC.dtype == np.uint8
  image_HWC = image_HWC.astype(np.float32)
  if is_bytes:
    # From levels to [-1, 1].
    image_HWC = image_HWC / np.float32(127.5) - 1
  weights_C = resize.LUMA_WEIGHTS
  # Add the same to all three channels: the luma changes, the color differences
  # stay.
  missing_HW = (image_HWC - color_HWC) @ weights_C
  # The weights do not quite sum to one.
  return color_HWC + missing_HW[..., None] / weights_C.sum()
