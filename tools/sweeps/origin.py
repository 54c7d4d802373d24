"""Where the figures of a sweep come from: commits, seeds, runs, minutes."""

import dataclasses
from collections.abc import Iterable, Sequence

from tools.sweeps import plan, runs
from tools.sweeps.plan import Cells
from tools.sweeps.runs import Run
from trainers.report import run_files

# As `git log --oneline` writes a commit.
_SHORT = 7
_DIRTY = "-dirty"
_UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Origin:
  """Where the figures of a sweep come from.

  Attributes:
    commits: of the code that trained, shortened. '… with changes': files
      differed from it. 'unknown': the code lay in no repository.
    num_seeds: how many seeds were asked for.
    num_runs: trainings and measurements; what cells share counts once.
    num_done: those of them that are done.
    minutes: that those took, one after the other; None: not all were timed.
  """
  commits: tuple[str, ...]
  num_seeds: int
  num_runs: int
  num_done: int
  minutes: float | None


def origin_of(cells: Cells) -> Origin:
  """Reads where the runs of a sweep come from."""
  all_runs = plan.unique_runs(cells)
  done = [run for run in all_runs if runs.is_done(run)]
  seeds = {seed for _, seed in cells}
  return Origin(
      _commits_of(done), len(seeds), len(all_runs), len(done),
      _minutes_of(done))


def _commits_of(done: Iterable[Run]) -> tuple[str, ...]:
  """Each commit once, in the order of the runs."""
  commits = []
  for run in done:
    # A measurement has no sessions.
    for session in run_files.read_sessions(run.workdir):
      commit = _short(session.get("commit"))
      if commit not in commits:
        commits.append(commit)
  return tuple(commits)


def _short(commit: str | None) -> str:
  if not commit:
    return _UNKNOWN
  short = commit[:_SHORT]
  return f"{short} with changes" if commit.endswith(_DIRTY) else short


def _minutes_of(done: Sequence[Run]) -> float | None:
  total = 0.0
  for run in done:
    minutes = runs.minutes_of(run)
    if minutes is None:
      return None
    total += minutes
  return total
