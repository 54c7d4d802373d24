"""Throws broken input at what reads input: only our own errors may come back.

  python -m tools.fuzz [--cases 20000] [--seed 0] [--kinds string coco npz]

`string`: preprocessing strings, run on a small example. `config`: command
lines of the trainers, up to the model and its optimizer. `option`: command
lines of `uvim predict`. `image`: files for training and for
tools.prepare_data. `coco`: annotation files. `workdir`: files that a run keeps.
`npz`: files of parameters.

The library hypothesis draws the cases, all of them from the seed, and makes a
case that fails as small as it can. Works in a folder of its own and looks
afterwards whether any file in it has changed; a case that takes longer than
--limit seconds ends the run with its stack.
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
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import hypothesis

from tools.stress import file_targets, targets
from uvim import progress
from uvim.cli import app
from uvim.registry import ConfigError

# What to throw things at, by the name of its cases' kind.
KINDS: Mapping[str, Callable[[pathlib.Path], targets.Target]] = {
    "string": targets.Strings,
    "config": targets.Configs,
    "option": targets.Options,
    "image": file_targets.Images,
    "coco": file_targets.CocoJson,
    "workdir": file_targets.Workdirs,
    "npz": file_targets.Npz,
}

# The lines of a traceback, and the letters of a case, that a failure shows.
SHOWN_LINES = 16
SHOWN_LETTERS = 2000


@dataclasses.dataclass
class Report:
  """What came of a run.

  Attributes:
    passed: kind → cases that were taken without an error.
    refused: kind → cases that a ConfigError refused.
    failures: one text for each kind of failure: the smallest case that was
      found, and its traceback.
  """

  passed: collections.Counter = dataclasses.field(
      default_factory=collections.Counter)
  refused: collections.Counter = dataclasses.field(
      default_factory=collections.Counter)
  failures: list[str] = dataclasses.field(default_factory=list)


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
  with (tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder), warnings.catch_warnings()):
    warnings.simplefilter("ignore")  # Of a library, about the broken input.
    folder = pathlib.Path(folder)
    made = {name: make_target(folder) for name, make_target in kinds.items()}
    digests = _digests(folder)
    for name, target in made.items():
      _run_kind(name, target, cases // len(made), seed, limit, report)
    if _digests(folder) != digests:
      report.failures.append(f"files changed: {_digests(folder)}")
  return report


def _run_kind(kind: str, target: targets.Target, num_cases: int, seed: int,
              limit: float | None, report: Report) -> None:
  """Draws and runs the cases of one kind."""
  steps = progress.bar(range(num_cases), total=num_cases, label=kind,
                       unit="cases")
  ticks = iter(steps)

  # Failures that were seen before are no help: `database=None` keeps none.
  @hypothesis.seed(seed)
  @hypothesis.settings(
      max_examples=num_cases, deadline=None, database=None,
      report_multiple_bugs=True,
      phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
      suppress_health_check=list(hypothesis.HealthCheck))
  @hypothesis.given(case=target.cases())
  def run_case(case):
    # It ends at `num_cases`; hypothesis runs more to make a failure small.
    next(ticks, None)
    with _time_limit(limit), contextlib.redirect_stderr(io.StringIO()):
      is_taken = _is_taken(target, case)
    counts = report.passed if is_taken else report.refused
    counts[kind] += 1

  try:
    run_case()
  except Exception as error:  # noqa: BLE001 - that is what is looked for.
    for failure in _all_failures(error):
      report.failures.append(_describe(kind, failure))
  finally:
    steps.close()


def _is_taken(target: targets.Target, case: Any) -> bool:
  """Whether a case was taken; False if our own error refused it."""
  try:
    target.run(case)
  except ConfigError as error:
    if "Traceback" in str(error):
      raise AssertionError(f"no line for a user: {error}") from error
    return False
  return True


def _all_failures(error: Exception) -> Iterator[Exception]:
  """The failures of a run, which come as a group if there are several."""
  if not isinstance(error, ExceptionGroup):
    yield error
    return
  for failure in error.exceptions:
    yield from _all_failures(failure)


def _describe(kind: str, error: Exception) -> str:
  """The end of a traceback. Hypothesis has noted the case on the error."""
  case = "\n".join(getattr(error, "__notes__", ()))
  # Shown apart, since it may be long.
  error.__notes__ = []
  lines = "".join(traceback.format_exception(error)).splitlines()
  return "\n".join([kind, case[:SHOWN_LETTERS], *lines[-SHOWN_LINES:]])


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
  parser.add_argument("--cases", type=int, default=20_000)
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
