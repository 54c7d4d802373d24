"""What the runs of a sweep found, in the layout of the paper."""

import functools
import json
import math
import os
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tools.sweeps import plan as sweep_plan
from tools.sweeps.plan import Cells, Run

_LAST = 0.1  # Of a run: over which a training metric is averaged.
_ALIKE = 0.05
ABSENT = "–"


def collect(sweep: Mapping[str, Any], cells: Cells) -> dict[str, Any]:
  """Everything as plain data: cells, scores, effects.

  Returns:
    'cells': name → title, overrides by stage, workdirs and reasons by seed.
    'scores': score → cell → {'values' by seed, 'mean', 'spread' (standard
    deviation over seeds; None for one seed), 'published', 'reason' (why there
    is no value, or not for all seeds; '')}.
    'checks': see `_check`.
  """
  lines = {}  # Runs are shared: each file is read once.
  scores = {
      score: {cell: _score(spec, cell, cells, lines) for cell in sweep["cells"]}
      for score, spec in sweep["scores"].items()}
  return {
      "title": sweep["title"], "configs": list(sweep["configs"]),
      "cells": {name: _cell(name, cell, cells)
                for name, cell in sweep["cells"].items()},
      "scores": scores,
      "checks": [_check(check, sweep, scores) for check in sweep["checks"]]}


def _cell(name, cell, cells):
  runs = {seed: x for (other, seed), x in cells.items() if other == name}
  return {
      "title": cell["title"],
      "overrides": {"stage I": sweep_plan.overrides(cell, 1),
                    "stage II": None if cell.get("stage2", {}) is None
                    else sweep_plan.overrides(cell, 2)},
      "runs": {str(seed): {str(stage): {
          "workdir": str(run.workdir), "reason": sweep_plan.reason(run)}
          for stage, run in x.items()} for seed, x in runs.items()}}


def _score(spec, cell, cells, lines):
  values, reasons = {}, {}
  for (name, seed), runs in cells.items():
    if name != cell:
      continue
    run = runs.get(spec["stage"])
    why = sweep_plan.reason(run) if run else "N/A"
    if not why:
      metric = spec["metric"].format(cell=cell)
      value = _value(run, metric, lines)
      why = "" if value is not None else f"{run.name} has no {metric}"
    if why:
      reasons[seed] = why
    else:
      values[str(seed)] = value * spec.get("scale", 1)
  found = list(values.values())
  return {
      "values": values, "mean": statistics.fmean(found) if found else None,
      "spread": statistics.stdev(found) if len(found) > 1 else None,
      "published": spec["published"].get(cell),
      "reason": "; ".join(f"seed {seed}: {why}"
                          for seed, why in reasons.items() if why != "N/A")
      or ("N/A" if reasons else "")}


def _value(run: Run, metric: str, lines) -> float | None:
  """A figure of a run that is done; None if it does not have it."""
  if run.stage == sweep_plan.MASKING:
    path = run.workdir / sweep_plan.MASKING_FILE
    return json.loads(path.read_text()).get(metric)
  if run.name not in lines:
    lines[run.name] = list(sweep_plan.metrics(run))
  points = [(line["step"], line[metric]) for line in lines[run.name]
            if metric in line]
  if not points:
    return None
  if metric.startswith("train/"):
    begin = (1 - _LAST) * points[-1][0]
    points = [point for point in points if point[0] > begin]
    return statistics.fmean(value for _, value in points)
  return points[-1][1]


# ── Effects ─────────────────────────────────────────────────────────────────


def _check(check, sweep, scores):
  """{'effect', 'sign', 'ours', 'published', 'verdict'}: does a sign hold?"""
  effect, left, sign, right, published = check
  if right is None:
    ours, verdict = _check_grid(left[0], sign, sweep, scores)
    return {"effect": effect, "sign": sign, "ours": ours,
            "published": published, "verdict": verdict}
  a, b = (scores[score][cell] for score, cell in (left, right))
  seeds = sorted(set(a["values"]) & set(b["values"]))
  verdict = "not run yet"
  if seeds:
    verdict = _verdict(_holds(a["mean"], sign, b["mean"]), [
        _holds(a["values"][s], sign, b["values"][s]) for s in seeds])
  return {"effect": effect, "sign": sign, "published": published,
          "ours": f"{figure(a)} {sign} {figure(b)}", "verdict": verdict}


def _verdict(holds: bool, in_seeds: Sequence[bool]) -> str:
  return ("holds" if holds else "DOES NOT HOLD") + (
      f" ({sum(in_seeds)} of {len(in_seeds)} seeds)")


def _holds(a: float, sign: str, b: float) -> bool:
  if sign == "~":
    return abs(a - b) <= _ALIKE * abs(b)
  return a < b if sign == "<" else a > b


def _check_grid(score, sign, sweep, scores):
  """What was found of a grid, and the verdict."""
  rows = grid_of(sweep, scores[score])
  cells = [x for row in rows for x in row]
  seeds = sorted(set.intersection(*(set(x["values"]) for x in cells)))
  if not seeds:
    return ABSENT, "not run yet"
  judge = {
      "rises": functools.partial(_rises, max(x["spread"] or 0 for x in cells)),
      "peaks inside rows": functools.partial(_peaks_inside, "rows"),
      "peaks inside columns": functools.partial(_peaks_inside, "columns"),
  }[sign]
  ours, holds = judge([[x["mean"] for x in row] for row in rows])
  return ours, _verdict(holds, [
      judge([[x["values"][s] for x in row] for row in rows])[1]
      for s in seeds])


