"""The base class of families that learn an image encoder from images alone."""

from typing import Any

import jax

from trainers.families.base import Family
from uvim.config import TrainConfig
from uvim.models import make_model
from uvim.priors.base import example_seeds
from uvim.registry import ConfigError


class ImagesFamily(Family):
  """A family that learns an encoder, from which later runs start.

  It has no task and no code.

  Attributes:
    model: has `init`, `network` and `encoder_specs`.
  """

  task = None
  model: Any

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

  @property
  def encoder_specs(self):
    return self.model.encoder_specs

  def check_batch(self, batch):
    if "image" not in batch:
      raise ConfigError("config.pp_train must keep 'image'; it leaves "
                        f"{', '.join(sorted(batch))}.")

  def example_rngs(self, batch, seed) -> jax.Array:
    """A key for each example that follows from (image/id, seed) alone.

    For predictions: they must not depend on chance, nor on the batch.
    """
    seeds_B = example_seeds(batch["image/id"], seed)
    return jax.vmap(jax.random.key)(seeds_B)
