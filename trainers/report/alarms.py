"""What a run warns of by itself, and how often.

All alarms follow from the lines of metrics.jsonl. So a resumed run warns as one
that was never stopped.
"""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from trainers.report import run_files
from trainers.report.alarm_kinds import KINDS, Alarm
from trainers.report.watches import Values, watches_of

# After an alarm, the same one is held back for this share of the run.
QUIET = 0.1


class Alarms:
  """Reads the reports of a run, and raises the alarms."""

  def __init__(self, config: Mapping[str, Any], total_steps: int):
    """Alarms of a run that has reported nothing yet.

    Args:
      config: its config.json; {}: nobody knows it.
      total_steps: of the run.
    """
    self._watches = watches_of(config, total_steps)
    self._quiet_steps = QUIET * total_steps
    self._last_steps = {}  # Alarm's name → the step at which it was raised.

  def see(self, step: int, values: Values) -> list[Alarm]:
    """The alarms that a report raises, without those that are held back.

    Args:
      step: of the report.
      values: name of a metric → number.
    """
    raised = []
    for watch in self._watches:
      alarm = watch.see(step, values)
      if alarm is not None and not self._is_repeated(alarm.name, step):
        # Only an alarm that is raised starts a quiet time. One that is held
        # back does not, so it comes as soon as that time is over.
        is_first = alarm.name not in self._last_steps
        self._last_steps[alarm.name] = step
        raised.append(alarm._replace(is_first=is_first))
    return raised

  def _is_repeated(self, name, step) -> bool:
    if name not in self._last_steps:
      return False
    return step - self._last_steps[name] < self._quiet_steps


def of_run(workdir: pathlib.Path, total_steps: int,
           lines: Iterable[run_files.Line]) -> Alarms:
  """The alarms of a run, as they stand after these lines of its metrics.

  Args:
    workdir: of the run.
    total_steps: of the run.
    lines: of its metrics.jsonl, in order.
  """
  alarms = Alarms(run_files.read_config(workdir), total_steps)
  for line in lines:
    # The run has already reported these: only the watches need them.
    alarms.see(line.step, line.values)
  return alarms


def title_of(name: str) -> str:
  """An alarm's title for people, by its name in the metrics."""
  # Another version may have other alarms.
  return KINDS[name].title if name in KINDS else name.replace("_", " ")


def points_of_run(
    metrics: Mapping[str, list[run_files.Point]],
) -> dict[str, list[run_files.Point]]:
  """The alarms that a run has raised: name → [(step, figure), …].

  Args:
    metrics: name of a metric → its points.
  """
  found = {}
  for metric in sorted(metrics):
    if metric.startswith(run_files.ALARM):
      found[metric.removeprefix(run_files.ALARM)] = metrics[metric]
  return found
