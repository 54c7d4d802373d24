"""Architectures by the names that configs use."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax.core import FrozenDict

from uvim.registry import ConfigError, lookup, nearest


def _vit():
  from uvim.models import vit
  return vit.ViT, vit.check_vit


def _lm():
  from uvim.priors import lm
  return lm.LM, lm.check_lm


_BLOCKS = "oracle_depth", "base_model_depth", "num_layers", "decoder_layers"
_MAX_BLOCKS = 1024  # Of a typo Python would build blocks for ever.

MODELS = {"vit": _vit, "proj.uvim.vit": _vit, "lm": _lm, "proj.uvim.lm": _lm}


def make_model(name: str, fields: Mapping[str, Any], where: str):
  """Builds a model from a config block.

  Args:
    name: a key of MODELS.
    fields: constructor fields, such as the block `config.model`.
    where: path of that block, for messages.

  Raises:
    ConfigError: unknown model or field, missing field, sizes that do not fit.
  """
  cls, check = lookup(MODELS, name, f"model name in {where}_name")()
  known = {f.name: f for f in dataclasses.fields(cls)
           if f.name not in ("parent", "name")}
  for key, value in fields.items():
    if key not in known:
      near = nearest(key, known)
      hint = f" Did you mean '{where}.{near}'?" if near else ""
      raise ConfigError(f"Unknown key '{where}.{key}' = {value!r}.{hint} "
                        f"Known: {', '.join(sorted(known))}.")
  missing = [k for k, f in known.items() if k not in fields
             and f.default is dataclasses.MISSING
             and f.default_factory is dataclasses.MISSING]
  if missing:
    raise ConfigError(f"Missing key '{where}.{missing[0]}'.")
  for key in _BLOCKS:
    if isinstance(fields.get(key), int) and fields[key] > _MAX_BLOCKS:
      raise ConfigError(f"{where}.{key} = {fields[key]}; allowed: at most "
                        f"{_MAX_BLOCKS} blocks.")
  # Tuples and frozen dicts: linen modules must hash, and a config that went
  # through JSON must build the same model.
  fields = {k: _freeze(v) for k, v in fields.items()}
  check(**fields)
  return cls(**fields)


def _freeze(value):
  if isinstance(value, Mapping):
    return FrozenDict({k: _freeze(v) for k, v in value.items()})
  if isinstance(value, (list, tuple)):
    return tuple(_freeze(v) for v in value)
  return value
