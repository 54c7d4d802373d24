"""A sweep as one picture: a plot per score, and curves if it has any."""

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tools.sweeps.results import grid_of

AGE, SPLITS = "age", "train/code/splits"
_SIZE = 4.2  # Inches, of one plot.


def draw(path: pathlib.Path, sweep: Mapping[str, Any],
         results: Mapping[str, Any]) -> None:
  """Writes a PNG. Ours filled with bars of the spread, published as ◇."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure
  curves = sweep.get("curves", {})
  columns = max(len(sweep["scores"]), len(curves))
  rows = 2 if curves else 1
  figure = Figure((_SIZE * columns, _SIZE * rows), layout="constrained")
  FigureCanvasAgg(figure)
  figure.suptitle(sweep["title"], fontsize=9, wrap=True)
  axes = figure.subplots(rows, columns, squeeze=False)
  plot = _lines if "grid" in sweep else _bars
  for (name, spec), ax in zip(sweep["scores"].items(), axes[0], strict=False):
    plot(ax, sweep, results["scores"][name], spec)
    ax.set_title(spec["title"], fontsize=9)
  for (metric, title), ax in zip(curves.items(), axes[-1], strict=False):
    _curves(ax, results, metric)
    ax.set_title(title, fontsize=9)
  for ax in axes.flat:
    if not ax.has_data():
      ax.set_axis_off()
      ax.text(0.5, 0.5, "not run yet", ha="center", color="grey")
  new = path.with_name(f".{path.name}")
  figure.savefig(new, dpi=100, format="png")
  new.replace(path)


def _bars(ax, sweep, found, spec) -> None:
  titles = [cell["title"] for cell in sweep["cells"].values()]
  for i, x in enumerate(found.values()):
    if x["mean"] is not None:
      ax.bar(i, x["mean"], yerr=x["spread"], color="C0", capsize=3)
    elif x["reason"] != "N/A":
      ax.text(i, 0, "not run" if "failed" not in x["reason"] else "failed",
              rotation=90, ha="center", va="bottom", color="grey", fontsize=8)
    if _is_comparable(x, spec):
      ax.plot(i, x["published"], "D", mfc="none", mec="C3")
  ax.set_xticks(range(len(titles)), titles, rotation=60, ha="right",
                fontsize=8)
  ax.set_ylim(bottom=0)


def _lines(ax, sweep, found, spec) -> None:
  """As figure 6: across the rows' titles, a line per column."""
  grid = sweep["grid"]
  columns = list(zip(*grid_of(sweep, found), strict=True))
  for c, (title, column) in enumerate(
      zip(grid["columns"], columns, strict=True)):
    known = [(i, x) for i, x in enumerate(column) if x["mean"] is not None]
    if known:
      ax.errorbar([i for i, _ in known], [x["mean"] for _, x in known],
                  [x["spread"] or 0 for _, x in known], marker="o", capsize=3,
                  color=f"C{c}", label=str(title))
    known = [(i, x) for i, x in enumerate(column) if _is_comparable(x, spec)]
    ax.plot([i for i, _ in known], [x["published"] for _, x in known], "D",
            mfc="none", mec=f"C{c}")
  ax.set_xticks(range(len(grid["rows"])), map(str, grid["rows"]))
  ax.set_xlabel(grid["corner"], fontsize=8)
  if ax.get_legend_handles_labels()[0]:
    ax.legend(fontsize=8, title=grid.get("across"), title_fontsize=8)


def _is_comparable(x, spec) -> bool:
  return isinstance(x["published"], float | int) and spec.get(
      "comparable", True)


def _curves(ax, results, metric) -> None:
  """A line per cell over the steps of stage I, means over what has run."""
  for c, cell in enumerate(results["cells"].values()):
    by_step: dict[int, list[float]] = {}
    for runs in cell["runs"].values():
      if not runs["1"]["reason"]:
        for step, value in _points(pathlib.Path(runs["1"]["workdir"]), metric):
          by_step.setdefault(step, []).append(value)
    if by_step:
      ax.plot(list(by_step), [statistics.fmean(x) for x in by_step.values()],
              color=f"C{c}", label=cell["title"], linewidth=1)
  if ax.has_data():
    ax.set_xlabel("step", fontsize=8)
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8)


def _points(workdir: pathlib.Path, metric: str):
  """(step, value) of a run's metric, or of the words' mean age."""
  name = SPLITS if metric == AGE else metric
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  points = [(line["step"], line[name]) for line in lines if name in line]
  if metric != AGE:
    return points
  config = json.loads((workdir / "config.json").read_text())
  return ages(points, config["model"]["dict_size"])


def ages(points: Sequence[tuple[int, float]], dict_size: int
         ) -> list[tuple[int, float]]:
  """Mean age of the words in steps, if those replaced are of mean age.

  Args:
    points: (step, words replaced in it), for some of the steps; those between
      are taken to be like the next one.
    dict_size: number of words.
  """
  out, age, before = [], 0.0, 0
  for step, splits in points:
    for _ in range(step - before):
      age = (age + 1) * max(0.0, 1 - splits / dict_size)
    before = step
    out.append((step, age))
  return out
