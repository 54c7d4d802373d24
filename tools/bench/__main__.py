"""Measures our code against a naive version of the same, in one run.

  python -m tools.bench [NAME…] [--json FILE] [--markdown] [--device gpu]

Names are C1 to C8 and growth; without any, all of them run. What each is, and
what may be concluded from it, stands in docs/performance.md. Both sides run in
turns in one process, their results are compared before anything is
timed, and the report gives

  ours, naive   the median, ± half of (max − min) in per cent of it
  ratio         how many times better ours is
  CPU s         of all cores together, per run: what to look at when the
                machine has other things to do
  original      as published for another machine: its speed does not carry
  temp, FLOP    scratch memory of the compiled program, and its operations;
                of C4 the growth of the process's peak memory
  GFLOP/s       of ours, and of a plain matrix product in the same process

The exit status is 1 if a benchmark failed or the two sides disagreed.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from tools.bench.measure import Row
from tools.bench.worker import BENCHMARKS
from uvim.registry import ConfigError, unknown

# What a machine without TensorFlow and with a GPU is asked for.
ON_GPU = ("C1", "C2", "C3", "C5", "C7", "C8")

# The CPU compiler's default order of operations is for speed, and inflates
# what is alive at once; where memory is compared both sides get the other. In
# the environment: as an option of one compilation it has no effect.
COMPARE_MEMORY = ("C7", "C8", "growth")
# Of these nothing is timed, so they share the machine.
COMPILED_ONLY = ("C7", "C8")
MEMORY_FIRST = "--xla_cpu_enable_concurrency_optimized_scheduler=false"

# The original as measured on another machine with two cores: what of it is
# shown, and the memory and operations that do carry to this one.
ORIGINAL = {
    "C1": ("2.16 images/s, 1198 MB, 141.5 GFLOP", 1198e6, 141.5e9),
    "C2": ("10 images/s, 522 MB, 92.8 GFLOP", 522e6, 92.8e9),
    "C2 codes given": ("17.8 images/s, 40.2 GFLOP", None, 40.2e9),
    "C3": ("1378–1503 tokens/s", None, None),
    "C4 20 segments": ("49 images/s, 950 MB", None, None),
    "C4 60 segments": ("83 ms CPU per image", None, None),
    "C5": ("2.74 images/s, 1740 MB", 1740e6, None),
    "C6": ("67–71 images/s", None, None),
    "C7": ("29600 MB, 11500 GFLOP", 29.6e9, 11.5e12),
    "C8": ("54200 MB, 25100 GFLOP", 54.2e9, 25.1e12),
}

# Least ratio to the naive side, largest share of its temp and operations; of
# the original's, where those are known and smaller.
TARGETS = {
    "C1": dict(ratio=2, temp=0.4),
    "C2": dict(ratio=2),
    "C2 codes given": dict(ratio=1.3),
    "C3": dict(ratio=4),
    "C4 20 segments": dict(ratio=2.5),
    "C4 60 segments": dict(ratio=4),
    "C5": dict(ratio=4, temp=0.08),
    "C6": dict(ratio=15),
    "C7": dict(temp=0.35, flops=1.1),
    "C8": dict(temp=0.3, flops=1.25),
}


def parse_args(argv):
  parser = argparse.ArgumentParser(
      prog="python -m tools.bench", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("names", nargs="*", metavar="NAME")
  parser.add_argument("--json", metavar="FILE", type=pathlib.Path)
  parser.add_argument("--markdown", action="store_true",
                      help="the table of docs/performance.md")
  parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
  parser.add_argument("--quick", action="store_true", help="tiny sizes: shows "
                      "that all of it runs; its figures mean nothing")
  return parser.parse_args(argv)


def main(argv=None) -> int:
  """The command line; returns the exit status."""
  args = parse_args(argv)
  try:
    names = chosen(args.names, args.device)
    if args.json and not args.json.parent.is_dir():
      raise ConfigError(f"--json {args.json}: there is no such folder.")
  except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  size = "tiny" if args.quick else args.device
  rows, failed, start = [], [], time.perf_counter()
  for group in groups(names):
    print(f"{' and '.join(group)} (of {len(names)}, "
          f"{time.perf_counter() - start:.0f} s so far)", file=sys.stderr,
          flush=True)
    with concurrent.futures.ThreadPoolExecutor(len(group)) as pool:
      found = pool.map(lambda name: run(name, size, args.device), group)
      for name, new in zip(group, found, strict=True):
        rows += new or []
        failed += [name] * (new is None)
  print(markdown(rows) if args.markdown else text(rows))
  if args.json:
    args.json.write_text(json.dumps([r.to_json() for r in rows], indent=1))
  if failed:
    print(f"failed: {', '.join(failed)}", file=sys.stderr)
  return 1 if failed else 0


def chosen(names: list[str], device: str) -> list[str]:
  """The benchmarks to run, each once.

  Raises:
    ConfigError: an unknown name, or one that the device has no use for.
  """
  known = ON_GPU if device == "gpu" else tuple(BENCHMARKS)
  for name in names:
    if name not in known:
      raise unknown(f"benchmark for --device {device}", name, known)
  return list(dict.fromkeys(names or known))


def groups(names: list[str]) -> list[list[str]]:
  """What runs at the same time, in turn."""
  compiled = [name for name in names if name in COMPILED_ONLY]
  out = [[name] for name in names if name not in compiled]
  return [*out, compiled] if compiled else out


def run(name: str, size: str, device: str) -> list[Row] | None:
  """The rows of a benchmark, from a process of its own; None if it failed.

  Its own, because memory that one benchmark made the process keep would be
  counted for the next.
  """
  environment = dict(os.environ)
  environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  # As `make` does for everything else.
  environment.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
  if device == "cpu":
    environment["JAX_PLATFORMS"] = "cpu"
    if name in COMPARE_MEMORY:
      flags = environment.get("XLA_FLAGS", "")
      environment["XLA_FLAGS"] = f"{flags} {MEMORY_FIRST}".strip()
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "rows.json"
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench.worker", name, size, str(path)],
        env=environment, check=False, stdout=subprocess.DEVNULL)
    if done.returncode:
      return None
    return [Row(**fields) for fields in json.loads(path.read_text())]


def is_met(row: Row) -> bool | None:
  """Whether the row meets its target; None if it has none."""
  target = TARGETS.get(row.name)
  if target is None:
    return None
  _, temp, flops = ORIGINAL.get(row.name, ("", None, None))
  shares = {"temp": _share(row.temp_bytes_ours, row.temp_bytes_naive, temp),
            "flops": _share(row.flops_ours, row.flops_naive, flops)}
  return (row.ratio >= target.get("ratio", 0)
          and all(shares[k] is None or shares[k] <= target[k]
                  for k in shares.keys() & target.keys()))


def _share(ours, *others):
  others = [x for x in others if x]
  return ours / min(others) if ours is not None and others else None


def text(rows: list[Row]) -> str:
  """The report for a terminal."""
  lines = [list(cells(row)) for row in (None, *rows)]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip()
                   for line in lines)


def markdown(rows: list[Row]) -> str:
  """The same as a table of Markdown."""
  lines = [list(cells(row)) for row in (None, *rows)]
  lines.insert(1, ["---"] * len(lines[0]))
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(row: Row | None):
  """What a line shows; of None: the heads of the columns."""
  if row is None:
    return ("benchmark", "original", "naive", "ours", "unit", "ratio",
            "CPU s naive / ours", "temp MB naive / ours",
            "GFLOP naive / ours", "GFLOP/s ours (ceiling)", "target")
  get = row.details.get
  return (row.name, ORIGINAL.get(row.name, ("–",))[0],
          _value(row, "naive"), _value(row, "ours"),
          "MB temp" if row.unit == "bytes" else row.unit, f"{row.ratio:.2f}",
          _pair(get("cpu_naive"), get("cpu_ours"), 1, 2),
          _pair(row.temp_bytes_naive, row.temp_bytes_ours, 1e-6, 0),
          _pair(row.flops_naive, row.flops_ours, 1e-9, 1),
          _ceiling(row), _target(row))


def _value(row, side) -> str:
  value, low, high = (getattr(row, side), row.details.get(f"min_{side}"),
                      row.details.get(f"max_{side}"))
  if row.unit == "bytes":
    return f"{value / 1e6:.0f}"
  spread = 50 * (high - low) / row.details[f"seconds_{side}"]
  return f"{value:.3g} ± {spread:.0f} %"


def _pair(naive: Any, ours: Any, scale: float, digits: int) -> str:
  return " / ".join("–" if x is None else f"{x * scale:.{digits}f}"
                    for x in (naive, ours))


def _ceiling(row) -> str:
  if "ceiling_gflops" not in row.details:
    return "–"
  return (f"{row.details['gflops_ours']:.1f} "
          f"({row.details['ceiling_gflops']:.0f})")


def _target(row) -> str:
  target = TARGETS.get(row.name)
  if target is None:
    return "–"
  words = [f"{'≥' if key == 'ratio' else key + ' ≤'} {value:g}×"
           for key, value in target.items()]
  return f"{', '.join(words)}: {'met' if is_met(row) else 'missed'}"


if __name__ == "__main__":
  sys.exit(main())
