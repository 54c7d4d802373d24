"""The command `uvim`: finds the subcommand and hands over to it."""

import importlib
import sys
from collections.abc import Sequence

import uvim
from uvim.cli import app
from uvim.registry import unknown

# Subcommand → what it does. Each but `version` is a module of this package
# with the functions `main(argv) -> exit code` and `make_parser()`.
COMMANDS = {
    "predict": "predicts images and writes the predictions",
    "explore": "a page to look at what a model predicts, and how",
    "convert": "turns a run into a pack to share, or into a .npz and back",
    "push": "uploads a pack to the Hugging Face hub",
    "completion": "prints what lets a shell complete these commands",
    "version": "says which version this is",
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a subcommand; returns its exit code."""
  arguments = list(sys.argv[1:] if argv is None else argv)
  name = arguments[0] if arguments else ""
  if name in COMMANDS and name != "version":
    # Imported late: a subcommand imports only what it needs itself.
    module = importlib.import_module(f"uvim.cli.{name}")
    return module.main(arguments[1:])
  # Everything else comes here: no argument, --help, `version` and typos.
  return app.run(_make_parser(), _say_version, arguments)


def _make_parser():
  lines = ["UViM: predict images, look into the guiding code, share models.",
           ""]
  for name, meaning in COMMANDS.items():
    lines.append(f"  uvim {name:10} {meaning}")
  lines += ["", "uvim COMMAND --help lists the options of a command."]
  parser = app.make_command_parser("uvim", "\n".join(lines))
  parser.add_argument("command", metavar="COMMAND",
                      help=f"one of {', '.join(COMMANDS)}")
  return parser


def _say_version(args) -> None:
  # Not argparse's `choices`: `unknown` also names the nearest command.
  if args.command not in COMMANDS:
    raise unknown("command", args.command, COMMANDS)
  print(f"uvim {uvim.__version__}")


if __name__ == "__main__":
  sys.exit(main())
