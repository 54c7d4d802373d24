"""How far a sweep is, in words."""

from collections.abc import Sequence

from tools.sweeps import plan
from tools.sweeps.plan import CellRuns, Cells, Sweep
from tools.sweeps.runs import Run, is_done, progress_of

_STAGE_NAMES = {1: "I", 2: "II"}


class Clock:
  """Estimates how long the runs that are left take, by those that were made.

  Attributes:
    unit: of the recipe's costs.
    seconds: that the runs of this call took.
    cost: what the recipe says of the same runs.
  """

  def __init__(self, unit: str):
    self.unit = unit
    self.seconds = 0.0
    self.cost = 0.0

  def add(self, run: Run, seconds: float) -> None:
    """Takes a run into account that took so long."""
    self.seconds += seconds
    self.cost += run.cost

  def left(self, runs: Sequence[Run], num_jobs: int = 1) -> str:
    """'about 1:20 h'; what the recipe says while nothing is measured."""
    cost = 0.0
    for run in runs:
      step, total = progress_of(run)
      cost += run.cost * (1 - step / total)
    if not self.cost:
      return f"about {cost / num_jobs:,.0f} {self.unit}"
    seconds = cost * self.seconds / self.cost / num_jobs
    hours, minutes = divmod(int(seconds // 60), 60)
    return f"about {hours}:{minutes:02d} h"


def table(cells: Cells, sweep: Sweep) -> str:
  """How far each cell is: a line for each cell, a column for each seed."""
  lines = []
  for name in sweep.cells:
    line = f"{name:20}"
    for cell_runs in plan.by_seed(cells, name).values():
      line += f"  {_cell_state(cell_runs):24}"
    lines.append(line.rstrip())
  return "\n".join(lines)


def _cell_state(cell_runs: CellRuns) -> str:
  """'I done · II 40 %'."""
  parts = []
  for stage, run in cell_runs.items():
    parts.append(f"{_STAGE_NAMES.get(stage, stage)} {_run_state(run)}")
  return " · ".join(parts)


def _run_state(run: Run) -> str:
  step, total = progress_of(run)
  if step == total:
    return "done"
  if run.failure.exists():
    return "failed"
  if step:
    return f"{100 * step // total} %"
  return "–"


def describe(runs: Sequence[Run], clock: Clock, num_jobs: int) -> str:
  """The commands that are to be run, and how long they take."""
  missing = [run for run in runs if not is_done(run)]
  return (f"{plan.commands_of(missing)}\n"
          f"# {len(missing)} of {len(runs)} runs to do, "
          f"{clock.left(missing, num_jobs)}")
