"""Colorization: three real numbers per pixel (paper section 3.2).

The picture that the models see is grey already: preprocessing copies its luma
to three channels and keeps the colours as labels.

Suffixes: B batch · H W pixels.
"""

import jax.numpy as jnp
import numpy as np

from uvim.nn import losses
from uvim.tasks import base

KEY = "color"


class ColorizationTask(base.RealTask):
  """Labels [B,H,W,3] float RGB in [-1,1]; mean squared error."""

  key, channels = KEY, 3
  meaning = ("red, green and blue in [-1, 1], as of "
             'value_range(-1, 1, key="labels") in the preprocessing string')

  def loss(self, logits, x):
    """Squared error averaged over channels and pixels.

    Of the logits as they are: clipped ones would have no gradient outside.

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
    """The colours themselves, rounded to 8 bits."""
    color_BHWC = np.clip(np.asarray(outputs[KEY]), -1, 1)
    return np.uint8(np.rint(color_BHWC * 127.5 + 127.5))
