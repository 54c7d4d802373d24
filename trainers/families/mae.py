"""Pre-training: a masked autoencoder learns an image encoder from images alone.

  python -m trainers.mae --config configs/mae_….py --workdir W

B batch · N patches · P pixels of a patch · H W image pixels

Its encoder is the image encoder of stage II. A later run starts from it by
`config.model_init = {"encoder": W}`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from trainers.families.base import Family, Report, check_size, render_image
from uvim.config import TrainConfig
from uvim.learn import sharding
from uvim.models import make_model
from uvim.models.mae import FIXED, MaskedAutoencoder
from uvim.priors.base import example_seeds
from uvim.registry import ConfigError
from uvim.tasks.base import unpatchify

# The color of masked patches in the panels: the middle of [-1, 1].
_GRAY = 0.0


class MaeFamily(Family):
  """A masked autoencoder as the train loop sees it.

  Attributes:
    model: the network and its loss.
  """

  kind = "mae"
  task = None
  model: MaskedAutoencoder

  def __init__(self, config: TrainConfig):
    """Checks the sizes and builds the model.

    Raises:
      ConfigError: unknown model or field, sizes that do not fit; a task or an
        oracle.
    """
    super().__init__(config)
    for name in ("task", "oracle"):
      value = getattr(config, name)
      if value is not None:
        raise ConfigError(f"config.{name} = {value!r}; a family that learns "
                          "from images alone has none.")
    self.model = make_model(config.model_name, config.model, "config.model")
    self.predictors = {"predict": self.predict, "loss": self.eval_loss}

  def init(self, rng):
    return self.model.init(rng), {}

  @property
  def encoder_specs(self):
    return self.model.encoder_specs

  def frozen_patterns(self):
    return FIXED

  def check_batch(self, batch):
    if "image" not in batch:
      raise ConfigError("config.pp_train must keep 'image'; it leaves "
                        f"{', '.join(sorted(batch))}.")
    check_size(batch["image"], self.model.network.input_size, "image")

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
    """Noise that does not depend on chance, nor on the rest of the batch."""
    seeds_B = example_seeds(batch["image/id"], seed)
    rngs_B = jax.vmap(jax.random.key)(seeds_B)
    return self.model.draw_noise(rngs_B)

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
