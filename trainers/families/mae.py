"""Pre-training: a masked autoencoder learns an image encoder from images alone.

  python -m trainers.mae --config configs/mae_….py --workdir W

B batch · N patches · P pixels of a patch · H W image pixels

Its encoder is the image encoder of stage II. A later run starts from it by
`config.model_init = {"encoder": W}`.
"""

import jax.numpy as jnp
import numpy as np

from trainers.families.base import Report, check_size
from trainers.families.drawing import render_image
from trainers.families.images import ImagesFamily
from uvim.config import TrainConfig
from uvim.learn import sharding
from uvim.models.mae import MaskedAutoencoder
from uvim.models.mae_network import FIXED
from uvim.tasks.base import unpatchify

# The color of masked patches in the panels: the middle of [-1, 1].
_GRAY = 0.0


class MaeFamily(ImagesFamily):
  """A masked autoencoder as the train loop sees it.

  Attributes:
    model: the network and its loss.
  """

  kind = "mae"
  model: MaskedAutoencoder

  def __init__(self, config: TrainConfig):
    """As `ImagesFamily`."""
    super().__init__(config)
    self.predictors = {"predict": self.predict, "loss": self.eval_loss}

  def init(self, rng):
    return self.model.init(rng), {}

  def frozen_patterns(self):
    return FIXED

  def check_batch(self, batch):
    super().check_batch(batch)
    check_size(batch["image"], self.model.image_size, "image")

  def loss(self, params, extra, frozen, batch, rngs_B, step):
    del extra, frozen, step
    noise_BN = self.model.draw_noise(rngs_B)
    loss_B = self.model.loss(params, batch["image"], noise_BN)
    return jnp.mean(loss_B), Report(logs={}, stats=None)

  # ── Predictions ─────────────────────────────────────────────────────────

  def eval_loss(self, variables, batch, seed=0):
    """The loss of each example; its mask follows from (image/id, seed)."""
    noise_BN = self._noise(batch, seed)
    loss_B = self.model.loss(variables["params"], batch["image"], noise_BN)
    return {"loss": loss_B}

  def predict(self, variables, batch, seed=0):
    """The image without the masked patches, and what takes their place.

    Both [B, H, W, 3] in [-1, 1]; the mask follows from (image/id, seed).
    """
    image = batch["image"]
    noise_BN = self._noise(batch, seed)
    filled_BNX = self.model.reconstruct(variables["params"], image, noise_BN)
    is_masked_BN1 = self.model.mask(noise_BN)[..., None] > 0
    masked_BNX = jnp.where(is_masked_BN1, _GRAY, self.model.patches(image))
    return {
        "masked": self._image_of(masked_BNX),
        "reconstruction": self._image_of(filled_BNX),
    }

  def _noise(self, batch, seed):
    """Noise of each example, for a prediction."""
    return self.model.draw_noise(self.example_rngs(batch, seed))

  def _image_of(self, patches_BNX):
    """Patches as images [B, H, W, 3]."""
    network = self.model.network
    batch, num_patches, _ = patches_BNX.shape
    patches_BNPC = patches_BNX.reshape(batch, num_patches, -1, 3)
    return unpatchify(patches_BNPC, network.input_size, network.patch_size)

  def panel(self, predict, variables, batch) -> dict[str, np.ndarray]:
    program = predict("predict", **predict.scored("predict"))
    outputs = sharding.gather_to_host(program(variables, batch))
    image = sharding.gather_to_host(batch["image"])
    return {
        "image": render_image(image),
        "masked": render_image(outputs["masked"]),
        "reconstruction": render_image(outputs["reconstruction"]),
    }
