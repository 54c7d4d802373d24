"""Surface normals, the worked example of docs/new_task.md.

x points right, y up, z at the camera; the zero vector means "not known".
"""

import jax.numpy as jnp
import numpy as np

from uvim import resize
from uvim.nn import losses
from uvim.tasks import base
from uvim.tasks.flaws import ANY, Flaw

# Of a unit vector, with room for rounding.
_MAX_LENGTH = 1.05


class NormalsTask(base.RealTask):
  """Labels [B,H,W,3] float; half the squared distance to the true normal."""

  keys = ("normals",)
  label_channels = 3
  meaning = "x, y and z of a unit vector"

  def label_flaws(self, labels):
    """Also vectors that are too long, and images where none is known."""
    squares_BHW = jnp.sum(jnp.square(labels), -1)
    longest_B = squares_BHW.max((1, 2))
    too_long = Flaw(
        "too_long", longest_B > _MAX_LENGTH**2, "normals", labels,
        "each must have length 1, or 0 where it is not known.", ANY)
    unlabelled = Flaw(
        "unlabelled", longest_B == 0, "normals", labels,
        "one that is known has length 1.")
    return [*super().label_flaws(labels), too_long, unlabelled]

  def loss(self, logits, x):
    """1 - cosine of unit vectors. The mean counts unknown ones as 0."""
    predicted = logits[self.key].astype(jnp.float32)
    truth = x[self.key]
    # Axis 2 of [B, N, C, P] are x, y and z.
    is_known = jnp.any(truth != 0, axis=2)
    # For two unit vectors, half the squared distance is 1 - cosine.
    error = jnp.square(predicted - truth).sum(2) / 2
    loss_B = losses.per_example_mean(jnp.where(is_known, error, 0.0))
    return loss_B, {"loss_normals": loss_B}

  def outputs(self, logits):
    """{'normals': f32 [B,H,W,3]} of length 1; where logits are 0, zeros."""
    return {self.key: _unit(self.pixels(logits))}

  def mean(self, outputs):
    """The mean direction, of length 1."""
    return {self.key: _unit(super().mean(outputs)[self.key])}

  def render(self, outputs):
    """x, y, z as red, green, blue: what faces us is blue, unknown is black."""
    normals = np.asarray(outputs[self.key])
    # `to_bytes` would draw the zero vector as grey.
    is_known = normals.any(-1, keepdims=True)
    return np.where(is_known, resize.to_bytes(normals), np.uint8(0))


def _unit(vectors):
  """Vectors of length 1; the zero vector stays."""
  length = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
  # The limit keeps a zero vector zero instead of NaN.
  return vectors / jnp.maximum(length, 1e-9)
