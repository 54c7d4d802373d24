"""Prints a script that lets a shell complete `uvim`, its commands and options.

  uvim completion bash > ~/.local/share/bash-completion/completions/uvim
  uvim completion zsh > ~/.zfunc/_uvim
  uvim completion fish > ~/.config/fish/completions/uvim.fish

Make the folder if it is not there, and open a new shell afterwards. For zsh,
put `fpath+=~/.zfunc` before `compinit` in ~/.zshrc. The script stands alone:
nothing of `uvim` runs while you type. After an update of `uvim`, print it
again.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from uvim.cli import app

SHELLS = ("bash", "zsh", "fish")
# The arguments, of all commands, that are a file or a folder.
PATHS = ("images", "checkpoint", "lm", "out", "categories", "source", "target",
         "pack")


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  return app.run(make_parser(), _print_script, argv)


def make_parser() -> argparse.ArgumentParser:
  """The options of the command."""
  parser = app.make_command_parser("uvim completion", __doc__)
  parser.add_argument("shell", choices=SHELLS, metavar="SHELL",
                      help=f"one of {', '.join(SHELLS)}")
  return parser


def _print_script(args: argparse.Namespace) -> None:
  import shtab
  print(shtab.complete(_whole_parser(), args.shell))


def _whole_parser() -> argparse.ArgumentParser:
  """One parser of all commands; `uvim` itself loads only the one it needs."""
  from uvim.cli.main import COMMANDS
  parser = app.make_command_parser("uvim", None)
  commands = parser.add_subparsers()
  for name, meaning in COMMANDS.items():
    if name == "version":
      commands.add_parser(name, help=meaning)
      continue
    of_command = command_parser(name)
    _add_values(of_command)
    # Its --help is among what is copied.
    commands.add_parser(
        name, help=meaning, parents=[of_command], add_help=False)
  return parser


def command_parser(name: str) -> argparse.ArgumentParser:
  """The parser of a command, a module of this package."""
  module = importlib.import_module(f"uvim.cli.{name}")
  return module.make_parser()


def _add_values(parser: argparse.ArgumentParser) -> None:
  """Says of each argument what may stand there."""
  import shtab
  # argparse has no public way to the arguments.
  for argument in parser._actions:
    takes_value = argument.nargs != 0
    if takes_value and argument.dest in PATHS:
      argument.complete = shtab.FILE
    names = getattr(argument.type, "names", None)
    if names:
      argument.choices = names


if __name__ == "__main__":
  sys.exit(main())
