"""Architectures by the names that configs use in `model_name`."""

from collections.abc import Mapping
from typing import Any

from uvim.models import guided
from uvim.priors import make_prior
from uvim.registry import lookup

# The second name of each is the released code's own.
MODELS = {
    "vit": guided.make_guided_model,
    "proj.uvim.vit": guided.make_guided_model,
    "lm": make_prior,
    "proj.uvim.lm": make_prior,
}


def make_model(name: str, model_fields: Mapping[str, Any], where: str):
  """Builds a `GuidedModel` or a `Prior` from a config block.

  Args:
    name: a key of MODELS.
    model_fields: fields of the model, such as the block `config.model`.
    where: path of that block, for messages.

  Raises:
    ConfigError: unknown model or field, missing field, sizes that do not fit.
  """
  make = lookup(MODELS, name, f"model name in {where}_name")
  return make(model_fields, where)
