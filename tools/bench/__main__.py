"""Measures our code against a naive version of the same work, in one run.

  python -m tools.bench [NAME…] [--json FILE] [--markdown]

Names are C1 to C9 and growth; without any, all of them run. What each is, and
what may be concluded from it, stands in docs/performance.md. Both sides run in
turns in one process, on the CPU. Their results are compared before anything is
timed. For a GPU there is tools.bench.gpu. The report gives

  ours, naive   the median, ± half of (max − min) in per cent of it
  ratio         how many times better ours is
  CPU s         of all cores together, per run: what to look at when the
                machine has other things to do
  floor         seconds of bare arithmetic or reading at this machine's best,
                and how many times as long ours takes
  original      as published for another machine: its speed does not carry
  temp, GFLOP   scratch memory of the compiled program, and its operations;
                for C4 the growth of the process's peak memory
  GFLOP/s       of ours, and of a plain matrix product in the same process

The exit status is 1 if a benchmark failed or the two sides disagreed.
"""

import argparse
import concurrent.futures
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from tools.bench import report
from tools.bench.benchmarks import BENCHMARKS
from tools.bench.rows import Row
from tools.bench.sizes import SIZES
from uvim import files
from uvim.cli import app
from uvim.registry import ConfigError, unknown

EXIT_FAILED = 1

# The CPU compiler's default order of operations is for speed, and inflates
# what is alive at once. Where memory is compared both sides get the other. It
# is set in the environment: as an option of one compilation it has no effect.
MEMORY_FIRST = "--xla_cpu_enable_concurrency_optimized_scheduler=false"

# (name, size) → the rows, or None if the benchmark failed.
RunOne = Callable[[str, str], list[Row] | None]


def run_in_own_process(name: str, size: str) -> list[Row] | None:
  """The rows of a benchmark; None if it failed.

  Each of its parts runs in a process of its own, because memory that one made
  the process keep would be counted for the next.

  Args:
    name: a key of BENCHMARKS.
    size: a key of SIZES.
  """
  rows = []
  for part in range(len(BENCHMARKS[name].make_parts(SIZES[size]))):
    rows_of_part = _run_part(name, part, size)
    if rows_of_part is None:
      return None
    rows.extend(rows_of_part)
  return rows


def _run_part(name: str, part: int, size: str) -> list[Row] | None:
  """The rows of one part; None if it failed."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "rows.json"
    # The rows come back in a file: what libraries print cannot spoil it.
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench.worker", name, str(part), size,
         str(path)],
        env=_environment(name), check=False,
        stdout=subprocess.DEVNULL)
    if done.returncode:
      return None
    return [Row(**fields) for fields in json.loads(path.read_text())]


def _environment(name: str) -> dict[str, str]:
  """The environment of the process that runs one benchmark."""
  environment = dict(os.environ)
  # As `make` does for everything else.
  environment.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
  # So a machine with a GPU gives the figures of its CPU.
  environment["JAX_PLATFORMS"] = "cpu"
  if BENCHMARKS[name].compares_memory:
    flags = environment.get("XLA_FLAGS", "")
    environment["XLA_FLAGS"] = f"{flags} {MEMORY_FIRST}".strip()
  return environment


def main(argv: Sequence[str] | None = None,
         run_one: RunOne = run_in_own_process) -> int:
  """The command line; returns the exit status.

  Args:
    argv: without the program's name; None: that of this process.
    run_one: runs a benchmark.
  """
  parser = app.make_parser("tools.bench", __doc__)
  add = parser.add_argument
  add("names", nargs="*", metavar="NAME", help="a benchmark; none: all")
  add("--json", metavar="FILE", type=pathlib.Path,
      help="also write the rows to this file")
  add("--markdown", action="store_true",
      help="the table of docs/performance.md")
  add("--quick", action="store_true", help="tiny sizes: shows that all of it "
      "runs; its figures mean nothing")
  return app.run(parser, functools.partial(_measure, run_one), argv)


def _measure(run_one: RunOne, args: argparse.Namespace) -> int:
  """Runs the benchmarks and prints the report; returns the exit status."""
  names = _chosen(args.names)
  # Before a run of minutes, whose result could not be written.
  if args.json and not args.json.parent.is_dir():
    raise ConfigError(f"--json {args.json}: there is no such folder.")
  size = "tiny" if args.quick else "cpu"

  def run(name):
    return run_one(name, size)

  rows = []
  failed = []
  for name, found in _run_all(names, run):
    if found is None:
      # The others still run. The exit status tells of it at the end.
      failed.append(name)
    else:
      rows.extend(found)
  print(report.markdown(rows) if args.markdown else report.text(rows))
  if args.json:
    files.write_json(args.json, [row.to_json() for row in rows], indent=1)
  if failed:
    print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return EXIT_FAILED
  return app.EXIT_DONE


def _run_all(names, run):
  """(name, its rows or None) of each benchmark; reports the progress."""
  start = time.perf_counter()
  for group in groups(names):
    seconds = time.perf_counter() - start
    print(f"{' and '.join(group)} (of {len(names)}, {seconds:.0f} s so far)",
          file=sys.stderr, flush=True)
    # A thread only waits for its process.
    with concurrent.futures.ThreadPoolExecutor(len(group)) as pool:
      yield from zip(group, pool.map(run, group), strict=True)


def _chosen(names: list[str]) -> list[str]:
  """The benchmarks to run, each once.

  Raises:
    ConfigError: an unknown name.
  """
  known = list(BENCHMARKS)
  for name in names:
    if name not in known:
      raise unknown("benchmark", name, known)
  # A name that is given twice runs once.
  return list(dict.fromkeys(names or known))


def groups(names: list[str]) -> list[list[str]]:
  """What runs at the same time, one group after the other.

  Benchmarks that are timed run alone; the others share the machine.
  """
  timed = [[name] for name in names if BENCHMARKS[name].is_timed]
  untimed = [name for name in names if not BENCHMARKS[name].is_timed]
  return [*timed, untimed] if untimed else timed


if __name__ == "__main__":
  sys.exit(main())
