"""The runs that the drill kills: their configs, processes and marks.

Imports neither JAX nor the trainers: the process that kills needs neither.
"""

import json
import multiprocessing
import os
import pathlib
import resource
import sys
import time

from tools.stress.marks import EVAL_STEPS, START_UP, WRITING, Marks
from uvim.cli import app

CONFIG = """
from configs import common
from configs import {name}_rooms_panoptic

def get_config():
  config = {name}_rooms_panoptic.get_config("tiny")
  config.data_dir = {data_dir!r}
  config.total_steps = {num_steps}
  config.log_training_steps = 1
  config.checkpoint_steps = 3
  config.log_eval_steps = {eval_steps}
  config.mesh = [("data", 1)]
  config.val_split = None
  common.drop_evals(config, keep="zero_code")
  config.zero_code.log_steps = {eval_steps}
  if "oracle" in config:
    config.oracle.model_init = {oracle!r}
  return config
"""
# Imported once, by the process that all runs are forked from: a run then
# costs its own start-up, not that of Python and TensorFlow.
PRELOAD = ["tensorflow_datasets", "pp.stream", "evaluators.coco_panoptic",
           "trainers.loop", "trainers.families.vqvae", "trainers.families.lm",
           "tools.stress.marking"]


LOCK = "run.lock"  # See `trainers.inputs`.


class Failed(app.Stop):
  """A run failed, or two undisturbed runs differ."""

  exit_code = 1


# ── In the process of a run ─────────────────────────────────────────────────


def train(config_path: pathlib.Path, workdir: pathlib.Path,
          marks_path: pathlib.Path, log_path: pathlib.Path,
          max_file_bytes: int | None) -> None:
  """What the process of a run does; ends with the command's exit code."""
  if max_file_bytes is None:
    _log_to(log_path)
  else:
    limits = (max_file_bytes, max_file_bytes)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    # The log is a file too: what the run says could not be written.
    _log_to(pathlib.Path(os.devnull))
  from tools.stress import marking

  def command(args):
    del args
    marking.train(config_path, workdir, Marks(marks_path))

  sys.exit(app.run(app.make_parser("tools.drill", None), command, []))


def make_data(folder: pathlib.Path, log_path: pathlib.Path) -> None:
  """Makes `rooms/tiny`, in a process of its own."""
  _log_to(log_path)
  from pp.rooms import builder
  builder.build(folder, "tiny")


def _log_to(path: pathlib.Path) -> None:
  """Appends to a file whatever this process prints."""
  with open(path, "a") as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)


# ── In the process that kills ───────────────────────────────────────────────


class Stage:
  """A stage to be trained again and again.

  Attributes:
    name: of the trainer, 'vqvae' or 'lm'.
    whole: workdir of the run that nobody disturbs.
    seconds: how long that took.
    start_up_seconds: how much of it passed before the first step.
  """

  def __init__(self, context: multiprocessing.context.BaseContext,
               folder: pathlib.Path, name: str, num_steps: int):
    """Writes the config into the folder of the drill."""
    self.name = name
    self.whole = folder / f"{name}_whole"
    self.seconds = 0.0
    self.start_up_seconds = 0.0
    self._context = context
    self._config_path = folder / f"{name}.py"
    self._marks_path = folder / "marks"
    self._log_path = folder / "log.txt"
    self._config_path.write_text(CONFIG.format(
        name=name, data_dir=str(folder / "data"), num_steps=num_steps,
        eval_steps=EVAL_STEPS, oracle=str(folder / "vqvae_whole")))

  def start(self, workdir: pathlib.Path, *,
            max_file_bytes: int | None = None):
    """Starts or resumes a run; its process.

    Args:
      workdir: of the run.
      max_file_bytes: no file can grow larger, as on a full disk.
    """
    Marks.reset(self._marks_path)
    process = self._context.Process(target=train, args=(
        self._config_path, workdir, self._marks_path, self._log_path,
        max_file_bytes))
    process.start()
    return process

  def start_second(self, workdir: pathlib.Path):
    """Starts another process on the workdir of a run that is alive."""
    # It must not write to the marks of the first.
    marks_path = self._marks_path.with_name("marks_of_second")
    Marks.reset(marks_path)
    process = self._context.Process(target=train, args=(
        self._config_path, workdir, marks_path, self._log_path, None))
    process.start()
    return process

  def position(self, workdir: pathlib.Path) -> tuple[str, int]:
    """Where the last run is or was: (phase, step)."""
    phase, step = Marks.read(self._marks_path)
    if is_writing(workdir):
      phase = WRITING
    return phase, step

  def finish(self, process) -> None:
    """Waits for a run to end; raises Failed if it did not end well."""
    process.join()
    if process.exitcode:
      raise Failed(f"{self.name} failed; see {self._log_path}")

  def run_undisturbed(self, workdir: pathlib.Path) -> None:
    """Trains to the end, and measures how long it takes."""
    began = time.monotonic()
    process = self.start(workdir)
    start_up_seconds = None
    while process.is_alive():
      time.sleep(0.01)
      phase, _ = self.position(workdir)
      if start_up_seconds is None and phase != START_UP:
        start_up_seconds = time.monotonic() - began
    self.finish(process)
    self.seconds = time.monotonic() - began
    self.start_up_seconds = start_up_seconds


def is_writing(workdir: pathlib.Path) -> bool:
  """Whether a checkpoint has not yet got its final name."""
  try:
    names = os.listdir(workdir / "checkpoints")
  except FileNotFoundError:
    return False
  return any("orbax-checkpoint-tmp" in name for name in names)


def holds_lock(workdir: pathlib.Path, pid: int) -> bool:
  """Whether this process holds the lock of a workdir."""
  try:
    owner = json.loads((workdir / LOCK).read_bytes())
  except (OSError, ValueError):
    # It is not there yet, or is being written.
    return False
  return owner["pid"] == pid


def kept_steps(workdir: pathlib.Path) -> list[int]:
  """Steps with a finished checkpoint."""
  names = [path.name for path in (workdir / "checkpoints").glob("*")]
  return [int(name) for name in names if name.isdecimal()]
