"""Runs a part of a benchmark in a process of its own, for tools.bench.

  python -m tools.bench.worker NAME PART SIZE FILE

PART is its number: 0, 1, … in the order of `Benchmark.make_parts`.

Writes the rows to FILE as JSON, progress to the error stream.
"""

import dataclasses
import sys

from tools.bench import measure
from tools.bench.benchmarks import BENCHMARKS
from tools.bench.sizes import SIZES
from uvim import files
from uvim.cli import app

EXIT_DISAGREE = 1


def main(argv=None) -> int:
  parser = app.make_parser("tools.bench.worker", __doc__)
  parser.add_argument("name", metavar="NAME", choices=tuple(BENCHMARKS))
  parser.add_argument("part", metavar="PART", type=int)
  parser.add_argument("size", metavar="SIZE", choices=tuple(SIZES))
  parser.add_argument("file", metavar="FILE")
  return app.run(parser, _run, argv)


def _run(args) -> int:
  parts = BENCHMARKS[args.name].make_parts(SIZES[args.size])
  make_rows = parts[args.part]
  try:
    # All rows first. A file that is there is complete.
    rows = list(make_rows())
  except measure.Disagree as error:
    measure.say(f"the two sides disagree: {error}")
    return EXIT_DISAGREE
  files.write_json(args.file, [dataclasses.asdict(row) for row in rows])
  return app.EXIT_DONE


if __name__ == "__main__":
  sys.exit(main())
