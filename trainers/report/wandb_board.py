"""Weights & Biases as a second board of a run: `--wandb PROJECT`."""

import pathlib
import secrets

import numpy as np

from trainers.report import run_files
from uvim import files
from uvim.registry import ConfigError

ID_FILE = "wandb_id.txt"


def check() -> None:
  """Raises a ConfigError if the package is absent."""
  try:
    import wandb  # noqa: F401
  except ImportError as error:
    raise ConfigError(
        "--wandb needs the package wandb, which is not installed: "
        "pip install wandb, or leave the flag out.") from error


class Board:
  """A W&B run with the methods of tensorboardX's SummaryWriter.

  A resumed run continues the same W&B run: the workdir keeps its id.
  WANDB_MODE=offline and the like work as W&B documents them.
  """

  def __init__(self, project: str, workdir: pathlib.Path):
    """Starts or continues the run; raises a ConfigError without wandb."""
    check()
    import wandb
    # A resumed run finds the id of the first start.
    id_path = workdir / ID_FILE
    if not id_path.exists():
      files.write_text(id_path, secrets.token_hex(4))
    # Kept, because the module is imported only here: the package is optional.
    self._wandb = wandb
    self._run = wandb.init(
        project=project, id=id_path.read_text(), resume="allow",
        name=workdir.resolve().name, dir=str(workdir),
        config=run_files.read_config(workdir))

  def add_scalar(self, name: str, value: float, step: int) -> None:
    self._run.log({name: value}, step=step)

  def add_image(self, name: str, image: np.ndarray, step: int,
                dataformats: str = "HWC") -> None:
    """uint8 [H, W, 3]."""
    del dataformats  # Only HWC is used; TensorBoard must be told so.
    self._run.log({name: self._wandb.Image(image)}, step=step)

  def add_histogram(self, name: str, values: np.ndarray, step: int) -> None:
    self._run.log({name: self._wandb.Histogram(values)}, step=step)

  def close(self) -> None:
    self._run.finish()
