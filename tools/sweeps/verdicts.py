"""Whether an effect of a sweep holds: on the means, and in each seed."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tools.sweeps import figures
from tools.sweeps.figures import Figure, number
from tools.sweeps.plan import Sweep

_ALIKE = 0.05  # What '~' allows, as a share of the right side.

# Score → cell → figure.
Scores = Mapping[str, Mapping[str, Figure]]
# A grid, row by row.
FigureRows = Sequence[Sequence[Figure]]
Rows = Sequence[Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Verdict:
  """Whether an effect holds.

  Attributes:
    effect: the claim, in words.
    sign: the sign of a comparison, or the shape of a trend.
    ours: what was found.
    published: what was published.
    verdict: whether it holds, and in how many seeds.
  """
  effect: str
  sign: str
  ours: str
  published: str
  verdict: str


class Finding(NamedTuple):
  """What was found of a grid.

  Attributes:
    ours: the numbers, in words.
    holds: whether the grid has the shape that was asked for.
  """
  ours: str
  holds: bool


def judge_all(sweep: Sweep, scores: Scores) -> list[Verdict]:
  """A verdict for every effect of a sweep."""
  verdicts = []
  for comparison in sweep.comparisons:
    verdicts.append(judge_comparison(comparison, scores))
  for trend in sweep.trends:
    verdicts.append(judge_trend(trend, sweep, scores))
  return verdicts


def judge_comparison(comparison: Any, scores: Scores) -> Verdict:
  """The verdict on a `Comparison` of configs/sweeps/recipe.py."""
  sign = comparison.sign
  left = scores[comparison.left.score][comparison.left.cell]
  right = scores[comparison.right.score][comparison.right.cell]
  verdict = figures.NOT_RUN
  seeds = _common_seeds([left, right])
  if seeds:
    in_seeds = [_compare(left.values[seed], sign, right.values[seed])
                for seed in seeds]
    verdict = _text_of(_compare(left.mean, sign, right.mean), in_seeds)
  ours = f"{figures.text_of(left)} {sign} {figures.text_of(right)}"
  return Verdict(
      comparison.effect, sign, ours, comparison.published, verdict)


def judge_trend(trend: Any, sweep: Sweep, scores: Scores) -> Verdict:
  """The verdict on a `Trend` of configs/sweeps/recipe.py."""
  by_cell = scores[trend.score]
  rows = figures.rows_of(sweep, by_cell)
  ours = figures.ABSENT
  verdict = figures.NOT_RUN
  seeds = _common_seeds(list(by_cell.values()))
  if seeds:
    spread = max(figure.spread or 0 for figure in by_cell.values())

    ours, holds = _find_shape(trend.shape, _means_of(rows), spread)
    in_seeds = []
    for seed in seeds:
      finding = _find_shape(trend.shape, _values_of(rows, seed), spread)
      in_seeds.append(finding.holds)
    verdict = _text_of(holds, in_seeds)
  return Verdict(trend.effect, trend.shape, ours, trend.published, verdict)


def _common_seeds(found: Sequence[Figure]) -> list[str]:
  """The seeds for which all figures have a value."""
  seeds = set(found[0].values)
  for figure in found[1:]:
    seeds &= set(figure.values)
  return sorted(seeds)


def _means_of(rows: FigureRows) -> Rows:
  means = []
  for row in rows:
    means.append([figure.mean for figure in row])
  return means


def _values_of(rows: FigureRows, seed: str) -> Rows:
  """The values of one seed."""
  values = []
  for row in rows:
    values.append([figure.values[seed] for figure in row])
  return values


def _compare(left: float, sign: str, right: float) -> bool:
  if sign == "<":
    return left < right
  if sign == ">":
    return left > right
  if sign == "~":
    return abs(left - right) <= _ALIKE * abs(right)
  raise ValueError(f"no such sign: {sign!r}")


def _text_of(holds: bool, in_seeds: Sequence[bool]) -> str:
  word = "holds" if holds else "DOES NOT HOLD"
  return f"{word} ({sum(in_seeds)} of {len(in_seeds)} seeds)"


# ── Shapes of grids ─────────────────────────────────────────────────────────


def _find_shape(shape: str, rows: Rows, spread: float) -> Finding:
  if shape == "rises":
    return _find_rise(rows, spread)
  if shape == "peaks inside rows":
    return _find_peak(rows, "rows")
  if shape == "peaks inside columns":
    return _find_peak(figures.columns_of(rows), "columns")
  raise ValueError(f"no such shape: {shape!r}")


def _find_rise(rows: Rows, spread: float) -> Finding:
  """Whether a grid rises along its rows and its columns.

  No step falls by more than `spread`, and the last cell is above the first.
  """
  largest_fall = 0
  for line in [*rows, *figures.columns_of(rows)]:
    for value, next_value in zip(line, line[1:], strict=False):
      largest_fall = max(largest_fall, value - next_value)
  first = rows[0][0]
  last = rows[-1][-1]
  ours = (f"{number(first)} … {number(last)}, largest fall "
          f"{number(largest_fall)}")
  return Finding(ours, largest_fall <= spread and last > first)


def _find_peak(lines: Rows, name: str) -> Finding:
  """Whether neither the first nor the last line has the highest mean."""
  means = [statistics.fmean(line) for line in lines]
  best = means.index(max(means))
  is_inside = 0 < best < len(means) - 1
  texts = [number(mean) for mean in means]
  return Finding(f"{', '.join(texts)} (means of {name})", is_inside)
