"""Priors: what predicts a guiding code from the image alone, by style.

A new prior is one file with one class and one line in `PRIORS`.
"""

from collections.abc import Mapping
from typing import Any

from uvim.fields import Field
from uvim.priors import autoregressive, givt, masked
from uvim.priors.base import Prior
from uvim.registry import ConfigError, lookup

ModelFields = Mapping[str, Any]

PRIORS = {
    "ar": autoregressive.AutoregressivePrior,
    "masked": masked.MaskedPrior,
    "givt": givt.GivtPrior,
}
# The one field that all priors share: it says whose the others are.
STYLE = Field(
    name="style",
    default="ar",
    doc="How the words are predicted. `ar`: one after the other, each given "
    "those before it. `masked`: many at once, each given all that are known. "
    "`givt`: as `ar`, but real numbers, for quantizer `gaussian`.",
    source="ours")


def make_prior(model_fields: ModelFields, where: str) -> Prior:
  """Builds a prior.

  Args:
    model_fields: such as `config.model` of stage II: `style` and the fields of
      the prior of that style.
    where: path of that block, for messages.

  Raises:
    ConfigError: an unknown style, an unknown or missing field, a value that is
      not allowed, sizes that do not fit.
  """
  prior_cls = _prior_class(model_fields, where)
  own_fields = dict(model_fields)
  own_fields.pop(STYLE.name, None)
  return prior_cls.from_fields(own_fields, where)


def known_fields(model_fields: ModelFields, where: str) -> dict[str, Field]:
  """All fields that such a block may have, by name; see `make_prior`."""
  prior_cls = _prior_class(model_fields, where)
  return prior_cls.known_fields() | {STYLE.name: STYLE}


def refuse_options_of_others(
    prior: Prior, given: Mapping[str, Any], where: str) -> None:
  """Raises a ConfigError for an option that only priors of other styles have.

  Args:
    prior: which is to be asked for samples.
    given: options by name; those of nobody are passed over.
    where: path of the block that holds them.
  """
  for name, value in given.items():
    if name in prior.options:
      continue
    owners = [style for style, other in PRIORS.items() if name in other.options]
    if owners:
      known = ", ".join(prior.options) or "none"
      raise ConfigError(
          f"{where}.{name} = {value!r} is an option of style {owners[0]!r}; "
          f"this prior has others: {known}.")


def _prior_class(model_fields, where):
  style = model_fields.get(STYLE.name, STYLE.default)
  return lookup(PRIORS, style, f"{where}.style")
