"""A sweep as one image: a plot per score, and curves if it has any."""

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tools.sweeps import figures
from tools.sweeps.figures import Figure
from tools.sweeps.plan import Sweep
from tools.sweeps.results import Results
from trainers.report import run_files
from uvim import files

# A curve that is computed from another metric.
AGE = "age"
SPLITS = "train/code/splits"

_PLOT_INCHES = 4.2
_LARGE_FONT = 9
_SMALL_FONT = 8


class Point(NamedTuple):
  """A point of a curve."""
  step: int
  value: float


def draw(path: pathlib.Path, sweep: Sweep, results: Results) -> None:
  """Writes a PNG. Ours is filled, with bars of the spread; published is ◇."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure as Plot
  num_plots = len(sweep.scores) + (sweep.trade_off is not None)
  num_columns = max(num_plots, len(sweep.curves))
  num_rows = 2 if sweep.curves else 1
  plot = Plot((_PLOT_INCHES * num_columns, _PLOT_INCHES * num_rows),
              layout="constrained")
  FigureCanvasAgg(plot)  # It draws without a display.
  plot.suptitle(sweep.title, fontsize=_LARGE_FONT, wrap=True)
  axes = plot.subplots(num_rows, num_columns, squeeze=False)
  for name, ax in zip(sweep.scores, axes[0], strict=False):
    _draw_score(ax, sweep, results, name)
  if sweep.trade_off is not None:
    _draw_trade_off(axes[0][len(sweep.scores)], sweep, results)
  for metric, ax in zip(sweep.curves, axes[-1], strict=False):
    _draw_curves(ax, results, metric)
    ax.set_title(sweep.curves[metric], fontsize=_LARGE_FONT)
  for row, num_used in zip(axes, [num_plots, len(sweep.curves)], strict=False):
    mark_empty(row, num_used)
  files.replace_file(
      path, lambda file: plot.savefig(file, dpi=100, format="png"))


def mark_empty(row: Sequence[Any], num_used: int) -> None:
  """Hides axes without data; says so in those that wait for some.

  Args:
    row: of axes.
    num_used: how many of them, from the left, are to have data.
  """
  for place, ax in enumerate(row):
    if ax.has_data():
      continue
    ax.set_axis_off()
    if place < num_used:
      ax.text(0.5, 0.5, figures.NOT_RUN, ha="center", color="grey")


def _draw_score(ax, sweep: Sweep, results: Results, name: str) -> None:
  score = sweep.scores[name]
  by_cell = results.scores[name]
  if sweep.grid:
    _draw_lines(ax, sweep, by_cell, score)
  else:
    _draw_bars(ax, sweep, by_cell, score)
  ax.set_title(score.title, fontsize=_LARGE_FONT)


def _draw_bars(ax, sweep: Sweep, by_cell: Mapping[str, Figure],
               score: Any) -> None:
  """A bar for each cell."""
  for place, figure in enumerate(by_cell.values()):
    if figure.mean is not None:
      ax.bar(place, figure.mean, yerr=figure.spread, color="C0", capsize=3)
    elif figure.reason != figures.NOT_APPLICABLE:
      text = "failed" if "failed" in figure.reason else "not run"
      ax.text(place, 0, text, rotation=90, ha="center", va="bottom",
              color="grey", fontsize=_SMALL_FONT)
    if _is_comparable(figure, score):
      _draw_published(ax, [place], [figure.published], "C3")
  titles = [cell.title for cell in sweep.cells.values()]
  ax.set_xticks(range(len(titles)), titles, rotation=60, ha="right",
                fontsize=_SMALL_FONT)
  ax.set_ylim(bottom=0)


def _draw_trade_off(ax, sweep: Sweep, results: Results) -> None:
  """A point for each cell, with bars of the spread of its quality."""
  cost = sweep.trade_off.cost
  quality = sweep.trade_off.quality
  for name, cell in sweep.cells.items():
    cost_figure = results.scores[cost][name]
    quality_figure = results.scores[quality][name]
    if cost_figure.mean is None or quality_figure.mean is None:
      continue
    ax.errorbar(cost_figure.mean, quality_figure.mean, quality_figure.spread,
                marker="o", capsize=3)
    ax.annotate(cell.title, (cost_figure.mean, quality_figure.mean),
                xytext=(4, 4), textcoords="offset points",
                fontsize=_SMALL_FONT)
  if ax.has_data():
    # Costs differ by factors.
    ax.set_xscale("log")
  ax.margins(x=0.3)
  cost_title = sweep.scores[cost].title
  quality_title = sweep.scores[quality].title
  ax.set_xlabel(cost_title, fontsize=_SMALL_FONT)
  ax.set_ylabel(quality_title, fontsize=_SMALL_FONT)
  ax.set_title(f"{quality_title} over {cost_title}", fontsize=_LARGE_FONT)


def _draw_lines(ax, sweep: Sweep, by_cell: Mapping[str, Figure],
                score: Any) -> None:
  """As in figure 6: a line for each column, across the rows."""
  grid = sweep.grid
  columns = figures.columns_of(figures.rows_of(sweep, by_cell))
  for place, (title, column) in enumerate(
      zip(grid.columns, columns, strict=True)):
    color = f"C{place}"
    _draw_line(ax, column, color, str(title))
    _draw_published_line(ax, column, score, color)
  ax.set_xticks(range(len(grid.rows)), [str(title) for title in grid.rows])
  ax.set_xlabel(grid.down, fontsize=_SMALL_FONT)
  handles, _ = ax.get_legend_handles_labels()
  if handles:
    ax.legend(fontsize=_SMALL_FONT, title=grid.across or None,
              title_fontsize=_SMALL_FONT)


def _draw_line(ax, column: Sequence[Figure], color: str, title: str) -> None:
  """Our figures of a column, with bars of their spread."""
  places = []
  means = []
  spreads = []
  for place, figure in enumerate(column):
    if figure.mean is not None:
      places.append(place)
      means.append(figure.mean)
      spreads.append(figure.spread or 0)
  if places:
    ax.errorbar(places, means, spreads, marker="o", capsize=3, color=color,
                label=title)


def _draw_published_line(ax, column: Sequence[Figure], score: Any,
                         color: str) -> None:
  places = []
  values = []
  for place, figure in enumerate(column):
    if _is_comparable(figure, score):
      places.append(place)
      values.append(figure.published)
  _draw_published(ax, places, values, color)


def _draw_published(ax, places: Sequence[int], values: Sequence[float],
                    color: str) -> None:
  ax.plot(places, values, "D", mfc="none", mec=color)


def _is_comparable(figure: Figure, score: Any) -> bool:
  """Whether the published figure may stand beside ours."""
  is_number = isinstance(figure.published, float | int)
  return is_number and score.is_comparable


def _draw_curves(ax, results: Results, metric: str) -> None:
  """A line per cell over the steps of stage I, means over what has run."""
  for place, cell in enumerate(results.cells.values()):
    values_at = {}
    for by_stage in cell.runs.values():
      stage1 = by_stage["1"]
      if stage1.reason:
        continue
      for step, value in _points_of(pathlib.Path(stage1.workdir), metric):
        values_at.setdefault(step, []).append(value)
    if values_at:
      means = [statistics.fmean(values) for values in values_at.values()]
      ax.plot(list(values_at), means, color=f"C{place}", label=cell.title,
              linewidth=1)
  if ax.has_data():
    ax.set_xlabel("step", fontsize=_SMALL_FONT)
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=_SMALL_FONT)


def _points_of(workdir: pathlib.Path, metric: str) -> list[Point]:
  """The curve of a run's metric, or of the mean age of its words."""
  logged = SPLITS if metric == AGE else metric
  points = []
  for line in run_files.read_lines(workdir).sound:
    if logged in line.values:
      points.append(Point(line.step, line.values[logged]))
  if metric != AGE:
    return points
  config = run_files.read_config(workdir)
  return ages(points, config["model"]["dict_size"])


def ages(points: Sequence[tuple[int, float]], dict_size: int) -> list[Point]:
  """Mean age of the words in steps, if those replaced are of mean age.

  Args:
    points: (step, words replaced in it), for some of the steps. A step between
      two of them is taken to be like the next one.
    dict_size: number of words.
  """
  found = []
  age = 0.0
  last_step = 0
  for step, num_replaced in points:
    kept_share = max(0.0, 1 - num_replaced / dict_size)
    for _ in range(step - last_step):
      age = (age + 1) * kept_share
    last_step = step
    found.append(Point(step, age))
  return found
