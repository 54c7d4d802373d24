"""The whole of UViM on `rooms`, from nothing to a table and a page.

  python -m tools.quickstart --workdir workdirs/quickstart

Builds the data set, trains stage I and stage II, scores scenes that were never
trained on, and writes results.json, report.html and pack/, a folder that
predicts on any machine. Whatever an earlier call finished is reused. Whatever
it began is resumed.
"""

import argparse
import functools
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from uvim import files
from uvim.cli import app, convert
from uvim.store import pack

_TITLE = "UViM on rooms"

# Takes a command, runs it, and returns its exit code.
RunCommand = Callable[[Sequence[str]], int]


class Figure(NamedTuple):
  """A figure of the table.

  Attributes:
    key: its name in results.json.
    title: what the table says.
    unit: such as "%".
    metric: its name in the last evaluation of stage II; "" for a figure that
      is no metric.
  """
  key: str
  title: str
  unit: str
  metric: str = ""


FIGURES = (
    Figure("oracle_pq", "PQ with the oracle's code", "%", "oracle_code/PQ"),
    Figure("uvim_pq", "PQ of UViM, T = 0", "%", "uvim/PQ"),
    Figure("zero_code_pq", "PQ of the same base model, code zeroed", "%",
           "zero_code/PQ"),
    Figure("bits_per_codeword", "LM, bits per codeword", "",
           "val/bits_per_codeword"),
    Figure("wall_seconds", "wall time", "s"),
)


def run_command(command: Sequence[str]) -> int:
  """Runs a command in a process of its own and returns its exit code."""
  return subprocess.run(command, check=False).returncode


def main(argv: Sequence[str] | None = None, *,
         run: RunCommand = run_command) -> int:
  """The command; returns the exit code.

  Args:
    argv: the arguments; None: those of the process.
    run: starts the trainers.
  """
  parser = app.make_parser("tools.quickstart", __doc__)
  add = parser.add_argument
  add("--workdir", default="workdirs/quickstart",
      help="default: workdirs/quickstart")
  add("--data_dir", help="default: TFDS's own")
  add("--arg", default="", help="argument of both configs, such as 'tiny'")
  add("--started", type=float, default=time.time(),
      help="when the set-up began, in seconds since 1970")
  command = functools.partial(quickstart, run=run)
  return app.run(parser, command, argv)


def quickstart(args: argparse.Namespace, run: RunCommand) -> int:
  """What the command does; returns the exit code of a trainer that failed."""
  workdir = pathlib.Path(args.workdir)
  stage1 = workdir / "stage1"
  stage2 = workdir / "stage2"
  say("1/4  building the rooms data set (kept for the next time)")
  from pp.rooms import builder as rooms
  rooms.build(args.data_dir, "tiny" if args.arg == "tiny" else "default")

  say("2/4  stage I: oracle and base model")
  code = run(_training("vqvae", "vqvae_rooms_panoptic", stage1, args))
  if code:
    return code
  say("3/4  stage II: the language model of the guiding code")
  command = _training("lm", "lm_rooms_panoptic", stage2, args)
  code = run([*command, f"--config.oracle.model_init={stage1}"])
  if code:
    return code

  say("4/4  results on scenes never trained on")
  results = collect(workdir, stage2, args.started)
  write_report(workdir, results, stage1, stage2)
  print_table(results)
  make_pack(workdir, stage2)
  say(f"images and curves: {workdir / 'report.html'}")
  return app.EXIT_DONE


def say(text: str) -> None:
  print(f"── {text}", file=sys.stderr, flush=True)


def _training(kind: str, config: str, workdir: pathlib.Path,
              args: argparse.Namespace) -> list[str]:
  """The command of a trainer, as a user would type it."""
  path = f"configs/{config}.py"
  if args.arg:
    path += f":{args.arg}"
  command = [sys.executable, "-m", f"trainers.{kind}", "--config", path,
             "--workdir", str(workdir)]
  if args.data_dir:
    command.append(f"--config.data_dir={args.data_dir}")
  return command


def collect(workdir: pathlib.Path, stage2: pathlib.Path,
            started: float) -> dict[str, float]:
  """The figures by key, also written to results.json.

  A call that found everything trained keeps the wall time of the call that
  trained.

  Args:
    workdir: of the quickstart.
    stage2: workdir of stage II.
    started: when the set-up began, in seconds since 1970.
  """
  from trainers.report import run_files
  metrics = run_files.read_run(stage2).metrics
  results = {}
  for figure in FIGURES:
    if figure.metric:
      _, value = metrics[figure.metric][-1]
      results[figure.key] = value

  path = workdir / "results.json"
  old = files.read_json(path) or {}
  is_unchanged = all(old.get(key) == value for key, value in results.items())
  seconds = old["wall_seconds"] if is_unchanged else time.time() - started
  results["wall_seconds"] = round(seconds, 1)
  files.write_json(path, results)
  return results


def print_table(results: dict[str, float]) -> None:
  width = max(len(figure.title) for figure in FIGURES)
  for figure in FIGURES:
    value = results[figure.key]
    print(f"{figure.title:{width}}  {value:8.2f} {figure.unit}")


def write_report(workdir: pathlib.Path, results: dict[str, float],
                 stage1: pathlib.Path, stage2: pathlib.Path) -> None:
  """One page of both stages. Each has its own in its workdir as well."""
  from trainers.report import html_page, run_files, run_page
  rows = [(figure.title, f"{results[figure.key]:.2f} {figure.unit}")
          for figure in FIGURES]
  parts = [html_page.heading(_TITLE, 1), html_page.table(rows, numbers=True)]
  for stage in (stage2, stage1):
    parts += run_page.body(run_files.read_run(stage))
  html_page.write_html(workdir / "report.html", _TITLE, parts)


def make_pack(workdir: pathlib.Path, stage2: pathlib.Path) -> None:
  """Both stages as WORKDIR/pack, for other machines; replaces an older one."""
  folder = workdir / "pack"
  # Beside the old one, which stays until the new one is complete.
  unfinished = workdir / "unfinished" / folder.name
  shutil.rmtree(unfinished.parent, ignore_errors=True)
  facts = convert.make_pack(str(stage2), str(unfinished), half=True)
  shutil.rmtree(folder, ignore_errors=True)
  unfinished.rename(folder)
  unfinished.parent.rmdir()
  say(f"{folder}: {facts.num_bytes / 1e6:.1f} MB, card: {folder / pack.CARD}")


if __name__ == "__main__":
  sys.exit(main())
