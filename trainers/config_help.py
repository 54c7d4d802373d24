"""What `--help` says about the config that a command line names.

All of it comes from the config file: its docstring, and the defaults that it
passes to `parse_arg` of configs/common.py.
"""

import argparse
import inspect
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_WITHOUT_CONFIG = ("--help --config FILE also describes that config and lists "
                   "its arguments.")


def epilog(argv: Sequence[str] | None = None) -> str:
  """The text below the options, for `ArgumentParser.epilog`.

  Args:
    argv: the arguments without the program's name; None: those of the process.

  Returns:
    "" if nobody asks for help: then no config file is run.
  """
  if argv is None:
    argv = sys.argv[1:]
  if "--help" not in argv and "-h" not in argv:
    return ""
  path = _config_of(argv)
  if not path:
    return _WITHOUT_CONFIG
  # Help is shown in any case, so nothing here ends the command.
  try:
    return describe(path)
  except OSError:
    return f"--config {path}: there is no such file."
  except Exception as error:  # Whatever a config file raises.
    return f"--config {path}: {error}"


def describe(path: str) -> str:
  """The docstring of a config file and its arguments with their defaults.

  Args:
    path: 'configs/NAME.py[:argument,key=value…]'.

  Raises:
    OSError: there is no such file.
    Exception: whatever the file raises.
  """
  file, _, _ = path.partition(":")
  module = runpy.run_path(file)
  meaning = inspect.cleandoc(module.get("__doc__") or "")
  lines = [f"config {file}:", "", *meaning.splitlines()]
  arguments = arguments_of(module["get_config"])
  if arguments:
    lines += ["", "arguments behind the colon, and their defaults:"]
  for name, default in arguments.items():
    lines.append(f"  {name} = {default!r}")
  return "\n".join(lines)


def arguments_of(get_config: Callable[[str], Any]) -> Mapping[str, Any]:
  """The arguments of a config: name → default. Empty if it has none."""
  # No config has an argument of this name. The error carries those it has.
  try:
    get_config("?")
  except Exception as error:
    return getattr(error, "known", {})
  return {}


def _config_of(argv: Sequence[str]) -> str | None:
  """The value of `--config`, if it is given."""
  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  # "?": without its value the trainer itself complains.
  parser.add_argument("--config", nargs="?")
  args, _ = parser.parse_known_args(argv)
  return args.config
