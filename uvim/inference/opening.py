"""Opens whatever predicts: the class follows from the checkpoint."""

from typing import Any

from uvim import finder
from uvim.inference.api import UViM
from uvim.inference.pix2seq_d import Pix2SeqDPredictor
from uvim.inference.predictor import Options, Path, Predictor
from uvim.registry import ConfigError
from uvim.store import open_model, published
from uvim.store.open_pix2seq_d import PIX2SEQ_D


def open_predictor(
    path: Path,
    *,
    lm: Path | None = None,
    code_len: int | None = None,
    task_options: Options | None = None,
) -> Predictor:
  """A `UViM` or a `Pix2SeqDPredictor`, by the kind of the run.

  Args:
    path: as in `UViM.from_checkpoint`; or a run of Pix2Seq-D, or its pack.
    lm, code_len, task_options: of UViM, see `UViM.from_checkpoint`.

  Raises:
    ConfigError: as of the two classes; something of UViM's alone with a run of
      Pix2Seq-D.
  """
  # Once: a pack of the hub would be asked for anew.
  located = published.locate_pack(finder.expand(path))
  if _kind_of(located) != PIX2SEQ_D:
    return UViM.from_checkpoint(
        located, lm=lm, code_len=code_len, task_options=task_options)
  _refuse(path, lm=lm, code_len=code_len, task_options=task_options)
  return Pix2SeqDPredictor.from_checkpoint(located)


def _kind_of(located: Path) -> str | None:
  """The kind that a workdir or a pack names; None for anything else."""
  if open_model.is_name(located):
    return None
  return open_model.read_config(located).get("kind")


def _refuse(path: Path, **given: Any) -> None:
  """Raises a ConfigError if something was given that UViM alone has."""
  for name, value in given.items():
    if value is not None:
      raise ConfigError(f"{name} = {value!r} with {path}, a run of Pix2Seq-D: "
                        "it has no stages and no code. Leave it out.")
