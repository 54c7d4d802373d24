"""Runs the cells of a table or figure of the paper and sets it up anew.

  python -m tools.sweep --list
  python -m tools.sweep NAME --workdir W [--size rooms|full|tiny] [--seeds K]
      [--jobs N] [--data_dir DIR] [--dataset arrays:DIR]
      [--dry_run | --collect]

NAME is a file of configs/sweeps; --list says which there are. What is missing
is run, and what was begun is resumed. Cells that need the same stage I share
it, and so do sweeps of one workdir. Our figures, the spread over seeds and the
published figures are in W/NAME.md and .json, written after each run, and in
W/NAME.png, drawn at the end. A cell that was not run or that failed says why;
the others go on. --dry_run only says what would be run and how long it takes.
--collect only writes the three files.
"""

import argparse
import dataclasses
import functools
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tools.sweeps import decisions, jobs, page, plan, plot, progress
from tools.sweeps import results as sweep_results
from tools.sweeps.plan import Cells, Sweep
from tools.sweeps.progress import Clock
from tools.sweeps.results import Results
from tools.sweeps.runs import Run, is_done, reason_of
from uvim import files
from uvim.cli import app
from uvim.registry import ConfigError

EXIT_FAILED = 1
# Data sets that are rendered on first use, and take minutes.
_RENDERED = ("rooms", "rooms/hard")
EXIT_TERMINATED = 143


@dataclasses.dataclass(frozen=True)
class Outside:
  """What the command does to the world; tests put something else here.

  Attributes:
    load_sweep: (name, size) → the sweep.
    start: starts a run; see `jobs.start_process`.
    draw: writes the plot.
    poll_seconds: between two looks at the processes.
  """
  load_sweep: Callable[[str, str], Sweep] = plan.load_sweep
  start: Callable[..., Any] = jobs.start_process
  draw: Callable[[pathlib.Path, Sweep, Results], None] = plot.draw
  poll_seconds: float = 0.2


@dataclasses.dataclass(frozen=True)
class _Work:
  """The sweep that the command is about.

  Attributes:
    args: of the command line.
    sweep: what is to be run.
    cells: its runs by cell and seed.
    clock: estimates what is left.
  """
  args: argparse.Namespace
  sweep: Sweep
  cells: Cells
  clock: Clock

  @property
  def runs(self) -> list[Run]:
    return plan.unique_runs(self.cells)

  @property
  def missing(self) -> list[Run]:
    """The runs that are not done."""
    return [run for run in self.runs if not is_done(run)]

  # ── As an observer of jobs ────────────────────────────────────────────────

  def on_end(self, run: Run, seconds: float) -> None:
    if is_done(run):
      self.clock.add(run, seconds)
    self.on_wait()

  def on_wait(self) -> None:
    """Says how far everything is, and writes what was found."""
    missing = self.missing
    num_runs = len(self.runs)
    left = self.clock.left(missing, self.args.jobs)
    _say(f"── {self.args.name}: {num_runs - len(missing)} of {num_runs} runs "
         f"done, {left} left\n{progress.table(self.cells, self.sweep)}")
    self.write()

  def write(self) -> Results:
    """Writes NAME.json and NAME.md."""
    found = sweep_results.collect(self.sweep, self.cells)
    command = _command_of(self.args)
    text = page.page_of(self.args.name, self.sweep, found, command=command)
    decisions_text = decisions.text_of(self.sweep)
    if decisions_text:
      text = f"{text}\n{decisions_text}"
    files.write_json(self.path(".json"),
                     {"command": command, **found.to_json()}, indent=1)
    files.write_text(self.path(".md"), text)
    return found

  def path(self, suffix: str) -> pathlib.Path:
    """The file NAME.… of the sweep."""
    return pathlib.Path(self.args.workdir) / f"{self.args.name}{suffix}"


def main(argv: Sequence[str] | None = None,
         outside: Outside | None = None) -> int:
  """The command.

  Returns:
    0; 1 if a run failed; otherwise see `uvim.cli.app`.
  """
  command = functools.partial(run_sweep, outside=outside or Outside())
  return app.run(make_parser(), command, argv)


def make_parser() -> argparse.ArgumentParser:
  parser = app.make_parser("tools.sweep", __doc__)
  add = parser.add_argument
  add("name", help="see --list")
  add("--list", action=_List, nargs=0,
      help="list the sweeps that can be named, and exit")
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
  return parser


class _List(argparse.Action):
  """Prints every sweep and ends, like --help: nothing else need be given."""

  def __call__(self, parser, namespace, values, option_string=None):
    for name, title in plan.titles().items():
      print(f"{name:10} {title}")
    parser.exit()


def run_sweep(args: argparse.Namespace, outside: Outside) -> int:
  """What the command does; returns the exit code."""
  if args.seeds < 1 or args.jobs < 1:
    raise ConfigError("--seeds and --jobs must be at least 1.")
  sweep = outside.load_sweep(args.name, args.size)
  cells = plan.plan_runs(sweep, workdir=args.workdir, num_seeds=args.seeds,
                         data=_data_overrides(args))
  work = _Work(args, sweep, cells, Clock(sweep.recipe.unit))
  if args.dry_run:
    print(progress.describe(work.runs, work.clock, args.jobs))
    print(progress.table(cells, sweep))
    return app.EXIT_DONE

  try:
    if not args.collect:
      _run_missing(work, outside)
  finally:
    # However it ends. The plot takes a second, so it is drawn only once.
    found = work.write()
    outside.draw(work.path(".png"), sweep, found)
  print(work.path(".md").read_text())
  for run in work.missing:
    _say(f"{run.name}: {reason_of(run)}")
  has_failed = bool(work.missing) and not args.collect
  return EXIT_FAILED if has_failed else app.EXIT_DONE


def _run_missing(work: _Work, outside: Outside) -> None:
  """Runs what is missing; says after each run how far it is."""
  work.on_wait()
  args = work.args
  if args.jobs > 1:
    # Otherwise jobs would wait for the one that renders.
    for dataset in sorted({run.dataset for run in work.missing}):
      if dataset in _RENDERED:
        _render(dataset, args.data_dir)
  jobs.execute(work.runs, args.jobs, work, start=outside.start,
               poll_seconds=outside.poll_seconds)


def _render(dataset: str, data_dir: str | None) -> None:
  command = [sys.executable, "-m", "tools.prepare_data", "rooms", "--name",
             dataset]
  if data_dir:
    command += ["--data_dir", data_dir]
  subprocess.run(command, check=True)


def _data_overrides(args: argparse.Namespace) -> dict[str, str]:
  """The overrides of all configs that say where the data is."""
  overrides = {}
  if args.data_dir:
    overrides["data_dir"] = args.data_dir
  if args.dataset:
    overrides["dataset"] = args.dataset
  return overrides


def _command_of(args: argparse.Namespace) -> str:
  """The command that makes the same page."""
  command = ["python", "-m", "tools.sweep", args.name, "--workdir",
             args.workdir, "--size", args.size, "--seeds", str(args.seeds)]
  for name, value in _data_overrides(args).items():
    command += [f"--{name}", value]
  return shlex.join(command)


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def _terminate(signal_number, frame) -> None:
  """Leaves by an exception, so that `jobs.execute` ends its processes."""
  del signal_number, frame
  sys.exit(EXIT_TERMINATED)


if __name__ == "__main__":
  signal.signal(signal.SIGTERM, _terminate)
  sys.exit(main())
