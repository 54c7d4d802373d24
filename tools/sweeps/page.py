"""The page of a sweep in Markdown, in the layout of the paper."""

import collections
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tools.sweeps import figures
from tools.sweeps.figures import Figure
from tools.sweeps.origin import Origin
from tools.sweeps.plan import Sweep
from tools.sweeps.results import CellReport, Results


def page_of(name: str, sweep: Sweep, results: Results, *,
            command: str) -> str:
  """Where it comes from, table, effects, cells, and what is missing.

  Args:
    name: of the sweep; its plot lies beside the page as NAME.png.
    sweep: what was run.
    results: what it found.
    command: what made the page.
  """
  if sweep.grid:
    tables = _grids(sweep, results)
  else:
    tables = [_rows(sweep, results)]
  paragraphs = [
      f"# {results.title}",
      f"    {command}",
      _origin(results.origin),
      *tables,
      f"![{name}]({name}.png)",
      "## Effects",
      _effects(results),
      "## Cells",
      _configs(results),
      _cells(results)]
  missing = _missing_runs(results) + _missing_figures(results)
  if missing:
    items = [f"* {line}" for line in missing]
    paragraphs += ["## Not there", "\n".join(items)]
  return "\n\n".join(paragraphs) + "\n"


def _origin(origin: Origin) -> str:
  """Commits, seeds, runs and minutes, as a list."""
  commits = ", ".join(origin.commits) or "none yet"
  seeds = "1, so no figure has a spread"
  if origin.num_seeds > 1:
    seeds = (f"{origin.num_seeds}; ours is their mean ± their standard "
             "deviation")
  minutes = "not noted"
  if origin.minutes is not None:
    minutes = f"{origin.minutes:.0f} for all of them, one after the other"
  return "\n".join([
      f"* Commit: {commits}",
      f"* Seeds: {seeds}",
      f"* Runs: {origin.num_done} of {origin.num_runs} done",
      f"* Minutes: {minutes}"])


def _rows(sweep: Sweep, results: Results) -> str:
  """One table: a column per cell; ours and the published figure below it."""
  rows = []
  for name, score in sweep.scores.items():
    found = list(results.scores[name].values())
    ours = [figures.text_of(figure) for figure in found]
    rows.append([score.title, *ours])
    if score.published:
      note = "" if score.is_comparable else ", another measure"
      published = [figures.published_text(figure) for figure in found]
      rows.append([f"published{note}", *published])
  titles = [cell.title for cell in sweep.cells.values()]
  return _table(["", *titles], rows)


def _grids(sweep: Sweep, results: Results) -> list[str]:
  """A table per score: ours, and the published figure in brackets."""
  grid = sweep.grid
  corner = grid.down
  if grid.across:
    corner += f" ↓, {grid.across} →"
  columns = [str(title) for title in grid.columns]
  paragraphs = []
  for name, score in sweep.scores.items():
    found = figures.rows_of(sweep, results.scores[name])
    rows = []
    for title, row in zip(grid.rows, found, strict=True):
      texts = [_with_published(figure) for figure in row]
      rows.append([str(title), *texts])
    note = " (published in brackets)" if score.published else ""
    heading = f"**{score.title}**{note}"
    paragraphs += [heading, _table([corner, *columns], rows)]
  return paragraphs


def _with_published(figure: Figure) -> str:
  text = figures.text_of(figure)
  if figure.published is None:
    return text
  return f"{text} ({figures.published_text(figure)})"


def _effects(results: Results) -> str:
  rows = []
  for check in results.checks:
    rows.append([check.effect, check.ours, check.published, check.verdict])
  return _table(["effect", "ours", "published", "verdict"], rows)


def _configs(results: Results) -> str:
  """What the cells change."""
  if len(results.configs) == 1:
    return f"`{results.configs[0]}`, with:"
  config1, config2 = results.configs
  return f"Stage I: `{config1}`, stage II: `{config2}`, with:"


def _cells(results: Results) -> str:
  """A row for each cell: what it changes in each stage."""
  stages = ["stage I", "stage II"]
  head = ["cell", *stages]
  if len(results.configs) == 1:
    stages = ["stage I"]
    head = ["cell", "overrides"]
  rows = []
  for cell in results.cells.values():
    changes = [_overrides(cell.overrides[stage]) for stage in stages]
    rows.append([cell.title, *changes])
  return _table(head, rows)


def _overrides(values: Mapping[str, Any] | None) -> str:
  if values is None:
    return "none"
  texts = [f"`{name}={value}`" for name, value in values.items()]
  return ", ".join(texts) or "as shipped"


def _missing_runs(results: Results) -> list[str]:
  """Runs that are not done, once each, with the cells that need them."""
  titles_by_run = collections.defaultdict(list)
  for cell in results.cells.values():
    for run in _unfinished(cell):
      titles_by_run[run].append(cell.title)
  lines = []
  for run, titles in titles_by_run.items():
    lines.append(f"{', '.join(titles)}: {run}")
  return lines


def _unfinished(cell: CellReport) -> list[str]:
  """A text for each run of a cell that is not done, with the reason."""
  texts = []
  for seed, by_stage in cell.runs.items():
    for run in by_stage.values():
      if run.reason:
        name = pathlib.Path(run.workdir).name
        texts.append(f"{name} (seed {seed}): {run.reason}")
  return texts


def _missing_figures(results: Results) -> list[str]:
  """Figures that runs lack although they are done."""
  lines = []
  for by_cell in results.scores.values():
    for name, figure in by_cell.items():
      if "has no" in figure.reason:
        lines.append(f"{results.cells[name].title}: {figure.reason}")
  return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table in Markdown."""
  rule = ["---"] * len(head)
  lines = []
  for row in [head, rule, *rows]:
    line = " | ".join(row)
    lines.append(f"| {line} |")
  return "\n".join(lines)
