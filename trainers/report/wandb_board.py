"""Weights & Biases as a second board of a run: `--wandb PROJECT`."""

import json
import pathlib
import secrets

import numpy as np

from uvim.registry import ConfigError

ID_FILE = "wandb_id.txt"


def check() -> None:
  """Raises a ConfigError if the package is absent."""
  try:
    import wandb  # noqa: F401
  except ImportError as e:
    raise ConfigError(
        "--wandb needs the package wandb, which is not installed: "
        "pip install wandb, or leave the flag out.") from e


class Board:
  """A W&B run with the methods of tensorboardX's SummaryWriter.

  A run that is resumed goes on in the same W&B run: its id is kept in the
  workdir. WANDB_MODE=offline and the like work as W&B documents them.
  """

  def __init__(self, project: str, workdir: pathlib.Path):
    """Starts or goes on with the run; raises a ConfigError without wandb."""
    check()
    import wandb
    path = workdir / ID_FILE
    if not path.exists():
      path.write_text(secrets.token_hex(4))
    config = workdir / "config.json"
    self._wandb = wandb
    self._run = wandb.init(
        project=project, id=path.read_text(), resume="allow",
        name=workdir.resolve().name, dir=str(workdir),
        config=json.loads(config.read_text()) if config.exists() else {})

  def add_scalar(self, name: str, value: float, step: int) -> None:
    self._run.log({name: value}, step=step)

  def add_image(self, name: str, image: np.ndarray, step: int,
                dataformats: str = "HWC") -> None:
    """uint8 [H, W, 3]."""
    del dataformats  # There is but one.
    self._run.log({name: self._wandb.Image(image)}, step=step)

  def add_histogram(self, name: str, values: np.ndarray, step: int) -> None:
    self._run.log({name: self._wandb.Histogram(values)}, step=step)

  def close(self) -> None:
    self._run.finish()
