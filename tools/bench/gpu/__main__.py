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
import os
import sys
import threading
from collections.abc import Sequence

from tools.bench.gpu.lines import Lines
from uvim.cli import app
from uvim.registry import ConfigError, unknown

EXIT_FAILED = 1

_SECONDS = 450


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
  lines = Lines()
  # Not at the top: it brings JAX, for which --help need not wait.
  from tools.bench.gpu import parts as parts_lib
  from tools.bench.gpu.setting import PAPER, TINY
  setting = TINY if args.tiny else PAPER
  parts = parts_lib.make_parts(setting)
  for name in args.parts:
    if name not in parts:
      raise unknown("part", name, list(parts))
  if args.parts:
    # In the order of importance, whatever the order of the arguments.
    parts = {name: parts[name] for name in parts if name in args.parts}
  if not args.tiny:
    _require_gpu()

  seconds_left = args.seconds - lines.seconds()
  alarm = threading.Timer(seconds_left, _stop, [lines])
  # It must not keep the process alive when all parts are done.
  alarm.daemon = True
  alarm.start()
  parts_lib.run(parts, setting, lines)
  alarm.cancel()
  return _exit_status(lines)


def _require_gpu():
  import jax
  platform = jax.default_backend()
  if platform != "gpu":
    raise ConfigError(f"JAX found no GPU, only {platform!r}; --tiny runs "
                      "there.")


def _stop(lines: Lines) -> None:
  """Ends the process from another thread, whatever it is doing."""
  lines.write({"stopped": "the time is over", "left_out": lines.waiting})
  # Nothing else interrupts the compiler.
  os._exit(_exit_status(lines))


def _exit_status(lines: Lines) -> int:
  return EXIT_FAILED if lines.num_failed else app.EXIT_DONE


if __name__ == "__main__":
  sys.exit(main())
