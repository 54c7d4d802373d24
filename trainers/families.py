"""The families by kind. Loaded when asked for."""

from trainers.family import Family
from uvim.config import TrainConfig
from uvim.registry import lookup


def _vqvae():
  from trainers import vqvae
  return vqvae.VqvaeFamily


def _lm():
  from trainers import lm
  return lm.LmFamily


FAMILIES = {"vqvae": _vqvae, "lm": _lm}


def make_family(config: TrainConfig) -> Family:
  """The family that `config.kind` names, built for this config.

  Raises:
    ConfigError: an unknown kind; whatever the family finds wrong.
  """
  make = lookup(FAMILIES, config.kind, "config.kind")
  return make()(config)
