"""A masked autoencoder learns to see from images alone, by filling in patches.

B batch · H W image pixels · N patches
X numbers of a patch, which are pixels · channels

The encoder reads a few patches of an image. A small decoder predicts the pixels
of the others. After training only the encoder is kept: stage II's image encoder
can start from it. `mae_network.py` has both, this file the loss.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", and its
released code.
"""

import dataclasses

import jax.numpy as jnp

from uvim.models.images import ImagesModel
from uvim.models.mae_network import (
  MAE,
  Noise,
  Patches,
  draw_noise,
  order_patches,
)
from uvim.nn import embedding
from uvim.typing import Array, Float, Image, PerExample, PRNGKey, PyTree

# Added to the variance of a patch before the root, as in the released code.
_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class MaskedAutoencoder(ImagesModel):
  """A masked autoencoder.

  Attributes:
    network: encoder and decoder.
  """
  network: MAE
  network_class = MAE

  def example_inputs(self):
    image = jnp.zeros((1, *self.network.input_size, 3))
    noise_1N = jnp.zeros((1, self.network.num_patches))
    return image, noise_1N

  def draw_noise(self, rngs_B: PRNGKey) -> Noise:
    """What decides which patches are seen, from a key for each example."""
    return draw_noise(rngs_B, self.network.num_patches)

  def mask(self, noise_BN: Noise) -> Float[Array, "B N"]:
    """1 for the patches that the encoder does not see, 0 for the others."""
    order = order_patches(noise_BN)
    is_masked_BN = order.places_BN >= self.network.num_seen
    return is_masked_BN.astype(jnp.float32)

  def predict(self, params: PyTree, image: Image, noise_BN: Noise) -> Patches:
    """The pixels that the network predicts; see `MAE.__call__`."""
    return self.network.apply({"params": params}, image, noise_BN)

  def target(self, image: Image) -> Patches:
    """What the network should predict.

    With `norm_pix_loss` these are the pixels of each patch, normalised to the
    mean 0 and the deviation 1; else the pixels.
    """
    patches_BNX = self.patches(image)
    if not self.network.norm_pix_loss:
      return patches_BNX
    mean_BN1, deviation_BN1 = _moments(patches_BNX)
    return (patches_BNX - mean_BN1) / deviation_BN1

  def loss(self, params: PyTree, image: Image, noise_BN: Noise) -> PerExample:
    """The mean squared error of each example over its masked patches, [B]."""
    predicted_BNX = self.predict(params, image, noise_BN)
    target_BNX = self.target(image)
    error_BN = jnp.mean(jnp.square(predicted_BNX - target_BNX), axis=-1)
    mask_BN = self.mask(noise_BN)
    return jnp.sum(error_BN * mask_BN, axis=1) / jnp.sum(mask_BN, axis=1)

  def reconstruct(
      self,
      params: PyTree,
      image: Image,
      noise_BN: Noise,
  ) -> Patches:
    """The patches of the image, the masked ones as the network predicts them.

    With `norm_pix_loss` the network does not predict the mean and the
    deviation of a patch: they are taken from the image.
    """
    predicted_BNX = self.predict(params, image, noise_BN)
    patches_BNX = self.patches(image)
    if self.network.norm_pix_loss:
      mean_BN1, deviation_BN1 = _moments(patches_BNX)
      predicted_BNX = predicted_BNX * deviation_BN1 + mean_BN1
    is_masked_BN1 = self.mask(noise_BN)[..., None] > 0
    return jnp.where(is_masked_BN1, predicted_BNX, patches_BNX)

  def patches(self, image: Image) -> Patches:
    """The pixels of each patch: rows, columns, channels."""
    return embedding.image_patches(image, self.network.patch_size)


def _moments(patches_BNX):
  """(mean, standard deviation) of each patch, [B, N, 1] both."""
  mean_BN1 = jnp.mean(patches_BNX, axis=-1, keepdims=True)
  # With n - 1 in the denominator, as in the released code.
  variance_BN1 = jnp.var(patches_BNX, axis=-1, keepdims=True, ddof=1)
  return mean_BN1, jnp.sqrt(variance_BN1 + _EPSILON)
