"""Measures the paper's models on one GPU, the most important figures first.

  python -m tools.bench.gpu [PART…] [--seconds S]
  JAX_PLATFORMS=cpu python -m tools.bench.gpu --tiny

Prints a line of JSON for each measurement as soon as it is there. Ends by
itself after S seconds, whatever it is doing then. A part that fails is told and
left. The parts and their fields stand in docs/performance.md; `ceilings`, which
the others are held against, always comes first. Neither TensorFlow nor data are
needed. --tiny shows on any machine that everything runs.

The exit status is 1 if a part failed.
"""

import argparse
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from uvim.cli import app
from uvim.registry import ConfigError, unknown

EXIT_FAILED = 1

_SECONDS = 450
# Digits of a figure that mean something.
_DIGITS = 4


class Report:
  """Writes lines of JSON.

  Attributes:
    part: what is being measured; in every line.
    num_failed: parts that failed so far.
  """

  def __init__(self):
    self.part = "start"
    self.num_failed = 0
    self._start = time.perf_counter()

  def seconds(self) -> float:
    """Since the beginning."""
    return time.perf_counter() - self._start

  def write(self, line: Mapping[str, Any]) -> None:
    """Writes a line, whole and at once."""
    head = {"part": self.part, "at_s": self.seconds()}
    text = json.dumps(_rounded({**head, **line}))
    # In one piece: another thread may write the last line.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _rounded(value):
  """Figures with few digits, in lists and dicts too."""
  if isinstance(value, float):
    return float(f"{value:.{_DIGITS}g}")
  if isinstance(value, Mapping):
    return {key: _rounded(entry) for key, entry in value.items()}
  return value


def main(argv: Sequence[str] | None = None) -> int:
  parser = app.make_parser("tools.bench.gpu", __doc__)
  add = parser.add_argument
  add("parts", nargs="*", metavar="PART", help="a part; none: all")
  add("--seconds", type=float, default=_SECONDS, metavar="S",
      help=f"when to end (default {_SECONDS})")
  add("--tiny", action="store_true",
      help="tiny sizes, on any machine: their figures mean nothing")
  return app.run(parser, _measure, argv)


def _measure(args: argparse.Namespace) -> int:
  """Runs the parts; returns the exit status."""
  if not args.seconds > 0:
    raise ConfigError(f"--seconds {args.seconds:g}: must be above 0.")
  report = Report()
  # Not at the top: what is wrong with the options is told before JAX starts.
  import jax

  from tools.bench.gpu.parts import make_parts
  from tools.bench.gpu.setting import PAPER, TINY
  setting = TINY if args.tiny else PAPER
  parts = make_parts(setting)
  for name in args.parts:
    if name not in parts:
      raise unknown("part", name, list(parts))
  platform = jax.default_backend()
  if platform != "gpu" and not args.tiny:
    raise ConfigError(f"JAX found no GPU, only {platform!r}; --tiny runs "
                      "there.")

  alarm = threading.Timer(
      args.seconds - report.seconds(), _stop, [report])
  # It must not keep the process alive when all parts are done.
  alarm.daemon = True
  alarm.start()
  wanted = {}
  for name, part in parts.items():
    if not args.parts or name in args.parts:
      wanted[name] = part
  _run(wanted, setting, report)
  alarm.cancel()
  return EXIT_FAILED if report.num_failed else app.EXIT_DONE


def _stop(report):
  """Ends the process from another thread, whatever it is doing."""
  report.write({"stopped": "the time is over"})
  # The compiler can be interrupted by nothing else.
  os._exit(EXIT_FAILED if report.num_failed else app.EXIT_DONE)


def _run(parts, setting, report):
  """Measures the ceilings and runs the parts."""
  from tools.bench.gpu import machine
  from tools.bench.gpu.setting import Ceilings
  # Filled by the first measurement. If it fails, the others lack the shares.
  ceilings = Ceilings()

  def measure_ceilings():
    nonlocal ceilings
    ceilings, line = machine.measure_ceilings(setting)
    yield line

  run_part("ceilings", measure_ceilings, report)
  for name, part in parts.items():
    run_part(name, lambda part=part: part(setting, ceilings), report)
  report.part = "end"
  report.write({"failed": report.num_failed})


def run_part(name: str, part: Callable[[], Any], report: Report) -> None:
  """Writes the lines of a part; whatever it raises ends it alone."""
  report.part = name
  try:
    for line in part():
      report.write(line)
  except Exception as error:
    report.num_failed += 1
    reason = str(error).partition("\n")[0]
    report.write({"failed": f"{type(error).__name__}: {reason[:300]}"})
    traceback.print_exc(limit=4)


if __name__ == "__main__":
  sys.exit(main())
