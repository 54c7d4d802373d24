"""Colorization: three real numbers per pixel (paper section 3.2).

The picture that the models see is grey already: preprocessing copies its luma
to three channels and keeps the colours as labels.

Suffixes: B batch · H W pixels · C channels · N patches · P pixels of a patch.
"""

import jax.numpy as jnp
import numpy as np

from uvim import losses
from uvim.registry import ConfigError
from uvim.tasks import base
from uvim.typing import Float

KEY = "color"
CHANNELS = 3


class ColorizationTask(base.AbstractTask):
  """Labels [B,H,W,3] float RGB in [-1,1]; mean squared error."""

  def __post_init__(self):
    super().__post_init__()
    for field, spec in (("inputs", self.inputs_spec),
                        ("outputs", self.outputs_spec)):
      if spec[KEY][0] != CHANNELS:
        raise ConfigError(
            f"model.{field}['color'] has {spec[KEY][0]} channels; it must be "
            f"{CHANNELS}: red, green and blue.")

  @property
  def keys(self) -> tuple[str, ...]:
    return (KEY,)

  def encode_labels(self, labels: Float[base.AnyArray, "B H W 3"]
                    ) -> dict[str, Float[base.AnyArray, "B N 3 P"]]:
    """Channels per patch; floats, which the model embeds as they are.

    Raises:
      ConfigError: labels that are integers (0..255?) or not three channels.
    """
    floats = jnp.issubdtype(labels.dtype, jnp.floating)
    if labels.shape[-1] != CHANNELS or not floats:
      raise ConfigError(
          f"Labels are {labels.dtype} with {labels.shape[-1]} channels; the "
          "colorization task needs three channels of floats in [-1, 1]: "
          'value_range(-1, 1, key="labels") in the preprocessing string.')
    labels_BNPC = base.patchify(labels, self.patch_size)
    return {KEY: labels_BNPC.swapaxes(2, 3)}

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
    color_BNPC = logits[KEY].astype(jnp.float32).swapaxes(2, 3)
    color_BHWC = base.unpatchify(color_BNPC, self.input_size, self.patch_size)
    return {KEY: jnp.clip(color_BHWC, -1, 1)}

  def truth(self, batch):
    return {KEY: batch["labels"]}

  def render(self, outputs) -> np.ndarray:
    """The colours themselves, rounded to 8 bits."""
    color_BHWC = np.clip(np.asarray(outputs[KEY]), -1, 1)
    return np.uint8(np.rint(color_BHWC * 127.5 + 127.5))
