"""A figure of a cell: its values over seeds, and how it is written."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tools.sweeps.plan import Sweep

ABSENT = "–"
NOT_RUN = "not run yet"
NOT_APPLICABLE = "N/A"


@dataclasses.dataclass(frozen=True)
class Figure:
  """What a sweep found for one score of one cell.

  Attributes:
    values: by seed.
    mean: over seeds; None without any value.
    spread: standard deviation over seeds; None with less than two of them.
    published: the published figure, if any.
    reason: why there is no value, or not one for all seeds; '' otherwise. 'N/A'
      where the cell has no such run.
  """
  values: Mapping[str, float]
  mean: float | None
  spread: float | None
  published: float | str | None = None
  reason: str = ""


def make_figure(values: Mapping[str, float], *,
                published: float | str | None = None,
                reason: str = "") -> Figure:
  """A figure of these values by seed."""
  found = list(values.values())
  mean = statistics.fmean(found) if found else None
  spread = statistics.stdev(found) if len(found) > 1 else None
  return Figure(values, mean, spread, published, reason)


def text_of(figure: Figure) -> str:
  """'36.7 ± 0.4', or why there is none."""
  if figure.mean is None:
    if figure.reason == NOT_APPLICABLE:
      return NOT_APPLICABLE
    return "failed" if "failed" in figure.reason else NOT_RUN
  text = number(figure.mean)
  if figure.spread is not None:
    text += f" ± {number(figure.spread, like=figure.mean)}"
  if figure.reason:
    # Some seeds are missing.
    text += f" (of {len(figure.values)})"
  return text


def published_text(figure: Figure) -> str:
  """The published figure as it was published."""
  if figure.published is None:
    return ABSENT
  return str(figure.published)


def number(value: float, like: float | None = None) -> str:
  """Three digits or a tenth; as many as `like` has, if it is given."""
  if not math.isfinite(value):
    return str(value)
  size = abs(value if like is None else like)
  digits = 2
  if size >= 10:
    digits = 1
  elif size < 1:
    digits = 3
  return f"{value:.{digits}f}"


def rows_of(sweep: Sweep, by_cell: Mapping[str, Any]) -> list[list[Any]]:
  """The cells' entries as rows of the sweep's grid."""
  entries = list(by_cell.values())
  width = len(sweep.grid.columns)
  rows = []
  for begin in range(0, len(entries), width):
    rows.append(entries[begin:begin + width])
  return rows


def columns_of(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
  """The columns of a grid that is given as rows."""
  return [list(column) for column in zip(*rows, strict=True)]
