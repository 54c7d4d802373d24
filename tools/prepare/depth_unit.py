"""The unit of the numbers in depth maps, and how a user states it."""

import dataclasses
import math
from collections.abc import Mapping

from uvim.registry import ConfigError

# Names of units → how many of them make a metre.
NAMES: Mapping[str, float] = {"mm": 1000.0, "cm": 100.0, "m": 1.0}
ALLOWED = f"{', '.join(NAMES)}, or how many steps make a metre, such as 5000"


@dataclasses.dataclass(frozen=True)
class Unit:
  """How many steps of the numbers make a metre.

  Attributes:
    whole: of whole numbers. Depth cameras store millimetres.
    floats: of floats.
    is_stated: whether somebody states the unit of whole numbers: the user or a
      known layout. An array needs that; in an image, millimetres are the
      custom.
  """
  whole: float = 1000.0
  floats: float = 1.0
  is_stated: bool = False

  def __str__(self) -> str:
    whole = _readable(self.whole)
    floats = _readable(self.floats)
    if whole == floats:
      return f"all numbers in {whole}"
    return f"whole numbers in {whole}, floats in {floats}"


def _readable(steps: float) -> str:
  """1000 → 'mm'; 5000 → '1/5000 m'."""
  for name, steps_of_name in NAMES.items():
    if steps == steps_of_name:
      return name
  return f"1/{steps:g} m"


def from_unit(text: str) -> Unit:
  """What `--unit` says, for whole numbers and floats alike.

  Raises:
    ConfigError: neither a known name nor a positive number.
  """
  steps = NAMES.get(text)
  if steps is None:
    steps = _number("--unit", text)
  return Unit(whole=steps, floats=steps, is_stated=True)


def from_depth_scale(text: str) -> Unit:
  """What `--depth_scale` says, for whole numbers alone; floats are metres.

  Raises:
    ConfigError: not a positive number.
  """
  return Unit(whole=_number("--depth_scale", text), is_stated=True)


def _number(flag: str, text: str) -> float:
  allowed = ALLOWED if flag == "--unit" else "a number above 0"
  try:
    steps = float(text)
  except ValueError:
    steps = math.nan
  # NaN fails too.
  if not 0 < steps < math.inf:
    raise ConfigError(f"{flag}: {text!r}; allowed: {allowed}.")
  return steps