def _rises(spread, rows):
  lines = rows + [list(x) for x in zip(*rows, strict=True)]
  fall = max((a - b for line in lines
              for a, b in zip(line, line[1:], strict=False)), default=0)
  first, last = rows[0][0], rows[-1][-1]
  ours = (f"{number(first)} … {number(last)}, largest fall "
          + number(max(fall, 0)))
  return ours, fall <= spread and last > first


def _peaks_inside(along, rows):
  lines = zip(*rows, strict=True) if along == "columns" else rows
  means = [statistics.fmean(line) for line in lines]
  ours = ", ".join(map(number, means)) + f" (means of {along})"
  return ours, means.index(max(means)) not in (0, len(means) - 1)


def grid_of(sweep, by_cell: Mapping[str, Any]) -> list[list[Any]]:
  """The cells' entries as rows of the sweep's grid."""
  flat, width = list(by_cell.values()), len(sweep["grid"]["columns"])
  return [flat[i:i + width] for i in range(0, len(flat), width)]


# ── The files ───────────────────────────────────────────────────────────────


def write(folder: pathlib.Path, name: str, sweep: Mapping[str, Any],
          results: Mapping[str, Any], *, command: str) -> None:
  """Writes NAME.json and NAME.md to `folder`."""
  results = {"command": command, **results}
  _replace(folder / f"{name}.json", json.dumps(results, indent=1) + "\n")
  _replace(folder / f"{name}.md", markdown(name, sweep, results))


def _replace(path: pathlib.Path, text: str) -> None:
  new = path.with_name(f".{path.name}.partial")
  new.write_text(text)
  os.replace(new, path)


def markdown(name: str, sweep: Mapping[str, Any],
             results: Mapping[str, Any]) -> str:
  """The page: table, effects, cells, what is missing."""
  tables = (_grids if "grid" in sweep else _rows)(sweep, results["scores"])
  checks = [[x["effect"], x["ours"], x["published"], x["verdict"]]
            for x in results["checks"]]
  cells = [[x["title"], *(_overrides(x["overrides"][stage])
                          for stage in ("stage I", "stage II"))]
           for x in results["cells"].values()]
  missing = _missing(results)
  parts = [
      f"# {results['title']}", f"    {results['command']}",
      "Ours is the mean ± standard deviation over seeds.", *tables,
      f"![{name}]({name}.png)", "## Effects",
      _table(["effect", "ours", "published", "verdict"], checks), "## Cells",
      f"Stage I: `{results['configs'][0]}`, stage II: "
      f"`{results['configs'][1]}`, with:",
      _table(["cell", "stage I", "stage II"], cells)]
  if missing:
    parts += ["## Not there", "\n".join(f"* {line}" for line in missing)]
  return "\n\n".join(parts) + "\n"


def _missing(results):
  """Runs that are not done, once each, and figures that they lack."""
  lines = {}
  for cell in results["cells"].values():
    for seed, runs in cell["runs"].items():
      for run in runs.values():
        if run["reason"]:
          name = os.path.basename(run["workdir"])
          lines.setdefault(f"{name} (seed {seed}): {run['reason']}", []).append(
              cell["title"])
  out = [f"{', '.join(titles)}: {line}" for line, titles in lines.items()]
  return out + [
      f"{results['cells'][cell]['title']}: {x['reason']}"
      for by_cell in results["scores"].values() for cell, x in by_cell.items()
      if "has no" in x["reason"]]


def _rows(sweep, scores):
  """One table: a column per cell; ours and the published one below it."""
  rows = []
  for name, spec in sweep["scores"].items():
    found = list(scores[name].values())
    rows.append([spec["title"], *map(figure, found)])
    if spec["published"]:
      other = "" if spec.get("comparable", True) else ", another measure"
      rows.append([f"published{other}", *(published(x) for x in found)])
  titles = [cell["title"] for cell in sweep["cells"].values()]
  return [_table(["", *titles], rows)]


def _grids(sweep, scores):
  """A table per score: ours, and the published figure in brackets."""
  grid = sweep["grid"]
  head = grid["corner"]
  if "across" in grid:
    head += f" ↓, {grid['across']} →"
  out = []
  for name, spec in sweep["scores"].items():
    rows = [[str(title), *(
        figure(x) + ("" if x["published"] is None else f" ({published(x)})")
        for x in row)] for title, row in zip(
            grid["rows"], grid_of(sweep, scores[name]), strict=True)]
    note = " (published in brackets)" if spec["published"] else ""
    out += [f"**{spec['title']}**{note}",
            _table([head, *map(str, grid["columns"])], rows)]
  return out


def _table(head, rows) -> str:
  return "\n".join(f"| {' | '.join(row)} |" for row in [
      head, ["---"] * len(head), *rows])


def _overrides(values: Mapping[str, Any] | None) -> str:
  if values is None:
    return "none"
  return ", ".join(f"`{k}={v}`" for k, v in values.items()) or "as shipped"


def figure(found: Mapping[str, Any]) -> str:
  """'36.7 ± 0.4', or why there is none."""
  if found["mean"] is None:
    reason = found["reason"]
    if reason == "N/A":
      return reason
    return "failed" if "failed" in reason else "not run yet"
  text = number(found["mean"])
  if found["spread"] is not None:
    text += f" ± {number(found['spread'], like=found['mean'])}"
  return text + (f" (of {len(found['values'])})" if found["reason"] else "")


def published(found: Mapping[str, Any]) -> str:
  value = found["published"]
  return ABSENT if value is None else str(value)


def number(value: float, like: float | None = None) -> str:
  """Three digits or a tenth, those of `like` if given."""
  size = abs(value if like is None else like)
  digits = 1 if size >= 10 else 3 if size < 1 else 2
  return f"{value:.{digits}f}" if math.isfinite(value) else str(value)
