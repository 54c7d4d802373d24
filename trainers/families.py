"""The families by kind. Loaded when asked for."""

from trainers.family import Family, nested
from uvim import tree
from uvim.config import TrainConfig
from uvim.registry import lookup
from uvim.store import open_model
from uvim.store.start_from import Store
from uvim.typing import PyTree


def _vqvae():
  from trainers import vqvae
  return vqvae.VqvaeFamily


def _lm():
  from trainers import lm
  return lm.LmFamily


FAMILIES = {"vqvae": _vqvae, "lm": _lm}


def family_class(kind: str) -> type[Family]:
  """The class of a kind; a ConfigError if there is no such kind."""
  return lookup(FAMILIES, kind, "config.kind")()


def make_family(config: TrainConfig) -> Family:
  """The family that `config.kind` names, built for this config.

  Raises:
    ConfigError: an unknown kind; whatever the family finds wrong.
  """
  return family_class(config.kind)(config)


def open_checkpoint(checkpoint: str, config: TrainConfig, *,
                    oracle: str | None = None,
                    store: Store | None = None
                    ) -> tuple[Family, dict[str, PyTree]]:
  """A trained family and the variables that its predictors take.

  Args:
    checkpoint: a run's workdir, a `.npz`, an address or a published name.
    config: of the family; its own starting point is not read.
    oracle: stage II: the stage I checkpoint, where it is not as the config
      says.
    store: where checkpoints are read from; None: disk and network.

  Raises:
    ConfigError: nothing there, or of another model, task or family.
  """
  store = store or Store()
  cls = family_class(config.kind)
  family = cls(cls.config_for(config, checkpoint, oracle))
  opened = family.open(store)
  arrays = nested(store.read_all(
      checkpoint, family.wanted_arrays(), "--checkpoint", kind=family.kind))
  meta = open_model.read_meta(checkpoint)
  if meta:
    open_model.check_oracle(
        meta, tree.fingerprint(opened.frozen), checkpoint)
  variables = family.variables(
      arrays["params"], {"state": arrays["state"]}, opened.frozen)
  return family, variables
