"""Runs the cells of a table or figure of the paper and sets it up anew.

  python -m tools.sweep NAME --workdir W [--size rooms|full|tiny] [--seeds K]
      [--jobs N] [--data_dir DIR] [--dataset arrays:DIR]
      [--dry_run | --collect]

NAME is a file of configs/sweeps: table2, table3, fig6, fig11, masking, lbg,
depth, colour. What is missing is run, what was begun is resumed, and cells that
need the same stage I share it; so do sweeps of one workdir. Our figures, the
spread over seeds and the published ones are in W/NAME.md and .json, written
after each run, and W/NAME.png, drawn at the end. A cell that was not run or
that failed says why; the others go on. --dry_run only says what would be run
and how long it takes, --collect only writes the three files.
"""

import argparse
import os
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tools.sweeps import (
  plan as sweep_plan,
)
from tools.sweeps import (
  plot as sweep_plot,
)
from tools.sweeps import (
  results as sweep_results,
)
from tools.sweeps.plan import Cells, Run
from uvim.registry import ConfigError

EXIT_FAILED, EXIT_BAD_INPUT = 1, 2
_REPORT_SECONDS = 600
_POLL_SECONDS = 0.2


class Clock:
  """How long the runs that are left will take, by those that were made."""

  def __init__(self, unit: str):
    self.unit = unit
    self.seconds = self.cost = 0.0

  def add(self, run: Run, seconds: float) -> None:
    self.seconds += seconds
    self.cost += run.cost

  def left(self, runs: Sequence[Run], jobs: int = 1) -> str:
    """'1:20 h left', or what the recipe says as long as nothing is known."""
    cost = 0.0
    for run in runs:
      step, total = sweep_plan.progress(run)
      cost += run.cost * (1 - step / total)
    if not self.cost:
      return f"about {cost / jobs:,.0f} {self.unit}"
    minutes = cost * self.seconds / self.cost / jobs / 60
    return f"about {int(minutes // 60)}:{int(minutes % 60):02d} h"


def execute(runs: Sequence[Run], jobs: int, on_change) -> None:
  """Runs what is not done, in order, at most `jobs` at a time.

  Args:
    runs: each after the one it needs.
    jobs: processes at a time.
    on_change: called with (run, seconds) when one has ended, and with
      (None, 0) every now and then.
  """
  waiting = [run for run in runs if not sweep_plan.is_done(run)]
  for run in waiting:
    run.failure.unlink(missing_ok=True)
  active: dict[Run, tuple[subprocess.Popen, float, set[int]]] = {}
  idle = shares(jobs)
  reported = time.monotonic()
  try:
    while waiting or active:
      _start(waiting, active, idle)
      ended = [run for run, (process, *_) in active.items()
               if process.poll() is not None]
      for run in ended:
        process, started, cores = active.pop(run)
        idle.append(cores)
        _note_failure(run, process.returncode)
        on_change(run, time.monotonic() - started)
      if not ended:
        time.sleep(_POLL_SECONDS)
      if time.monotonic() - reported > _REPORT_SECONDS:
        reported = time.monotonic()
        on_change(None, 0)
  finally:
    for process, *_ in active.values():
      process.terminate()  # The trainers save, and resume the next time.
    for process, *_ in active.values():
      process.wait()


def shares(jobs: int) -> list[set[int]]:
  """The cores of each job; with more jobs than cores some share one.

  Models as small as those of `rooms` gain nothing from a second core: two jobs
  on a core each made 1.9 times the steps of one on two. Empty where the system
  knows no such thing.
  """
  if not hasattr(os, "sched_getaffinity"):
    return [set() for _ in range(jobs)]
  cores = sorted(os.sched_getaffinity(0))
  return [set(cores[i::jobs] or [cores[i % len(cores)]]) for i in range(jobs)]


def _popen(run: Run, log, cores: set[int]) -> subprocess.Popen:
  """The process inherits the cores of the thread that starts it."""
  before = os.sched_getaffinity(0) if cores else None
  if cores:
    os.sched_setaffinity(0, cores)
  try:
    return subprocess.Popen(run.command, stdout=log, stderr=log,
                            env=os.environ | {"PYTHONUNBUFFERED": "1"})
  finally:
    if cores:
      os.sched_setaffinity(0, before)


def _start(waiting: list[Run], active: dict, idle: list[set[int]]) -> None:
  """Starts what can be started; drops what never can."""
  busy = {run.name for run in active} | {run.name for run in waiting}
  for run in list(waiting):
    if run.needs and run.needs.name in busy:
      continue
    if run.needs and not sweep_plan.is_done(run.needs):
      waiting.remove(run)  # Its reason is that of the one it needs.
      busy.discard(run.name)
    elif idle:
      waiting.remove(run)
      run.log.parent.mkdir(parents=True, exist_ok=True)
      cores = idle.pop()
      with open(run.log, "a") as log:
        active[run] = _popen(run, log, cores), time.monotonic(), cores


def _note_failure(run: Run, code: int) -> None:
  if code == 0 and sweep_plan.is_done(run):
    return
  lines = [x for x in run.log.read_text(errors="replace").splitlines() if x]
  errors = [x for x in lines if x.startswith("error: ")] or lines or [""]
  run.failure.write_text(f"exit code {code}: {errors[-1]} (see {run.log})\n")


