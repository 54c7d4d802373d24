"""A run of a sweep: what starts it, and how far it is.

Everything is read from the files of the run, so that a sweep can be left and
taken up again.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from trainers.report import run_files

# The stages of runs that measure the last training of a cell:
# tools.sweeps.NAME is started, and leaves NAME.json.
MASKING = "masking"
SAMPLING = "sampling"
MEASURES = (MASKING, SAMPLING)
_SECONDS_A_MINUTE = 60


@dataclasses.dataclass(frozen=True)
class Run:
  """One process: a training, or a measurement of one.

  Attributes:
    name: of its folder; tells the stage and a hash of the config.
    stage: 1, 2 or one of MEASURES.
    command: what starts it, and what resumes it.
    workdir: its folder.
    needs: the run that must be done before, or None.
    cost: how long it takes, in the recipe's unit.
    prefixes: what its evaluators put before their scores.
    dataset: of a training; "": the run is a measurement.
  """
  name: str
  stage: int | str
  command: tuple[str, ...]
  workdir: pathlib.Path
  needs: "Run | None"
  cost: float
  prefixes: tuple[str, ...] = ()
  dataset: str = ""

  @property
  def measured(self) -> pathlib.Path:
    """What a measurement leaves."""
    return measured_file(self.workdir, self.stage)

  @property
  def log(self) -> pathlib.Path:
    """What the process prints."""
    return self.workdir.parent / f"{self.name}.log"

  @property
  def failure(self) -> pathlib.Path:
    """Why it failed the last time; no such file if it did not."""
    return self.workdir.parent / f"{self.name}.failed"

  @property
  def times(self) -> pathlib.Path:
    """How long each of its processes has run: a line of seconds for each."""
    return self.workdir.parent / f"{self.name}.seconds"


def measured_file(folder: pathlib.Path, measure: str) -> pathlib.Path:
  """Where one of MEASURES leaves its figures."""
  return folder / f"{measure}.json"


def add_seconds(run: Run, seconds: float) -> None:
  """Notes how long a process of a run has gone on."""
  with open(run.times, "a") as file:
    file.write(f"{seconds:.1f}\n")


def minutes_of(run: Run) -> float | None:
  """How long a run took, in all its processes; None if nobody noted it."""
  if not run.times.exists():
    return None
  seconds = [float(line) for line in run.times.read_text().split()]
  return sum(seconds) / _SECONDS_A_MINUTE


class Progress(NamedTuple):
  """How far a run is, in steps."""
  step: int
  total: int

  @property
  def is_done(self) -> bool:
    return self.step == self.total


def progress_of(run: Run) -> Progress:
  """The steps that were reported; (0, 1) before the run has begun."""
  if run.stage in MEASURES:
    is_done = run.measured.exists()
    return Progress(int(is_done), 1)
  sessions = run_files.read_sessions(run.workdir)
  if not sessions:
    return Progress(0, 1)
  total = sessions[-1]["total_steps"]
  lines = run_files.read_lines(run.workdir).sound
  step = max((line.step for line in lines), default=0)
  if step < total or _has_ended(run, lines, total):
    return Progress(step, total)
  # All steps are made, but not everything of the last one is on disk.
  return Progress(total - 1, total)


def _has_ended(run: Run, lines: Sequence[run_files.Line], total: int) -> bool:
  """Whether the last step is saved and every evaluator has scored it."""
  checkpoint = run.workdir / "checkpoints" / str(total)
  if not checkpoint.exists():
    return False
  last_scores = []
  for line in lines:
    # Only the lines of evaluators have settings.
    if line.step == total and line.settings is not None:
      last_scores += line.values
  for prefix in run.prefixes:
    if not any(name.startswith(prefix) for name in last_scores):
      return False
  return True


def is_done(run: Run) -> bool:
  return progress_of(run).is_done


def reason_of(run: Run) -> str:
  """Why a run is not done; '' if it is."""
  progress = progress_of(run)
  if progress.is_done:
    return ""
  if run.failure.exists():
    return f"failed: {run.failure.read_text().strip()}"
  if progress.step:
    return f"stopped at step {progress.step} of {progress.total}"
  if run.needs is not None and not is_done(run.needs):
    return f"needs {run.needs.name}: {reason_of(run.needs)}"
  return "not run yet"
