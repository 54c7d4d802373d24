"""Checks the content of JSON files against classes that describe it.

A class is a `msgspec.Struct`. Nothing is converted: a text is no number, true
is not 1, and 1.0 is no whole number. Keys that the class lacks are ignored. The
`description` of a field's type says in words what it allows, as that of `ID`
does.

Layer 0: no imports but the standard library, msgspec and the registry.
"""

import json
import re
import typing
from collections.abc import Hashable, Iterable
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from uvim.registry import ConfigError

Kind = TypeVar("Kind", bound=msgspec.Struct)

# Numbers of 64 bits with a sign, as TFDS stores ids.
_HIGHEST_ID = 2**63 - 1
ID = Annotated[int, Meta(
    ge=0, le=_HIGHEST_ID,
    description=f"a whole number from 0 to {_HIGHEST_ID:,}")]
# Surrogates are halves of letters, which no file can hold.
TEXT = Annotated[str, Meta(
    pattern=r"\A[^\x00-\x1f\x7f\ud800-\udfff]+\Z",
    description="a text of one line or less, not empty")]
# COCO writes 0 and 1.
FLAG = Annotated[Literal[0, 1] | bool, Meta(
    description="0, 1, false or true, not as a text")]

# How msgspec ends its messages, and names what is absent.
_PLACE = re.compile(r" - at `\$(.*)`$")
_ABSENT = re.compile(r"missing required field `(\w+)`")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_MAX_SHOWN = 60  # Characters of a value in a message.


def read_list(entries: Iterable[Any], kind: type[Kind], name: str
              ) -> tuple[list[Kind], list[str]]:
  """The entries of a JSON list as objects.

  Args:
    entries: as `json` gives them.
    kind: the class of each.
    name: of the list, for the messages.

  Returns:
    (the objects, the problems as sentences). The objects are complete only if
    there are no problems.
  """
  items = []
  problems = []
  for position, entry in enumerate(entries):
    try:
      items.append(read_object(entry, kind, f"{name}[{position}]"))
    except ConfigError as error:
      problems.append(str(error))
  return items, problems


def read_object(entry: Any, kind: type[Kind], name: str) -> Kind:
  """A JSON object as an object of a class.

  Args:
    entry: as `json` gives it.
    kind: the class.
    name: of the object, for the message.

  Raises:
    ConfigError: it lacks a key, or a value is not allowed; one line.
  """
  try:
    return msgspec.convert(entry, kind)
  except msgspec.ValidationError as error:
    problem = _problem(str(error), entry, kind)
    raise ConfigError(f"{name}{problem}") from None
  except UnicodeEncodeError:
    raise ConfigError(f"{name}: one of its texts holds half a letter (a "
                      "surrogate), which no file can hold.") from None


def repeats(values: Iterable[Hashable], list_name: str, key: str) -> list[str]:
  """A problem for each value that an earlier entry of the list has too.

  Args:
    values: one for each entry.
    list_name: of the list, for the messages.
    key: of the value in its entry, such as ".id".
  """
  first_places = {}
  problems = []
  for position, value in enumerate(values):
    first = first_places.setdefault(value, position)
    if first != position:
      problems.append(
          f"{list_name}[{position}]{key}: {shown(value)} is also that of "
          f"{list_name}[{first}]; each must be another.")
  return problems


def shown(value: Any) -> str:
  """A value of a JSON file, short enough for a message."""
  if isinstance(value, str):
    return f"the text {value[:_MAX_SHOWN]!r}"
  if isinstance(value, list):
    return "a list"
  if isinstance(value, dict):
    return "an object"
  return json.dumps(value)[:_MAX_SHOWN]


def _problem(message: str, entry: Any, kind: Any) -> str:
  """A message of msgspec in our words; begins with the place in the entry."""
  match = _PLACE.search(message)
  place = match.group(1) if match else ""
  value = entry
  for key, position in _STEP.findall(place):
    if key:
      kind = _types_of(kind)[key]
      value = value[key]
    else:
      kind = typing.get_args(_without_notes(kind))[0]
      value = value[int(position)]
  absent = _ABSENT.search(message)
  if absent:
    return f"{place} has no {absent.group(1)!r}."
  return f"{place}: {shown(value)}; allowed: {_allowed(kind)}."


def _types_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
  """Key in the JSON → the type of its field."""
  return {field.encode_name: field.type
          for field in msgspec.structs.fields(kind)}


def _without_notes(kind: Any) -> Any:
  """The type itself, of an annotated type too."""
  if typing.get_origin(kind) is Annotated:
    return typing.get_args(kind)[0]
  return kind


def _allowed(kind: Any) -> str:
  """What a type allows, in words."""
  # The notes of an annotated type follow the type itself.
  for note in typing.get_args(kind):
    if isinstance(note, Meta) and note.description:
      return note.description
  if typing.get_origin(kind) is list:
    return "a list"
  return "an object"
