"""The one front of every command: parser, exit codes, wording of errors.

  def main(argv=None) -> int:
    parser = app.make_parser("tools.NAME", __doc__)
    parser.add_argument("--out", required=True)
    return app.run(parser, command, argv)

`command(args)` does the work. It raises a ConfigError for a mistake of the
user; `run` prints it as one line and returns the exit code.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import uvim
from uvim import finder
from uvim.registry import ConfigError, one_line

EXIT_DONE = 0
EXIT_BAD_INPUT = 2
EXIT_DIVERGED = 3
EXIT_PREEMPTED = 75  # EX_TEMPFAIL: the same command, later, goes on.
EXIT_INTERRUPTED = 130

# Lists in a message, such as that of several problems, are indented. Any other
# line break is part of a name.
_NEXT_LINE = "\n  "
_BROKEN_PIPE = 141  # As a shell has it: 128 + SIGPIPE.


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
  parser = _Parser(prog=program, description=description, allow_abbrev=False,
                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--version", action="version",
                      version=f"uvim {uvim.__version__}")
  return parser


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
  except Stop as error:
    return _failed(str(error), error.exit_code)
  except KeyboardInterrupt:
    return _failed("interrupted", EXIT_INTERRUPTED)
  except BrokenPipeError:
    # Whoever read our output has gone, as `head` does. At exit Python would
    # write the rest to it and complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _BROKEN_PIPE
  except Exception as error:
    message = _message(error)
    if not message:
      raise
    return _failed(message, EXIT_BAD_INPUT)


def _message(error: Exception) -> str:
  """One line for what the user can mend; "" for a fault of ours."""
  if isinstance(error, ConfigError):
    return str(error)
  if isinstance(error, UnicodeDecodeError):
    return f"some file is not text in UTF-8: {error}"
  # A full, vanished or forbidden disk; a name that is too long; a network.
  if isinstance(error, OSError):
    return _os_message(error)
  if is_out_of_memory(error):
    first_line = str(error).partition("\n")[0]
    details = f" ({first_line})" if first_line else ""
    return (f"out of memory{details}. Smaller batches, images or models need "
            "less.")
  return ""


def is_out_of_memory(error: Exception) -> bool:
  """Whether memory, of the host or of a device, was too small."""
  # JAX has no class for it, only a text.
  is_of_jax = "RESOURCE_EXHAUSTED" in str(error)[:1000]
  return isinstance(error, MemoryError) or is_of_jax


def _os_message(error: OSError) -> str:
  """The file and what is wrong with it, without Python's `[Errno 28]`."""
  reason = error.strerror or str(error) or type(error).__name__
  names = [str(name) for name in (error.filename, error.filename2) if name]
  return ": ".join([", ".join(names), reason]) if names else reason


def quiet_interrupts() -> None:
  """Makes Ctrl-C one line before `run` is reached, while modules are imported.

  TensorFlow takes seconds to import.
  """
  show_traceback = sys.excepthook

  def show(kind, error, traceback):
    if issubclass(kind, KeyboardInterrupt):
      print("error: interrupted", file=sys.stderr)
    else:
      show_traceback(kind, error, traceback)

  sys.excepthook = show


def quiet_tensorflow() -> None:
  """Silences TensorFlow's start-up messages; call it before its import."""
  # `setdefault`: what the user has set stays.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def _parse(parser, argv, takes_overrides):
  if argv is None:
    argv = sys.argv[1:]
  argv = [_expanded(argument) for argument in argv]
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


def _expanded(argument: str) -> str:
  """The argument with `~` as the home folder, in `--out=~/x` too.

  A shell expands `~` only where an argument begins with it. Here it is done for
  all options at once, so that no command forgets one of its paths.

  Raises:
    ConfigError: an option without a value. As a path it would be the current
      folder.
  """
  if not argument:
    raise ConfigError("One of the arguments is empty.")
  if not argument.startswith("--"):
    return finder.expand(argument)
  name, equals, value = argument.partition("=")
  if not equals:
    return argument
  # A field of a config may be an empty text.
  if not value and not name.startswith("--config."):
    raise ConfigError(f"{name} is empty.")
  return f"{name}={finder.expand(value)}"


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
  lines = message.split(_NEXT_LINE)
  shown = _NEXT_LINE.join(map(one_line, lines))
  print(f"error: {shown}", file=sys.stderr)
  return code
