"""Runs the processes of a sweep, several at a time."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from tools.sweeps.runs import Run, add_seconds, is_done

_POLL_SECONDS = 0.2
_REPORT_SECONDS = 600


class Observer(Protocol):
  """Is told how the runs go."""

  def on_end(self, run: Run, seconds: float) -> None:
    """A run has ended, well or not, after so many seconds."""

  def on_wait(self) -> None:
    """Nothing has ended for a while."""


class Job(NamedTuple):
  """A run that is going on.

  Attributes:
    run: what is run.
    process: a subprocess.Popen, or what behaves like one.
    started: when, in seconds of the monotonic clock.
    cores: that it runs on.
  """
  run: Run
  process: Any
  started: float
  cores: set[int]


def start_process(run: Run, log, cores: set[int]) -> subprocess.Popen:
  """Starts a run.

  Args:
    run: what to start.
    log: open file for what it prints.
    cores: that it may use; empty: all.
  """
  # A process inherits the cores of the thread that starts it.
  before = os.sched_getaffinity(0) if cores else None
  if cores:
    os.sched_setaffinity(0, cores)
  try:
    return subprocess.Popen(run.command, stdout=log, stderr=log,
                            env=os.environ | {"PYTHONUNBUFFERED": "1"})
  finally:
    if cores:
      os.sched_setaffinity(0, before)


def execute(runs: Sequence[Run], num_jobs: int, observer: Observer, *,
            start: Callable[..., Any] = start_process,
            poll_seconds: float = _POLL_SECONDS) -> None:
  """Runs what is not done, in order.

  Args:
    runs: each after the one it needs.
    num_jobs: processes at a time.
    observer: is told what happens.
    start: starts a run; as `start_process`.
    poll_seconds: between two looks at the processes.
  """
  queue = _Queue(runs, num_jobs, start)
  reported = time.monotonic()
  try:
    while queue.waiting or queue.active:
      queue.start_runnable()
      ended = queue.take_ended()
      for job in ended:
        _note_failure(job.run, job.process.returncode)
        observer.on_end(job.run, time.monotonic() - job.started)
      if not ended:
        time.sleep(poll_seconds)
      if time.monotonic() - reported > _REPORT_SECONDS:
        reported = time.monotonic()
        observer.on_wait()
  finally:
    queue.stop()


class _Queue:
  """The runs that wait, the runs that go on, and the cores that are idle."""

  def __init__(self, runs: Sequence[Run], num_jobs: int,
               start: Callable[..., Any]):
    self.waiting = [run for run in runs if not is_done(run)]
    self.active: list[Job] = []
    self._idle_cores = shares(num_jobs)
    self._start = start
    for run in self.waiting:
      run.failure.unlink(missing_ok=True)

  def start_runnable(self) -> None:
    """Starts runnable jobs; drops those whose prerequisite failed."""
    for run in list(self.waiting):
      if run.needs is not None:
        if self._is_pending(run.needs):
          continue
        if not is_done(run.needs):
          # It fails for the same reason as its prerequisite.
          self.waiting.remove(run)
          continue
      if self._idle_cores:
        self.waiting.remove(run)
        self.active.append(self._job_of(run, self._idle_cores.pop()))

  def _is_pending(self, run: Run) -> bool:
    """Whether a run waits or goes on."""
    pending = self.waiting + [job.run for job in self.active]
    return any(other.name == run.name for other in pending)

  def _job_of(self, run: Run, cores: set[int]) -> Job:
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with open(run.log, "a") as log:
      process = self._start(run, log, cores)
    return Job(run, process, time.monotonic(), cores)

  def take_ended(self) -> list[Job]:
    """Takes the jobs whose process has ended; their cores become idle."""
    ended = [job for job in self.active if job.process.poll() is not None]
    for job in ended:
      self._remove(job)
    return ended

  def _remove(self, job: Job) -> None:
    """Takes out a job whose process has ended."""
    self.active.remove(job)
    self._idle_cores.append(job.cores)
    add_seconds(job.run, time.monotonic() - job.started)

  def stop(self) -> None:
    """Ends all processes. The trainers save, and resume the next time."""
    for job in self.active:
      job.process.terminate()
    for job in list(self.active):
      job.process.wait()
      self._remove(job)


def shares(num_jobs: int, cores: Sequence[int] | None = None
           ) -> list[set[int]]:
  """The cores of each job; with more jobs than cores, some share one.

  Models as small as those of `rooms` gain nothing from a second core: two jobs
  on a core each made 1.9 times the steps of one job on two.

  Args:
    num_jobs: how many jobs.
    cores: to share; None: those that this process may use.

  Returns:
    Empty sets where the system cannot tie a process to cores.
  """
  if cores is None:
    if not hasattr(os, "sched_getaffinity"):
      return [set() for _ in range(num_jobs)]
    cores = sorted(os.sched_getaffinity(0))
  shared = []
  for job in range(num_jobs):
    own_cores = set(cores[job::num_jobs])
    if not own_cores:
      own_cores = {cores[job % len(cores)]}
    shared.append(own_cores)
  return shared


def _note_failure(run: Run, exit_code: int) -> None:
  """Writes down why a run failed, if it did."""
  if exit_code == 0 and is_done(run):
    return
  lines = []
  for line in run.log.read_text(errors="replace").splitlines():
    if line:
      lines.append(line)
  errors = [line for line in lines if line.startswith("error: ")]
  # Without a message of ours, the last line says the most.
  candidates = errors or lines or [""]
  run.failure.write_text(
      f"exit code {exit_code}: {candidates[-1]} (see {run.log})\n")
