"""Fields of configs and options: each described once, all checked one way.

A config class is a dataclass whose fields are made by `field`: default,
meaning, source and allowed values stand in one place. The checks of a config
and the tables of docs/configs.md are both made from that description.

Layer 0: no imports but the standard library, numpy and the registry.
"""

import dataclasses
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from uvim.registry import ConfigError, nearest

REQUIRED = dataclasses.MISSING
INTEGERS = (int, np.integer)
REALS = (int, float, np.integer, np.floating)

Fits = Callable[[Any], bool]


@dataclasses.dataclass(frozen=True)
class Check:
  """A rule for one value.

  Attributes:
    allowed: what is allowed; it ends the sentence "it must be …".
    fits: whether a value is allowed.
    names: the allowed values, where they are a few names.
  """
  allowed: str
  fits: Fits
  names: tuple[Any, ...] = ()


def is_integer(value: Any) -> bool:
  """Whether `value` is a whole number; True and False are not."""
  # True is an int to Python.
  return isinstance(value, INTEGERS) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
  """Whether `value` is a finite number; True and False are not."""
  is_real = isinstance(value, REALS)
  # True is an int to Python.
  if not is_real or isinstance(value, bool):
    return False
  try:
    return math.isfinite(value)
  # A whole number beyond the range of floats.
  except OverflowError:
    return False


def integer(least: int, most: int | None = None) -> Check:
  """A whole number from `least` to `most`, both included."""
  if most is None:
    allowed = f"an integer ≥ {least}"
  else:
    allowed = f"an integer in {least}..{most}"

  def fits(value):
    if not is_integer(value) or value < least:
      return False
    return most is None or value <= most

  return Check(allowed, fits)


def number(least: float, below: float | None = None) -> Check:
  """A number ≥ `least` and, if given, < `below`."""
  allowed = f"a number ≥ {least:g}"
  if below is not None:
    allowed = f"a number in [{least:g}, {below:g})"

  def fits(value):
    if not is_number(value) or value < least:
      return False
    return below is None or value < below

  return Check(allowed, fits)


def one_of(names: Iterable[Any]) -> Check:
  """One of a few values; of a table its keys, those added later too."""
  if not isinstance(names, Mapping):
    names = tuple(names)
  allowed = ", ".join(map(str, names))

  def fits(value):
    # `in` a list asks the same of each name; a dict could not take every value.
    return value in list(names)

  return Check(f"one of {allowed}", fits, tuple(names))


def two_integers(least: int = 1) -> Check:
  """A pair such as (height, width)."""
  is_large_enough = integer(least).fits

  def fits(value):
    # A list too: that is what JSON makes of a tuple.
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2
    return is_pair and all(map(is_large_enough, value))

  return Check(f"two integers ≥ {least}, as in (16, 16)", fits)


def optional(check: Check) -> Check:
  """None, or what `check` allows."""
  def fits(value):
    return value is None or check.fits(value)

  return Check(f"None or {check.allowed}", fits, check.names)


def _is_bool(value: Any) -> bool:
  return isinstance(value, bool)


def _is_text(value: Any) -> bool:
  return isinstance(value, str)


def _is_path(value: Any) -> bool:
  return isinstance(value, (str, os.PathLike))


def _is_mapping(value: Any) -> bool:
  if not isinstance(value, Mapping):
    return False
  return all(map(_is_text, value))


def _is_positive(value: Any) -> bool:
  return is_number(value) and value > 0


POSITIVE = Check("a number > 0", _is_positive)
BOOL = Check("True or False", _is_bool)
TEXT = Check("a text", _is_text)
PATH = Check("a path", _is_path)
MAPPING = Check("a block of names and values", _is_mapping)
# Type of a field → its check, where the field names none.
CHECK_OF_TYPE = {
    str: TEXT,
    str | None: optional(TEXT),
    Mapping[str, Any]: MAPPING,
}
# JAX keeps 32 bits of a seed: outside of this range two seeds would give the
# same numbers.
SEED = integer(0, 2**32 - 1)


def field(
    default: Any = REQUIRED,
    *,
    doc: str,
    source: str = "ours",
    check: Check | None = None,
    factory: Any = REQUIRED,
) -> Any:
  """A dataclass field with its description.

  Args:
    default: what holds when a config does not name the field; REQUIRED: the
      config must name it.
    doc: meaning, one or two sentences, Markdown.
    source: where it comes from: "L1 1024" is Listing 1 of the paper's
      Appendix D with its value there; "ours" is in no listing.
    check: which values are allowed; None: what `CHECK_OF_TYPE` has for the
      type of the field, or else any.
    factory: makes the default where it is mutable.
  """
  about = {"doc": doc, "source": source, "check": check}
  if factory is not REQUIRED:
    return dataclasses.field(default_factory=factory, metadata=about)
  return dataclasses.field(default=default, metadata=about)


