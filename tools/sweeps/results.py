"""What the runs of a sweep found: figures, effects, and what is missing."""

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

from tools.sweeps import figures, plan, runs, verdicts
from tools.sweeps.figures import Figure
from tools.sweeps.origin import Origin, origin_of
from tools.sweeps.plan import Cell, Cells, Sweep
from tools.sweeps.runs import Run
from tools.sweeps.verdicts import Verdict
from trainers.report import run_files
from uvim import files

# Of a run: the share over which a training metric is averaged.
_LAST_SHARE = 0.1
# The stage of a score that stands for all trainings of a cell.
_TRAINING = "training"


@dataclasses.dataclass(frozen=True)
class RunReport:
  """Where a run lies, and why it is not done ('' if it is)."""
  workdir: str
  reason: str


@dataclasses.dataclass(frozen=True)
class CellReport:
  """A cell as it was run.

  Attributes:
    title: of the cell.
    overrides: 'stage I' and 'stage II' → what it changes there, or None.
    runs: seed → stage → its run.
  """
  title: str
  overrides: Mapping[str, Mapping[str, Any] | None]
  runs: Mapping[str, Mapping[str, RunReport]]


@dataclasses.dataclass(frozen=True)
class Results:
  """Everything that a sweep found; the content of its JSON file.

  Attributes:
    title: of the sweep.
    configs: of stage I and stage II, or that of the one training.
    cells: by name.
    scores: score → cell → figure.
    checks: a verdict for each effect.
    origin: commits, seeds, runs and minutes.
  """
  title: str
  configs: tuple[str, ...]
  cells: Mapping[str, CellReport]
  scores: Mapping[str, Mapping[str, Figure]]
  checks: list[Verdict]
  origin: Origin

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


def collect(sweep: Sweep, cells: Cells) -> Results:
  """Reads what the runs of a sweep have left so far."""
  reader = _Reader()
  scores = {}
  for score_name, score in sweep.scores.items():
    by_cell = {}
    for cell_name in sweep.cells:
      by_cell[cell_name] = _figure_of(score, cell_name, cells, reader)
    scores[score_name] = by_cell
  reports = {name: _report_of(cell, plan.by_seed(cells, name))
             for name, cell in sweep.cells.items()}
  stages = [sweep.recipe.stage1, sweep.recipe.stage2]
  configs = tuple(stage.config for stage in stages if stage is not None)
  return Results(
      sweep.title, configs, reports, scores,
      verdicts.judge_all(sweep, scores), origin_of(cells))


def _report_of(cell: Cell, runs_by_seed: Mapping[int, plan.CellRuns]
               ) -> CellReport:
  overrides = {"stage I": _settings_of(cell, 1), "stage II": None}
  if cell.stage2 is not None:
    overrides["stage II"] = _settings_of(cell, 2)
  reports = {}
  for seed, cell_runs in runs_by_seed.items():
    by_stage = {}
    for stage, run in cell_runs.items():
      by_stage[str(stage)] = RunReport(str(run.workdir), runs.reason_of(run))
    reports[str(seed)] = by_stage
  return CellReport(cell.title, overrides, reports)


def _settings_of(cell: Cell, stage: int) -> dict[str, Any]:
  """What a cell changes in a stage: overrides, and config or argument."""
  settings = {}
  if cell.recipe is not None:
    stages = [cell.recipe.stage1, cell.recipe.stage2]
    settings["config"] = stages[stage - 1].config
  if cell.argument:
    settings["argument"] = cell.argument
  return settings | plan.overrides_of(cell, stage)


def _figure_of(score: Any, cell_name: str, cells: Cells,
               reader: "_Reader") -> Figure:
  """The figure of a `Score` of configs/sweeps/recipe.py for a cell."""
  metric = score.metric.format(cell=cell_name)
  values = {}
  reasons = []
  for seed, cell_runs in plan.by_seed(cells, cell_name).items():
    if score.stage == _TRAINING:
      found = _minutes_of(cell_runs)
    elif score.stage in cell_runs:
      found = _found_in(cell_runs[score.stage], metric, reader)
    else:
      continue
    if found.value is None:
      reasons.append(f"seed {seed}: {found.reason}")
    else:
      values[str(seed)] = found.value * score.scale
  reason = "; ".join(reasons)
  if not values and not reasons:
    # No seed of this cell has such a run.
    reason = figures.NOT_APPLICABLE
  return figures.make_figure(
      values, published=score.published.get(cell_name), reason=reason)


class _Found(NamedTuple):
  """A figure of one seed, or why there is none."""
  value: float | None
  reason: str = ""


def _found_in(run: Run, metric: str, reader: "_Reader") -> _Found:
  """A figure of one run."""
  reason = runs.reason_of(run)
  if reason:
    return _Found(None, reason)
  value = reader.value_of(run, metric)
  if value is None:
    return _Found(None, f"{run.name} has no {metric}")
  return _Found(value)


def _minutes_of(cell_runs: plan.CellRuns) -> _Found:
  """How long all trainings of a cell took, those that it shares included."""
  total = 0.0
  for run in cell_runs.values():
    if run.stage in runs.MEASURES:
      continue
    reason = runs.reason_of(run)
    if reason:
      return _Found(None, reason)
    minutes = runs.minutes_of(run)
    if minutes is None:
      return _Found(None, f"{run.name} has no times")
    total += minutes
  return _Found(total)


class _Reader:
  """Reads the metrics of runs, each file once: cells share runs."""

  def __init__(self):
    self._lines: dict[str, list[run_files.Line]] = {}

  def value_of(self, run: Run, metric: str) -> float | None:
    """A figure of a run that is done; None if it does not have it."""
    if run.stage in runs.MEASURES:
      measured = files.read_json(run.measured) or {}
      return measured.get(metric)
    if run.name not in self._lines:
      lines = run_files.read_lines(run.workdir)
      self._lines[run.name] = lines.sound
    steps = []
    values = []
    for line in self._lines[run.name]:
      if metric in line.values:
        steps.append(line.step)
        values.append(line.values[metric])
    if not values:
      return None
    if not metric.startswith("train/"):
      return values[-1]
    begin = (1 - _LAST_SHARE) * steps[-1]
    last_values = [value for step, value in zip(steps, values, strict=True)
                   if step > begin]
    return statistics.fmean(last_values)
