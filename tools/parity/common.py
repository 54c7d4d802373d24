"""What the parity report compares, and when two quantities agree."""

import dataclasses
import fnmatch
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

TOLERANCE = 1e-5  # Of floats, relative to the largest magnitude expected.

# What can be said of a quantity.
PASS = "pass"
FAIL = "FAIL"
INFORMATIVE = "informative"
NOT_COMPARED = "not compared"

GRADIENTS = "grad/"  # Beginning of the names of gradients.

# numpy's letters of dtypes → what must be the same of two arrays.
_KINDS = {"f": "float", "i": "integer", "u": "integer", "b": "bool"}


@dataclasses.dataclass(frozen=True)
class Quantity:
  """One array of the original implementation, and ours.

  Attributes:
    name: 'FILE/ARRAY', where FILE has no slash.
    ours: what this code computes; None: it has no such quantity.
    theirs: what was expected; None: this code has one more.
    informative: whether it may differ without a failure.
    scale: what float errors are relative to; None: max |theirs|.
    tolerance: the largest relative error of floats.
    note: shown behind the numbers.
  """
  name: str
  ours: Any
  theirs: Any
  informative: bool = False
  scale: float | None = None
  tolerance: float = TOLERANCE
  note: str = ""


@dataclasses.dataclass(frozen=True)
class Verdict:
  """A line of the report; errors are NaN where there is nothing to subtract."""
  name: str
  status: str
  abs_error: float = np.nan
  rel_error: float = np.nan
  note: str = ""


# ── The verdict on one quantity ─────────────────────────────────────────────


def judge(quantity: Quantity) -> Verdict:
  """Whether ours is theirs: floats to the tolerance, all else exactly."""
  name = quantity.name
  note = quantity.note
  if quantity.ours is None:
    status = INFORMATIVE if quantity.informative else NOT_COMPARED
    return Verdict(name, status, note=note)
  if quantity.theirs is None:
    note = note or "the fixture has no such array"
    return Verdict(name, FAIL, note=note)
  ours = np.asarray(quantity.ours)
  theirs = np.asarray(quantity.theirs)
  misfit = _find_misfit(ours, theirs)
  if misfit:
    status = _status(quantity, agrees=False)
    return Verdict(name, status, note=f"{misfit}; {note}")
  if _kind(theirs) == "text":
    agrees = np.array_equal(ours, theirs)
    return Verdict(name, _status(quantity, agrees), note=note)
  abs_error, rel_error = _errors(ours, theirs, quantity.scale)
  if _kind(theirs) == "float":
    # Not "> tolerance": NaN must not pass.
    agrees = rel_error <= quantity.tolerance
  else:
    agrees = abs_error == 0
  return Verdict(name, _status(quantity, agrees), abs_error, rel_error, note)


def _status(quantity: Quantity, agrees: bool) -> str:
  if quantity.informative:
    return INFORMATIVE
  return PASS if agrees else FAIL


def _find_misfit(ours: np.ndarray, theirs: np.ndarray) -> str:
  """What makes two arrays incomparable; '' if nothing does."""
  if ours.shape != theirs.shape:
    return f"shape {ours.shape}, expected {theirs.shape}"
  if _kind(ours) != _kind(theirs):
    return f"kind {_kind(ours)}, expected {_kind(theirs)}"
  return ""


def _kind(array: np.ndarray) -> str:
  return _KINDS.get(array.dtype.kind, "text")


def _errors(ours: np.ndarray, theirs: np.ndarray,
            scale: float | None) -> tuple[float, float]:
  """(largest absolute error, the largest relative to the scale)."""
  if not theirs.size:
    return 0.0, 0.0
  ours = ours.astype(np.float64)
  theirs = theirs.astype(np.float64)
  is_same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
  with np.errstate(invalid="ignore"):  # inf − inf, where both are the same.
    difference = np.abs(ours - theirs)
  abs_error = np.max(np.where(is_same, 0.0, difference))
  if scale is None:
    scale = largest(theirs[np.isfinite(theirs)])
  if scale:
    return abs_error, abs_error / scale
  # Where zeros are expected any error is infinitely large.
  return abs_error, np.where(abs_error == 0, 0.0, np.inf)


def largest(array: np.ndarray) -> float:
  """The largest magnitude in an array; 0 in an empty one."""
  return np.max(np.abs(array), initial=0.0)


# ── Quantities from arrays by name ──────────────────────────────────────────


def match(file: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], *,
          inputs: Sequence[str] = (), informative: Sequence[str] = (),
          note: str = "") -> Iterator[Quantity]:
  """A quantity for each array that was expected, by name.

  Args:
    file: name of the file.
    theirs: expected arrays.
    ours: our arrays; more of them than expected do no harm.
    inputs: names that are no result; 'grad/*' stands for all that begin so.
    informative: names that may differ, likewise.
    note: shown with each.
  """
  for name, value in theirs.items():
    if is_among(name, inputs):
      continue
    yield Quantity(
        f"{file}/{name}", ours.get(name), value, note=note,
        informative=is_among(name, informative))


def is_among(name: str, patterns: Iterable[str]) -> bool:
  """Whether one of the patterns, with `*` for any text, is the whole name."""
  return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def match_gradients(file: str, grads: Mapping[str, Any],
                    theirs: Mapping[str, Any]) -> Iterator[Quantity]:
  """Our gradients, by name, against the arrays 'grad/…' among theirs.

  Terms far larger than their sum cancel in some of them: that of a key's bias
  is zero, as it shifts all scores of a query alike, and what is left of it is
  rounding. So the scale is at least a hundredth of the largest gradient's.
  """
  theirs = below(theirs, GRADIENTS)
  magnitudes = [largest(gradient) for gradient in theirs.values()]
  least_scale = float(max(magnitudes, default=0.0)) / 100
  for quantity in match(f"{file}/grad", theirs, grads):
    if largest(quantity.theirs) < least_scale:
      quantity = dataclasses.replace(
          quantity, scale=least_scale,
          note="small: relative to 1 % of the largest gradient")
    yield quantity
  for name in grads.keys() - theirs.keys():
    yield Quantity(f"{file}/{GRADIENTS}{name}", grads[name], None)


def guarded(file: str, quantities: Iterable[Quantity]) -> Iterator[Quantity]:
  """The quantities; an error among them is one more that fails.

  So that something broken hides only what comes after it in its own file.
  """
  try:
    yield from quantities
  except Exception as error:
    traceback.print_exc()
    yield Quantity(file, np.nan, None,
                   note=f"{type(error).__name__}: {error}")


def below(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  """The arrays whose names begin with `prefix`, which is cut off."""
  return {name.removeprefix(prefix): value for name, value in arrays.items()
          if name.startswith(prefix)}
