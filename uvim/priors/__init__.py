"""Priors: what predicts a guiding code from the image alone, by style.

A new prior is one file with one class and one line in `PRIORS`.
"""

from collections.abc import Mapping
from typing import Any

from uvim.priors import autoregressive
from uvim.priors.base import Prior
from uvim.registry import lookup

PRIORS = {"ar": autoregressive.AutoregressivePrior}
DEFAULT_STYLE = "ar"


def make_prior(model_fields: Mapping[str, Any], where: str) -> Prior:
  """Builds a prior.

  Args:
    model_fields: such as `config.model` of stage II: `style` (default "ar")
      and the fields of the prior of that style.
    where: path of that block, for messages.

  Raises:
    ConfigError: an unknown style, an unknown or missing field, a value that is
      not allowed, sizes that do not fit.
  """
  fields = dict(model_fields)
  style = fields.pop("style", DEFAULT_STYLE)
  return lookup(PRIORS, style, f"{where}.style").from_fields(fields, where)
