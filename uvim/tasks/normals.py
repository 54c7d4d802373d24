"""Surface normals, the worked example of docs/new_task.md.

x points right, y up, z at the camera; the zero vector means "not known".
"""

import jax.numpy as jnp
import numpy as np

from uvim import losses
from uvim.registry import ConfigError
from uvim.tasks import base

KEY = "normals"


class NormalsTask(base.AbstractTask):
  """Labels [B,H,W,3] float; half the squared distance to the true normal."""

  keys = (KEY,)

  def encode_labels(self, labels):
    """float [B,N,3,P]; a ConfigError unless all have three channels."""
    channels = (labels.shape[-1], *(
        spec[KEY][0] for spec in (self.inputs_spec, self.outputs_spec)))
    if channels != (3, 3, 3) or not jnp.issubdtype(labels.dtype, jnp.floating):
      raise ConfigError(
          f"Labels, model.inputs and model.outputs have {channels} channels, "
          f"labels are {labels.dtype}; normals are 3 floats in each.")
    return {KEY: base.patchify(labels, self.patch_size).swapaxes(2, 3)}

  def loss(self, logits, x):
    """1 - cosine of unit vectors; 0 for unknown ones, in the mean over all."""
    error = jnp.square(logits[KEY].astype(jnp.float32) - x[KEY]).sum(2) / 2
    known = jnp.any(x[KEY] != 0, axis=2)
    loss_B = losses.per_example_mean(jnp.where(known, error, 0.0))
    return loss_B, {"loss_normals": loss_B}

  def outputs(self, logits):
    """{'normals': f32 [B,H,W,3]} of length 1; where logits are 0, zeros."""
    logits = logits[KEY].astype(jnp.float32).swapaxes(2, 3)
    normals = base.unpatchify(logits, self.input_size, self.patch_size)
    length = jnp.linalg.norm(normals, axis=-1, keepdims=True)
    return {KEY: normals / jnp.maximum(length, 1e-9)}

  def truth(self, batch):
    return {KEY: batch["labels"]}

  def render(self, outputs):
    """x, y, z as red, green, blue: what faces us is blue, unknown is black."""
    normals = np.asarray(outputs[KEY])
    known = normals.any(-1, keepdims=True)
    return np.uint8(np.where(known, np.rint(normals * 127.5 + 127.5), 0))
