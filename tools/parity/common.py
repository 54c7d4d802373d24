"""What the parity report compares, and when two quantities agree."""

import dataclasses
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

TOLERANCE = 1e-5  # Of floats, relative to the largest magnitude expected.

PASS, FAIL = "pass", "FAIL"
INFORMATIVE, NOT_COMPARED = "informative", "not compared"


@dataclasses.dataclass(frozen=True)
class Quantity:
  """One array of the original implementation, and ours.

  Attributes:
    name: file and array.
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


def judge(quantity: Quantity) -> Verdict:
  """Whether ours is theirs: floats to the tolerance, all else exactly."""
  name, note = quantity.name, quantity.note
  if quantity.ours is None:
    status = INFORMATIVE if quantity.informative else NOT_COMPARED
    return Verdict(name, status, note=note)
  if quantity.theirs is None:
    return Verdict(name, FAIL, note=note or "the fixture has no such array")
  ours, theirs = np.asarray(quantity.ours), np.asarray(quantity.theirs)
  failed = INFORMATIVE if quantity.informative else FAIL
  for what, a, b in (("shape", ours.shape, theirs.shape),
                     ("kind", _kind(ours), _kind(theirs))):
    if a != b:
      return Verdict(name, failed, note=f"{what} {a}, expected {b}; {note}")
  if _kind(theirs) == "text":
    same, abs_error, rel_error = np.array_equal(ours, theirs), np.nan, np.nan
  else:
    abs_error, rel_error = _errors(ours, theirs, quantity.scale)
    # Not "> tolerance": NaN must not pass.
    same = (rel_error <= quantity.tolerance if _kind(theirs) == "float"
            else abs_error == 0)
  status = INFORMATIVE if quantity.informative else PASS if same else FAIL
  return Verdict(name, status, abs_error, rel_error, note)


def _kind(array: np.ndarray) -> str:
  kinds = {"f": "float", "i": "integer", "u": "integer", "b": "bool"}
  return kinds.get(array.dtype.kind, "text")


def _errors(ours, theirs, scale) -> tuple[float, float]:
  """Largest absolute error, and the same relative to the scale."""
  if not theirs.size:
    return 0.0, 0.0
  ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
  same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
  with np.errstate(invalid="ignore"):
    error = np.max(np.where(same, 0.0, np.abs(ours - theirs)))
  finite = np.abs(theirs[np.isfinite(theirs)])
  scale = np.max(finite, initial=0.0) if scale is None else scale
  # Where zeros are expected any error is infinitely large.
  return error, error / scale if scale else np.where(error == 0, 0.0, np.inf)


def match(where: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], *,
          inputs: str = "", informative: str = "", complete: str = "",
          note: str = "") -> Iterator[Quantity]:
  """A quantity for each array that was expected, by name.

  Args:
    where: name of the file.
    theirs: expected arrays.
    ours: our arrays; more of them than expected do no harm.
    inputs: pattern of whole names that are no result.
    informative: pattern of whole names that may differ.
    complete: prefix below which ours must not have more names.
    note: shown with each.
  """
  for name, value in theirs.items():
    if not re.fullmatch(inputs, name):
      yield Quantity(
          f"{where}/{name}", ours.get(name), value, note=note,
          informative=bool(re.fullmatch(informative, name)))
  for name in ours.keys() - theirs.keys():
    if complete and name.startswith(complete):
      yield Quantity(f"{where}/{name}", ours[name], None)


def guarded(where: str, quantities: Iterable[Quantity]) -> Iterator[Quantity]:
  """The quantities; an error among them is one more that fails.

  So that something broken hides only what comes after it in its own file.
  """
  try:
    yield from quantities
  except Exception as e:
    traceback.print_exc()
    yield Quantity(where, np.nan, None, note=f"{type(e).__name__}: {e}")


def load(path) -> dict[str, np.ndarray]:
  """All arrays of an .npz."""
  with np.load(path) as file:
    return dict(file)


def below(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  """The arrays whose names begin with `prefix`, which is cut off."""
  return {name.removeprefix(prefix): value for name, value in arrays.items()
          if name.startswith(prefix)}


def unknown_part(path) -> Iterator[Quantity]:
  """Every array of a file whose meaning this tool does not know."""
  for name, value in load(path).items():
    yield Quantity(f"{path.stem}/{name}", None, value, note="unknown file")


def gradients(where: str, grads: Mapping[str, Any],
              theirs: Mapping[str, Any]) -> Iterator[Quantity]:
  """Our gradients, by name, against the arrays 'grad/…'.

  Terms far larger than their sum cancel in some of them: that of a key's bias
  is zero, as it shifts all scores of a query alike, and what is left of it is
  rounding. So the scale is at least a hundredth of the largest gradient's.
  """
  theirs = {name: x for name, x in theirs.items() if name.startswith("grad/")}
  ours = {f"grad/{name}": value for name, value in grads.items()}
  least = max((np.abs(x).max() for x in theirs.values()), default=0.0) / 100
  for quantity in match(where, theirs, ours, complete="grad/"):
    if (quantity.theirs is not None
        and np.max(np.abs(quantity.theirs), initial=0.0) < least):
      quantity = dataclasses.replace(
          quantity, scale=float(least),
          note="small: relative to 1 % of the largest gradient")
    yield quantity
