"""The page of a sweep in Markdown, in the layout of the paper."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tools.sweeps import figures
from tools.sweeps.figures import Figure
from tools.sweeps.plan import Sweep
from tools.sweeps.results import Results


def page_of(name: str, sweep: Sweep, results: Results, *,
            command: str) -> str:
  """Table, effects, cells, and what is missing.

  Args:
    name: of the sweep; its plot lies beside the page as NAME.png.
    sweep: what was run.
    results: what it found.
    command: what made the page.
  """
  parts = [
      f"# {results.title}",
      f"    {command}",
      "Ours is the mean ± standard deviation over seeds."]
  parts += _grids(sweep, results) if sweep.grid else [_rows(sweep, results)]
  parts += [
      f"![{name}]({name}.png)",
      "## Effects",
      _effects(results),
      "## Cells",
      _configs(results),
      _cells(results)]
  missing = _missing_runs(results) + _missing_figures(results)
  if missing:
    items = [f"* {line}" for line in missing]
    parts += ["## Not there", "\n".join(items)]
  return "\n\n".join(parts) + "\n"


def _rows(sweep: Sweep, results: Results) -> str:
  """One table: a column per cell; ours and the published figure below it."""
  rows = []
  for name, score in sweep.scores.items():
    found = list(results.scores[name].values())
    rows.append([score.title, *(figures.text_of(figure) for figure in found)])
    if score.published:
      note = "" if score.is_comparable else ", another measure"
      rows.append([f"published{note}",
                   *(figures.published_text(figure) for figure in found)])
  titles = [cell.title for cell in sweep.cells.values()]
  return _table(["", *titles], rows)


def _grids(sweep: Sweep, results: Results) -> list[str]:
  """A table per score: ours, and the published figure in brackets."""
  grid = sweep.grid
  corner = grid.down
  if grid.across:
    corner += f" ↓, {grid.across} →"
  head = [corner, *(str(title) for title in grid.columns)]
  parts = []
  for name, score in sweep.scores.items():
    rows = []
    found = figures.rows_of(sweep, results.scores[name])
    for title, row in zip(grid.rows, found, strict=True):
      rows.append([str(title), *(_with_published(figure) for figure in row)])
    note = " (published in brackets)" if score.published else ""
    parts += [f"**{score.title}**{note}", _table(head, rows)]
  return parts


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
  rows = []
  if len(results.configs) == 1:
    for cell in results.cells.values():
      rows.append([cell.title, _overrides(cell.overrides["stage I"])])
    return _table(["cell", "overrides"], rows)
  for cell in results.cells.values():
    rows.append([cell.title, _overrides(cell.overrides["stage I"]),
                 _overrides(cell.overrides["stage II"])])
  return _table(["cell", "stage I", "stage II"], rows)


def _overrides(values: Mapping[str, Any] | None) -> str:
  if values is None:
    return "none"
  texts = [f"`{name}={value}`" for name, value in values.items()]
  return ", ".join(texts) or "as shipped"


def _missing_runs(results: Results) -> list[str]:
  """Runs that are not done, once each, with the cells that need them."""
  titles_of = {}
  for cell in results.cells.values():
    for seed, by_stage in cell.runs.items():
      for run in by_stage.values():
        if run.reason:
          name = pathlib.Path(run.workdir).name
          line = f"{name} (seed {seed}): {run.reason}"
          titles_of.setdefault(line, []).append(cell.title)
  return [f"{', '.join(titles)}: {line}" for line, titles in titles_of.items()]


def _missing_figures(results: Results) -> list[str]:
  """Figures that runs lack although they are done."""
  lines = []
  for by_cell in results.scores.values():
    for name, figure in by_cell.items():
      if "has no" in figure.reason:
        lines.append(f"{results.cells[name].title}: {figure.reason}")
  return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  lines = []
  for row in [head, ["---"] * len(head), *rows]:
    lines.append(f"| {' | '.join(row)} |")
  return "\n".join(lines)
