"""The base class of models that learn an image encoder from images alone."""

import abc
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax

from uvim import fields
from uvim.encoders.base import EncoderSpec
from uvim.typing import PRNGKey, PyTree


@dataclasses.dataclass(frozen=True)
class ImagesModel(abc.ABC):
  """A model whose image encoder later runs start from.

  Attributes:
    network: what is trained: the encoder and what teaches it.
    network_class: its class. The fields are those of the config's block, with
      `input_size`, `num_heads` and `encoder_style` among them. `check(where)`
      refuses sizes that do not fit, and `grid_size` is the encoder's grid.
  """
  network: nn.Module
  network_class: ClassVar[type[nn.Module]]

  @classmethod
  def known_fields(
      cls,
      model_fields: Mapping[str, Any],
      where: str,
  ) -> dict[str, fields.Field]:
    """All fields that a block such as `config.model` may have, by name."""
    del model_fields, where
    return fields.fields_of(cls.network_class)

  @classmethod
  def from_fields(cls, model_fields: Mapping[str, Any], where: str) -> Self:
    """Builds the model from one block of fields.

    Args:
      model_fields: such as `config.model`: fields of `network_class`.
      where: path of that block, for messages.

    Raises:
      ConfigError: an unknown or missing field, a value that is not allowed,
        sizes that do not fit.
    """
    known = cls.known_fields(model_fields, where)
    fields.check_fields(known, model_fields, where)
    network = cls.network_class(**fields.hashable(model_fields))
    network.check(where)
    return cls(network)

  @abc.abstractmethod
  def example_inputs(self) -> tuple[jax.Array, ...]:
    """Arguments of the network for one image, of zeros."""

  def init(self, rng: PRNGKey) -> PyTree:
    """Fresh float32 parameters; traceable."""
    return _init(self, rng)

  @property
  def image_size(self) -> tuple[int, int]:
    """Height and width of the images that the network sees."""
    return self.network.input_size

  @property
  def encoder_specs(self) -> dict[str, EncoderSpec]:
    """What pretrained encoders may fill, by their part of the parameters."""
    network = self.network
    spec = EncoderSpec(
        network.encoder_style, network.num_heads, network.grid_size)
    return {"encoder": spec}


# Jitted for its cache: a run asks for the shapes several times, seconds each.
@functools.partial(jax.jit, static_argnums=0)
def _init(model: ImagesModel, rng: PRNGKey) -> PyTree:
  return model.network.init(rng, *model.example_inputs())["params"]