@dataclasses.dataclass(frozen=True)
class Field:
  """What is known about one field or option.

  Attributes:
    name: its name.
    default: its default, or REQUIRED.
    doc: its meaning, or "".
    source: where it comes from, or "".
    check: which values are allowed, or None.
  """
  name: str
  # By a factory: as a plain default, REQUIRED would mean that there is none.
  default: Any = dataclasses.field(default_factory=lambda: REQUIRED)
  doc: str = ""
  source: str = ""
  check: Check | None = None

  @property
  def is_required(self) -> bool:
    return self.default is REQUIRED


def fields_of(cls: type) -> dict[str, Field]:
  """The fields of a dataclass by name; flax's own two are left out."""
  known = {}
  for item in dataclasses.fields(cls):
    if _is_of_flax(cls, item):
      continue
    default = item.default
    if item.default_factory is not REQUIRED:
      default = item.default_factory()
    about = item.metadata
    known[item.name] = Field(
        name=item.name,
        default=default,
        doc=about.get("doc", ""),
        source=about.get("source", ""),
        check=about.get("check") or CHECK_OF_TYPE.get(item.type))
  return known


def _is_of_flax(cls: type, item: dataclasses.Field) -> bool:
  """Whether flax adds this field to all of its modules."""
  # Only flax modules have `apply`. A field with a description is ours.
  is_module = hasattr(cls, "apply")
  is_described = item.metadata.get("doc") is not None
  if not is_module or is_described:
    return False
  return item.name in ("parent", "name")


def options_of(function: Callable[..., Any]) -> dict[str, Field]:
  """The arguments of a function that have a default, by name.

  `check` and `doc` come from the attributes `checks` and `docs` of the
  function, where it has them: mappings from option to Check and to a sentence.
  """
  checks = getattr(function, "checks", {})
  docs = getattr(function, "docs", {})
  options = {}
  parameters = inspect.signature(function).parameters
  for name, parameter in parameters.items():
    # What has no default is an input, not an option.
    if parameter.default is not parameter.empty:
      options[name] = Field(
          name=name,
          default=parameter.default,
          doc=docs.get(name, ""),
          check=checks.get(name))
  return options


def check_options(function: Callable[..., Any], **given: Any) -> None:
  """Raises a ConfigError for an option that the function does not allow.

  For the function itself: a config has been checked, a caller from Python has
  not.

  Args:
    function: has the attribute `checks`, see `options_of`.
    **given: values of some of its options.
  """
  name = getattr(function, "__name__", str(function))
  check_fields(options_of(function), given, name)


def takes_any_option(function: Callable[..., Any]) -> bool:
  """Whether the function has `**options`, which it passes on."""
  parameters = inspect.signature(function).parameters.values()
  for parameter in parameters:
    if parameter.kind is parameter.VAR_KEYWORD:
      return True
  return False


def hashable(value: Any) -> Any:
  """The value with lists as tuples, so that flax modules hash.

  A config that went through JSON then builds an equal model. Flax freezes
  dicts by itself.
  """
  if isinstance(value, Mapping):
    return {key: hashable(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return tuple(map(hashable, value))
  return value


def check_fields(
    known: Mapping[str, Field],
    given: Mapping[str, Any],
    where: str,
) -> None:
  """Raises a ConfigError for unknown, missing and wrong fields.

  Args:
    known: the fields there are; see `fields_of` and `options_of`.
    given: name → value.
    where: path of the block that holds them, such as "config.model".
  """
  # Unknown keys first: a mistyped key is missing under its right name, too, and
  # only the typo tells why.
  for name, value in given.items():
    if name not in known:
      raise _unknown_key(name, value, known, where)
  missing = []
  for name, known_field in known.items():
    if known_field.is_required and name not in given:
      missing.append(name)
  if missing:
    raise _missing_keys(missing, where)
  for name, value in given.items():
    check_value(known[name], value, where)


def _missing_keys(missing, where) -> ConfigError:
  """The error for keys that must be given and are not."""
  first = missing[0]
  all_of_them = ""
  if len(missing) > 1:
    all_of_them = f" (all that are missing: {', '.join(missing)})"
  return ConfigError(f"Missing key '{where}.{first}'{all_of_them}.")


def _unknown_key(name, value, known, where) -> ConfigError:
  """The error for a key that is no field."""
  near = nearest(name, known)
  hint = ""
  if near:
    hint = f" Did you mean '{where}.{near}'?"
  names = ", ".join(sorted(known)) or "none"
  return ConfigError(
      f"Unknown key '{where}.{name}' = {value!r}.{hint} Known: {names}.")


def check_value(known: Field, value: Any, where: str) -> None:
  """Raises a ConfigError if one value is not allowed."""
  check = known.check
  if check is None or check.fits(value):
    return
  hint = ""
  closest = nearest(value, map(str, check.names))
  if closest:
    hint = f" Did you mean {closest!r}?"
  raise ConfigError(
      f"{where}.{known.name} = {value!r}; it must be {check.allowed}.{hint}")
