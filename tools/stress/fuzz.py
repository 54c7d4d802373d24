"""Throws broken input at what reads input: only our own errors may come back.

  python -m tools.fuzz [--cases 10000] [--seed 0] [--kinds string config image]

`string`: preprocessing strings, run on a small example. `config`: command
lines of the trainers, up to the model and its optimizer. `image`: files for
training and for tools.prepare_data. All cases follow from the seed. Works in a
folder of its own and looks afterwards whether any file in it has changed; a
case that takes longer than --limit seconds ends the run with its stack.
"""

import argparse
import collections
import contextlib
import dataclasses
import faulthandler
import hashlib
import io
import os
import pathlib
import random
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tools.stress import targets
from uvim import progress
from uvim.cli import app
from uvim.registry import ConfigError

# What to throw things at, by the name of its cases' kind.
KINDS: Mapping[str, Callable[[pathlib.Path], targets.Target]] = {
    "string": targets.Strings, "config": targets.Configs,
    "image": targets.Images}

# The lines of a traceback, and the letters of a case, that a failure shows.
SHOWN_LINES = 12
SHOWN_LETTERS = 2000


@dataclasses.dataclass
class Report:
  """What came of a run.

  Attributes:
    passed: kind → cases that were taken without an error.
    refused: kind → cases that a ConfigError refused.
    failures: one text per kind of failure: the case and its traceback.
    places: where failures were raised; of one place only the first is kept.
  """

  passed: collections.Counter = dataclasses.field(
      default_factory=collections.Counter)
  refused: collections.Counter = dataclasses.field(
      default_factory=collections.Counter)
  failures: list[str] = dataclasses.field(default_factory=list)
  places: set[tuple] = dataclasses.field(default_factory=set)


def run(cases: int, *, seed: int = 0,
        kinds: Mapping[str, Callable[[pathlib.Path], targets.Target]] = KINDS,
        limit: float | None = None) -> Report:
  """Runs as many cases, shared among the kinds.

  Args:
    cases: how many.
    seed: what they follow from.
    kinds: name → what makes the target from a folder to work in.
    limit: seconds that one may take; past that the process ends. None: any.
  """
  report = Report()
  names = list(kinds)
  with (tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder), warnings.catch_warnings()):
    warnings.simplefilter("ignore")  # Of a library, about the broken input.
    folder = pathlib.Path(folder)
    made = {name: make_target(folder) for name, make_target in kinds.items()}
    digests = _digests(folder)
    numbers = progress.bar(range(cases), total=cases, label="Fuzz",
                           unit="cases")
    for number in numbers:
      name = names[number % len(names)]
      rng = random.Random(f"{seed}/{name}/{number}")
      case = made[name].make(rng)
      with _time_limit(limit):
        _run_case(made[name], name, case, report)
    if _digests(folder) != digests:
      report.failures.append(f"files changed: {_digests(folder)}")
  return report


@contextlib.contextmanager
def _time_limit(seconds: float | None):
  """Ends the process, with its stack, when the block takes longer."""
  if seconds:
    faulthandler.dump_traceback_later(seconds, exit=True)
  try:
    yield
  finally:
    if seconds:
      faulthandler.cancel_dump_traceback_later()


def _run_case(target: targets.Target, kind: str, case: Any,
              report: Report) -> None:
  try:
    with contextlib.redirect_stderr(io.StringIO()):
      target.run(case)
    report.passed[kind] += 1
  except ConfigError as error:
    report.refused[kind] += 1
    if "Traceback" in str(error):
      report.failures.append(f"{kind} {case!r}: {error}")
  except Exception as error:  # noqa: BLE001 - that is what is looked for.
    _note_failure(kind, case, error, report)


def _note_failure(kind: str, case: Any, error: Exception,
                  report: Report) -> None:
  last = traceback.extract_tb(error.__traceback__)[-1]
  place = (kind, type(error), last.filename, last.lineno)
  if place in report.places:
    return
  report.places.add(place)
  lines = traceback.format_exception(error)[-SHOWN_LINES:]
  shown_case = str(case)[:SHOWN_LETTERS]
  report.failures.append(f"{kind} {shown_case!r}\n{''.join(lines)}")


def _digests(folder: pathlib.Path) -> dict[str, str]:
  """Every file below a folder with a digest of what it holds."""
  digests = {}
  for path in folder.rglob("*"):
    if path.is_file():
      digest = hashlib.sha256(path.read_bytes()).hexdigest()
      digests[str(path.relative_to(folder))] = digest
  return digests


def main(argv: Sequence[str] | None = None) -> int:
  """The command line; 1 where anything but our own errors came back."""
  parser = app.make_parser("tools.fuzz", __doc__)
  parser.add_argument("--cases", type=int, default=10_000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--kinds", nargs="+", choices=list(KINDS),
                      default=list(KINDS))
  parser.add_argument("--limit", type=float, default=120,
                      help="seconds a case may take (default: %(default)g)")
  # Broken input makes TensorFlow report errors at the level that `app` keeps.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  return app.run(parser, _command, argv)


def _command(args: argparse.Namespace) -> int:
  kinds = {name: KINDS[name] for name in args.kinds}
  report = run(args.cases, seed=args.seed, kinds=kinds, limit=args.limit)
  for kind in kinds:
    print(f"{kind}: {report.passed[kind]} taken, {report.refused[kind]} "
          "refused by our own error")
  for failure in report.failures:
    print(f"\nFAILED {failure}")
  print(f"{len(report.failures)} kinds of failure in {args.cases} cases")
  return 1 if report.failures else 0


if __name__ == "__main__":
  sys.exit(main())
