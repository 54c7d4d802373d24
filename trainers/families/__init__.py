"""The families by kind.

A new family is one file with one class and one line in `FAMILIES`.
"""

from trainers.families import dino, lm, mae, pix2seq_d_video, vqvae
from trainers.families.base import Family, nested
from uvim import tree
from uvim.config import TrainConfig
from uvim.registry import lookup
from uvim.store import open_model
from uvim.store.start_from import Store
from uvim.typing import PyTree

FAMILIES = {
    "vqvae": vqvae.VqvaeFamily,
    "lm": lm.LmFamily,
    "mae": mae.MaeFamily,
    "dino": dino.DinoFamily,
    "pix2seq_d": pix2seq_d_video.Pix2SeqDVideoFamily,
}


def family_class(kind: str) -> type[Family]:
  """The class of a kind; a ConfigError if there is no such kind."""
  return lookup(FAMILIES, kind, "config.kind")


def make_family(config: TrainConfig) -> Family:
  """The family that `config.kind` names, built for this config.

  Raises:
    ConfigError: an unknown kind; whatever the family finds wrong.
  """
  return family_class(config.kind)(config)


def open_checkpoint(
    checkpoint: str,
    config: TrainConfig,
    *,
    oracle: str | None = None,
    store: Store | None = None,
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
  flat_arrays = store.read_all(
      checkpoint, family.wanted_arrays(), "--checkpoint", kind=family.kind)
  arrays = nested(flat_arrays)
  meta = open_model.read_meta(checkpoint)
  if meta:
    oracle_crc32 = tree.fingerprint(opened.frozen)
    open_model.check_oracle(meta, oracle_crc32, checkpoint)
  extra = {"state": arrays["state"]}
  variables = family.variables(arrays["params"], extra, opened.frozen)
  return family, variables
