"""Writes the report.html of runs again, from the files in their workdirs.

  python -m tools.report WORKDIR [WORKDIR …] [--out PAGE]

A run writes its own at every evaluation. This is for older runs, for runs that
were cut short, and, with --out, for several runs on one page.
"""

import argparse
import pathlib
import sys

from trainers.report import html_page, run_files, run_page
from uvim.cli import app
from uvim.registry import ConfigError


def main(argv=None) -> int:
  parser = app.make_parser("tools.report", __doc__)
  parser.add_argument("workdirs", nargs="+", type=pathlib.Path)
  parser.add_argument("--out", type=pathlib.Path,
                      help="one page of all runs, instead of one in each")
  return app.run(parser, command, argv)


def command(args: argparse.Namespace) -> None:
  """Writes the page or pages and prints where they are.

  Raises:
    ConfigError: a folder is no run's workdir.
  """
  # All are checked first, so that a typo leaves no half of the pages.
  for workdir in args.workdirs:
    if not (workdir / run_files.CONFIG).exists():
      raise ConfigError(
          f"{workdir} is no run's workdir: it has no config.json.")
  # Without --out each run gets its own page, as it writes it itself.
  if args.out is None:
    for workdir in args.workdirs:
      run_page.write_page(workdir)
      print(workdir / run_page.PAGE)
  else:
    write_common_page(args.out, args.workdirs)
    print(args.out)


def write_common_page(path: pathlib.Path,
                      workdirs: list[pathlib.Path]) -> None:
  """Writes one page of several runs."""
  titles = []
  parts = []
  for workdir in workdirs:
    run = run_files.read_run(workdir)
    titles.append(run_page.title(run))
    # Each body begins with its own title.
    parts += run_page.body(run)
  html_page.write_html(path, ", ".join(titles), parts)


if __name__ == "__main__":
  sys.exit(main())
