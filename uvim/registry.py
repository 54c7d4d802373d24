"""Look-ups in tables of names; the one error for mistakes a person can mend.

Layer 0: no imports but the standard library.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
  """A mistake in a config, a string, a path or a data set.

  The message names the field, what came and what is allowed. The entry point
  prints it as one line and leaves with exit code 2, without a traceback.
  """


def nearest(name: str, known: Iterable[str]) -> str:
  """The known name most like `name`, or '' when none is close."""
  match = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
  return match[0] if match else ""


def unknown(what: str, name: str, known: Iterable[str]) -> ConfigError:
  """The error for a name that is not in `known`, with the nearest one."""
  known = sorted(map(str, known))
  near = nearest(name, known)
  hint = f" Did you mean {near!r}?" if near else ""
  return ConfigError(
      f"Unknown {what} {name!r}.{hint} Known: {', '.join(known) or 'none'}.")


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
  """`table[name]`; a ConfigError that shows the known names if it is absent.

  Args:
    table: the names and what they stand for.
    name: the name asked for.
    what: what the table holds, for the message ("op", "evaluator", …).
  """
  if name not in table:
    raise unknown(what, name, table)
  return table[name]
