"""Tables of names, the one error for a mistake, and names in one line.

Layer 0: no imports but the standard library.
"""

import difflib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TypeVar

Entry = TypeVar("Entry")

# Unicode's categories of characters that break a line, move the cursor, turn
# the direction of writing, or cannot be written at all.
_CONTROL = ("Cc", "Cf", "Cs", "Zl", "Zp")


class ConfigError(ValueError):
  """A mistake in a config, a string, a path or a data set.

  The message names the field, the value that came and the values that are
  allowed. The command line prints it as one line and exits with code 2,
  without a traceback.
  """


def one_line(text: str) -> str:
  r"""The text with control characters escaped: a line break becomes '\n'.

  Names of files and texts in files may hold any character. What is printed of
  them must not look like a line of ours, nor control the terminal.
  """
  shown = []
  for character in text:
    if unicodedata.category(character) in _CONTROL:
      character = character.encode("unicode_escape").decode()
    shown.append(character)
  return "".join(shown)


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns the known name most like `name`, or '' when none is close."""
  matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
  if not matches:
    return ""
  return matches[0]


def unknown(what: str, name: str, known: Iterable[str]) -> ConfigError:
  """Returns the error for a name that is not known; suggests the nearest.

  Args:
    what: what the name stands for, for the message ("op", "evaluator", …).
    name: the name that came.
    known: the names there are.
  """
  known_names = sorted(map(str, known))
  closest = nearest(name, known_names)
  hint = ""
  if closest:
    hint = f" Did you mean {closest!r}?"
  listing = ", ".join(known_names) or "none"
  return ConfigError(f"Unknown {what} {name!r}.{hint} Known: {listing}.")


def lookup(table: Mapping[str, Entry], name: str, what: str) -> Entry:
  """Returns `table[name]`.

  Args:
    table: the names and what they stand for.
    name: the name asked for.
    what: what the table holds, for the message ("op", "evaluator", …).

  Raises:
    ConfigError: the table has no such name; the message lists those it has.
  """
  if name not in table:
    raise unknown(what, name, table)
  return table[name]
