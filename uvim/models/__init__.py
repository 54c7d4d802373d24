"""Architectures by the names that configs use in `model_name`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from uvim import priors
from uvim.fields import Field
from uvim.models import bottleneck, guided
from uvim.models.dino import SelfDistillation
from uvim.models.images import ImagesModel
from uvim.models.mae import MaskedAutoencoder
from uvim.models.pix2seq_d import Pix2SeqD
from uvim.registry import lookup

ModelFields = Mapping[str, Any]
KnownFields = dict[str, Field]


@dataclasses.dataclass(frozen=True)
class Architecture:
  """How the block `config.model` of one architecture is read.

  Attributes:
    make: (fields, path of the block) → the model.
    known_fields: (fields, path of the block) → all fields it may have.
  """
  make: Callable[[ModelFields, str], Any]
  known_fields: Callable[[ModelFields, str], KnownFields]


def _from_class(model_cls: type[ImagesModel | Pix2SeqD]) -> Architecture:
  """One whose class reads its own fields."""
  return Architecture(model_cls.from_fields, model_cls.known_fields)


_GUIDED = Architecture(guided.make_guided_model, guided.known_fields)
_PRIOR = Architecture(priors.make_prior, priors.known_fields)
# The second name of each is the released code's own.
MODELS = {
    "vit": _GUIDED,
    "proj.uvim.vit": _GUIDED,
    "lm": _PRIOR,
    "proj.uvim.lm": _PRIOR,
    "mae": _from_class(MaskedAutoencoder),
    "dino": _from_class(SelfDistillation),
    "pix2seq_d": _from_class(Pix2SeqD),
}


def make_model(name: str, model_fields: ModelFields, where: str) -> Any:
  """Builds a `GuidedModel`, a `Prior`, a `Pix2SeqD` or what learns from images.

  Args:
    name: a key of MODELS.
    model_fields: fields of the model, such as the block `config.model`.
    where: path of that block, for messages.

  Raises:
    ConfigError: unknown model or field, missing field, sizes that do not fit.
  """
  architecture = lookup(MODELS, name, f"model name in {where}_name")
  return architecture.make(model_fields, where)


def known_fields(
    name: str,
    model_fields: ModelFields,
    where: str,
) -> KnownFields:
  """All fields that such a block may have, by name.

  Args and errors are those of `make_model`; values are not checked.
  """
  architecture = lookup(MODELS, name, f"model name in {where}_name")
  return architecture.known_fields(model_fields, where)


def complete(
    name: str,
    model_fields: ModelFields,
    where: str,
) -> dict[str, Any]:
  """Such a block under today's names, with the default of what it leaves out.

  So blocks of an older version can be compared with those of today. Args and
  errors are those of `known_fields`.
  """
  given = bottleneck.rename(model_fields, where)
  completed = {}
  for field in known_fields(name, given, where).values():
    if not field.is_required:
      completed[field.name] = field.default
  return completed | given
