"""Makes the report.html of runs again, from what lies in their workdirs.

  python -m tools.report WORKDIR [WORKDIR …] [--out PAGE]

Runs write theirs at every evaluation; this is for older ones, for runs that
were cut short, and, with --out, for several on one page.
"""

import argparse
import pathlib
import sys

from trainers.report import page
from trainers.report import run_page as run_report


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("workdirs", nargs="+", type=pathlib.Path)
  parser.add_argument("--out", type=pathlib.Path,
                      help="one page of all runs, instead of one in each")
  args = parser.parse_args(argv)
  for workdir in args.workdirs:
    if not (workdir / "config.json").exists():
      sys.exit(f"error: {workdir} is no run's workdir: it has no config.json.")
  try:
    _write(args.workdirs, args.out)
  except OSError as e:
    sys.exit(f"error: {e}")


def _write(workdirs, out):
  if out is None:
    for workdir in workdirs:
      run_report.write(workdir)
      print(workdir / run_report.PAGE)
    return
  runs = [run_report.read(workdir) for workdir in workdirs]
  parts = [part for run in runs for part in (
      page.heading(run_report.title(run), 1), *run_report.body(run))]
  page.write(out, ", ".join(run_report.title(run) for run in runs), parts)
  print(out)


if __name__ == "__main__":
  main()
