"""The one front of every command: parser, exit codes, wording of errors.

  def main(argv=None) -> int:
    parser = app.make_parser("tools.NAME", __doc__)
    parser.add_argument("--out", required=True)
    return app.run(parser, command, argv)

`command(args)` does the work. It raises a ConfigError for a mistake of the
user; `run` prints it as one line and returns the exit code.
"""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from uvim.registry import ConfigError

EXIT_DONE = 0
EXIT_BAD_INPUT = 2
EXIT_DIVERGED = 3
EXIT_PREEMPTED = 75  # EX_TEMPFAIL: the same command, later, goes on.
EXIT_INTERRUPTED = 130

# What a full, vanished or forbidden disk says. Any other OSError is a fault of
# ours and keeps its traceback.
DISK_ERRORS = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES,
    errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOENT})


class Stop(RuntimeError):
  """Ends a command with one line and an exit code of its own."""

  exit_code = EXIT_BAD_INPUT


# argparse itself would print its usage and end the process. So `run` could not
# word the error.
class _Parser(argparse.ArgumentParser):
  """argparse, but a mistake becomes a ConfigError like any other."""

  def error(self, message: str) -> None:
    raise ConfigError(f"{message}. {self.prog} --help lists the options.")


def make_parser(module: str,
                description: str | None) -> argparse.ArgumentParser:
  """A parser for `python -m MODULE`.

  Args:
    module: name of the module, such as "tools.evaluate".
    description: shown as it is by --help; usually the module's docstring.
  """
  return make_command_parser(f"python -m {module}", description)


def make_command_parser(program: str,
                        description: str | None) -> argparse.ArgumentParser:
  """A parser for a command of any name.

  Args:
    program: what a user types to start it, such as "uvim predict".
    description: see `make_parser`.
  """
  # No abbreviations: they would break when a new option begins alike. The help
  # keeps the line breaks of the docstring.
  return _Parser(prog=program, description=description, allow_abbrev=False,
                 formatter_class=argparse.RawDescriptionHelpFormatter)


def run(parser: argparse.ArgumentParser,
        command: Callable[[argparse.Namespace], Any],
        argv: Sequence[str] | None = None, *,
        takes_overrides: bool = False) -> int:
  """Parses the arguments, runs the command, and returns the exit code.

  Args:
    parser: from `make_parser`.
    command: takes the parsed arguments; may return an exit code, None is 0.
    argv: the arguments without the program's name; None: those of the process.
    takes_overrides: whether `--config.field=value` is allowed. `args.overrides`
      is then the list of them.
  """
  # First: TensorFlow reads these variables when a command imports it.
  quiet_tensorflow()
  try:
    args = _parse(parser, argv, takes_overrides)
    # None, from a command that returns nothing, is 0 too.
    return command(args) or EXIT_DONE
  except ConfigError as error:
    return _failed(str(error), EXIT_BAD_INPUT)
  except Stop as error:
    return _failed(str(error), error.exit_code)
  except KeyboardInterrupt:
    return _failed("interrupted", EXIT_INTERRUPTED)
  except OSError as error:
    if error.errno not in DISK_ERRORS:
      raise
    return _failed(str(error), EXIT_BAD_INPUT)


def quiet_tensorflow() -> None:
  """Silences TensorFlow's start-up messages; call it before its import."""
  # `setdefault`: what the user has set stays.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def _parse(parser, argv, takes_overrides):
  # Overrides are no options of the parser, so it leaves them in `rest`.
  args, rest = parser.parse_known_args(argv)
  overrides, unexpected = _split_overrides(rest)
  # Then an override is as unexpected as any other.
  if not takes_overrides:
    unexpected = rest
  if unexpected:
    raise ConfigError(f"Unexpected argument {unexpected[0]!r}. {parser.prog} "
                      "--help lists the options.")
  args.overrides = overrides
  return args


def _split_overrides(rest: Sequence[str]) -> tuple[list[str], list[str]]:
  """(overrides as `--config.field=value`, everything else)."""
  overrides, unexpected = [], []
  position = 0
  while position < len(rest):
    argument = rest[position]
    position += 1
    if not argument.startswith("--config."):
      unexpected.append(argument)
      continue
    # `--config.lr 3e-4` means the same as `--config.lr=3e-4`.
    has_value = "=" in argument
    if not has_value and position < len(rest) and (
        not rest[position].startswith("--")):
      argument = f"{argument}={rest[position]}"
      position += 1
    overrides.append(argument)
  return overrides, unexpected


def _failed(message: str, code: int) -> int:
  print(f"error: {message}", file=sys.stderr)
  return code