def table(cells: Cells, sweep: Mapping[str, Any]) -> str:
  """How far each cell is: a line per cell, a column per seed."""
  lines = []
  for name in sweep["cells"]:
    row = [_cell_state(runs) for (other, _), runs in cells.items()
           if other == name]
    lines.append("  ".join([f"{name:20}", *(f"{x:24}" for x in row)]))
  return "\n".join(line.rstrip() for line in lines)


def _cell_state(runs) -> str:
  parts = []
  for stage, run in runs.items():
    step, total = sweep_plan.progress(run)
    state = ("done" if step == total else
             "failed" if run.failure.exists() else
             f"{100 * step // total} %" if step else "–")
    parts.append(f"{ {1: 'I', 2: 'II'}.get(stage, stage) } {state}")
  return " · ".join(parts)


def describe(runs: Sequence[Run], clock: Clock, jobs: int) -> str:
  """What --dry_run says."""
  missing = [run for run in runs if not sweep_plan.is_done(run)]
  return "\n".join([
      sweep_plan.commands(missing),
      f"# {len(missing)} of {len(runs)} runs to do, "
      f"{clock.left(missing, jobs)}"])


def say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def run_sweep(args: argparse.Namespace) -> int:
  """The exit code; see `main`."""
  sweep = sweep_plan.load(args.name, args.size)
  cells = sweep_plan.plan(
      sweep, workdir=args.workdir, num_seeds=args.seeds,
      data=_data(args))
  runs, clock = sweep_plan.unique(cells), Clock(sweep["costs"][2])
  if args.dry_run:
    print(describe(runs, clock, args.jobs))
    print(table(cells, sweep))
    return 0
  page = pathlib.Path(args.workdir) / f"{args.name}.md"
  try:
    if not args.collect:
      _run(args, sweep, cells, runs, clock)
  finally:  # However it ends; the picture once only, it takes a second.
    results = _write(args, sweep, cells)
    sweep_plot.draw(page.with_suffix(".png"), sweep, results)
  print(page.read_text())
  bad = [run for run in runs if not sweep_plan.is_done(run)]
  for run in bad:
    say(f"{run.name}: {sweep_plan.reason(run)}")
  return EXIT_FAILED if bad and not args.collect else 0


def _data(args) -> dict[str, str]:
  return {name: value for name in ("data_dir", "dataset")
          if (value := getattr(args, name))}


def _run(args, sweep, cells, runs, clock) -> None:
  """Runs what is missing; says after each how far it is, and writes that."""
  def on_change(run, seconds):
    if run is not None and sweep_plan.is_done(run):
      clock.add(run, seconds)
    left = [x for x in runs if not sweep_plan.is_done(x)]
    say(f"── {args.name}: {len(runs) - len(left)} of {len(runs)} runs done, "
        f"{clock.left(left, args.jobs)} left\n{table(cells, sweep)}")
    _write(args, sweep, cells)

  on_change(None, 0)
  if args.size == "rooms" and args.jobs > 1 and not args.dataset:
    _render_rooms(args.data_dir)  # Or all jobs would, at once.
  execute(runs, args.jobs, on_change)


def _write(args, sweep, cells) -> dict[str, Any]:
  """Writes NAME.json and NAME.md; returns the results."""
  out = pathlib.Path(args.workdir)
  out.mkdir(parents=True, exist_ok=True)
  results = sweep_results.collect(sweep, cells)
  command = ["python", "-m", "tools.sweep", args.name, "--workdir",
             args.workdir, "--size", args.size, "--seeds", str(args.seeds)]
  for name, value in _data(args).items():
    command += [f"--{name}", value]
  sweep_results.write(out, args.name, sweep, results,
                      command=shlex.join(command))
  return results


def _render_rooms(data_dir: str | None) -> None:
  extra = ["--data_dir", data_dir] if data_dir else []
  subprocess.run([sys.executable, "-m", "tools.prepare_data", "rooms", *extra],
                 check=True)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog="python -m tools.sweep", description=__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add("name", help=", ".join(sweep_plan.names()))
  add("--workdir", required=True)
  add("--size", default="rooms", help="rooms (default), full or tiny")
  add("--seeds", type=int, default=3, help="how many (default 3)")
  add("--jobs", type=int, default=1, help="runs at a time (default 1)")
  add("--data_dir", help="TFDS's root folder")
  add("--dataset", help="instead of the configs', such as arrays:DIR of "
      "tools.cache_arrays, which needs no TensorFlow")
  mode = parser.add_mutually_exclusive_group()
  mode.add_argument("--dry_run", action="store_true")
  mode.add_argument("--collect", action="store_true")
  args = parser.parse_args(argv)
  if args.seeds < 1 or args.jobs < 1:
    parser.error("--seeds and --jobs must be at least 1")
  return args


def main(argv: Sequence[str] | None = None) -> int:
  """0; 1 if a run failed; 2 after a mistake that the message explains."""
  args = parse_args(argv)
  try:
    return run_sweep(args)
  except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    return EXIT_BAD_INPUT


if __name__ == "__main__":
  import signal
  # So that `execute` ends its processes on the way out.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  sys.exit(main())
