"""Runs one benchmark in a process of its own: python -m tools.bench starts it.

  python -m tools.bench.worker NAME SIZE FILE

Writes the rows to FILE as JSON, progress to the error stream.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Iterator

from tools.bench import measure
from tools.bench.sizes import SIZES, Size


def _train(name):
  def run(size):
    from tools.bench import train as bench_train
    return getattr(bench_train, name)(size)
  return run


def _infer(name):
  def run(size):
    from tools.bench import infer as bench_infer
    return getattr(bench_infer, name)(size)
  return run


def _data(name):
  def run(size):
    from tools.bench import data as bench_data
    return getattr(bench_data, name)(size)
  return run


Run = Callable[[Size], Iterator[measure.Row]]
BENCHMARKS: dict[str, Run] = {
    "C1": _train("c1"),
    "C2": _train("c2"),
    "C3": _infer("decoding"),
    "C4": _data("preprocessing"),
    "C5": _infer("outputs"),
    "C6": _data("panoptic_quality"),
    "C7": _train("c7"),
    "C8": _train("c8"),
    "growth": _infer("growth"),
}


def main(argv: list[str]) -> int:
  """The command line; returns the exit status."""
  name, size, path = argv
  try:
    rows = [dataclasses.asdict(row) for row in BENCHMARKS[name](SIZES[size])]
  except measure.Disagree as error:
    measure.say(f"the two sides disagree: {error}")
    return 1
  pathlib.Path(path).write_text(json.dumps(rows))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
