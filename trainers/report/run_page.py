"""report.html of a run: everything one looks at, in one file, offline.

It is made of what lies in the workdir (config.json, metrics.jsonl, pictures/
and two small files of its own), so it can be made again at any time:
`python -m tools.report WORKDIR`.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trainers.report import alarms, page, plots

PAGE = "report.html"
SESSIONS = "sessions.json"
USAGE = "code_usage.json"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy",
             "tensorflow-cpu", "tensorflow-datasets")
_MAX_SESSIONS = 20


class Run(NamedTuple):
  """What a workdir says.

  Attributes:
    workdir: the folder.
    config: config.json.
    metrics: name → [(step, value), …].
    settings: name of a score → what it was made with.
    sessions: one dict for each time the run was started.
    usage: {"step", "uses"}: how often each word was used; or {}.
  """
  workdir: pathlib.Path
  config: dict[str, Any]
  metrics: dict[str, list[tuple[int, float]]]
  settings: dict[str, dict[str, Any]]
  sessions: list[dict[str, Any]]
  usage: dict[str, Any]


def write(workdir) -> None:
  """Writes WORKDIR/report.html of a run."""
  run = read(workdir)
  page.write(run.workdir / PAGE, title(run),
             [page.heading(title(run), 1), *body(run)])


def read(workdir) -> Run:
  """Reads a workdir; what is not there yet is empty."""
  workdir = pathlib.Path(workdir)
  metrics, settings = {}, {}
  path = workdir / "metrics.jsonl"
  for line in path.read_text().splitlines() if path.exists() else ():
    values = json.loads(line)
    step, made_with = values.pop("step"), values.pop("settings", None)
    for name, value in values.items():
      metrics.setdefault(name, []).append((step, value))
      if made_with is not None:
        settings[name] = made_with
  return Run(workdir, _json(workdir / "config.json", {}), metrics, settings,
             _json(workdir / SESSIONS, []), _json(workdir / USAGE, {}))


def title(run: Run) -> str:
  task = run.config.get("task") or run.config.get("oracle", {}).get("task", "")
  stage = "Stage II" if run.config.get("oracle") else "Stage I"
  return f"{stage}: {task.replace('_', ' ')} on {run.config.get('dataset')}"


def body(run: Run) -> list[str]:
  """The page but for its title."""
  return [*_facts(run), *_alarms(run), *_scores(run), *_panels(run),
          *_curves(run), *_codebook(run), *_settings(run)]


def note_session(workdir: pathlib.Path, start_step: int,
                 total_steps: int) -> None:
  """Adds to sessions.json when, where and with what the run is started."""
  import jax
  path = pathlib.Path(workdir) / SESSIONS
  now = datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds")
  program = os.path.basename(sys.argv[0])
  kind = jax.devices()[0].device_kind
  session = {
      "started": now, "step": start_step, "total_steps": total_steps,
      "command": " ".join([program, *sys.argv[1:]]),
      "devices": f"{jax.device_count()} × {kind}",
      "processes": jax.process_count(), "python": platform.python_version(),
      "platform": platform.platform(),
      "versions": {name: version for name in _PACKAGES
                   if (version := _version(name))}}
  _write_json(path, [*_json(path, []), session][-_MAX_SESSIONS:])


def note_usage(workdir: pathlib.Path, step: int, usage_Q: np.ndarray) -> None:
  """Keeps how often each word was used, for the newest step only."""
  _write_json(pathlib.Path(workdir) / USAGE,
              {"step": step, "uses": np.asarray(usage_Q).tolist()})


# ── The parts of the page ───────────────────────────────────────────────────


def _facts(run):
  step = max((points[-1][0] for points in run.metrics.values()), default=0)
  total = (run.sessions[-1]["total_steps"] if run.sessions
           else run.config.get("total_steps") or "?")
  model = run.config.get("model", {})
  size = ", ".join(f"{k} {model[k]}" for k in (
      "width", "emb_dim", "num_layers", "oracle_depth", "base_model_depth",
      "code_len", "seq_len", "dict_size") if k in model)
  rows = [("step", f"{step} of {total}"), ("model", size),
          ("batch", f"{run.config.get('batch_size')} images"),
          ("workdir", str(run.workdir))]
  if run.sessions:
    last = run.sessions[-1]
    rows.append(("devices", last["devices"]))
    rows.append(("command", last["command"]))
  return [page.table(rows)]


def _alarms(run):
  parts = []
  for name, points in sorted(run.metrics.items()):
    if name.startswith("alarm/"):
      told = ", ".join(f"{plots.number(v)} at step {s}" for s, v in points[-5:])
      parts.append(page.paragraph(
          f"Alarm: {name.removeprefix('alarm/').replace('_', ' ')} ({told}). "
          "See docs/troubleshooting.md.", "alarm"))
  return parts


def _scores(run):
  """Newest scores: a table for each measure, a column for each evaluator."""
  parts = [page.heading("Scores")]
  for (kind, dataset, split), blocks in _groups(run).items():
    names = dict.fromkeys(  # Their common names, in the evaluator's order.
        name for block in blocks for name in _names(run, block))
    rows = [(name, *(_last(run, block["prefix"] + name) for block in blocks))
            for name in names]
    if rows:
      what = "losses" if kind == "mean" else kind
      parts += [page.paragraph(f"{what} on {dataset}, {split}", "faint"),
                page.table(rows, ("", *(b["name"] for b in blocks)),
                           numbers=True)]
  return parts if len(parts) > 1 else []


def _groups(run):
  """(evaluator, data set, split) → the blocks of config.evals; losses last."""
  groups = {}
  for block in sorted(run.config.get("evals", ()),
                      key=lambda block: block["type"] == "mean"):
    key = block["type"], block["dataset"], block["split"]
    groups.setdefault(key, []).append(block)
  return groups


def _names(run, block):
  """What an evaluator has reported, without its prefix."""
  others = [b["prefix"] for b in run.config["evals"]
            if len(b["prefix"]) > len(block["prefix"])]
  return [name.removeprefix(block["prefix"]) for name in run.settings
          if name.startswith(block["prefix"])
          and not name.startswith(("alarm/", *others))]


def _last(run, name):
  return plots.number(run.metrics[name][-1][1]) if name in run.metrics else ""


def _panels(run):
  """The newest pictures, and folded some of those before."""
  paths = sorted((run.workdir / "pictures").glob("panel_*.png"))
  if not paths:
    return []
  before = paths[:-1]
  kept = sorted({round(i * (len(before) - 1) / 3) for i in range(4)})
  caption = {path: f"step {int(path.stem.split('_')[-1])}" for path in paths}
  parts = [page.heading("Pictures of unseen examples"),
           page.picture(paths[-1], caption[paths[-1]])]
  if before:
    parts.append(page.folded("earlier", *(
        page.picture(before[i], caption[before[i]]) for i in kept)))
  return parts


def _curves(run):
  drawn = [_plot(run, "Loss", {"training": "train/loss", "unseen": "val/loss"})]
  for (_, _, split), blocks in _groups(run).items():
    names = [name for block in blocks for name in _names(run, block)]
    if not names or blocks[0]["type"] == "mean":  # Losses have plots below.
      continue
    drawn.append(_plot(run, f"{names[0]}, {split}", {
        block["name"]: block["prefix"] + names[0] for block in blocks}))
  drawn += _gaps(run)
  drawn += [_plot(run, "Bits per codeword", {
      "unseen": "val/bits_per_codeword"}), *_parts_of_loss(run),
            _plot(run, "Learning rate", {
                name.removeprefix("train/"): name for name in run.metrics
                if name.startswith("train/lr")}),
            _plot(run, "Gradient norm", {"norm": "train/grad_norm"})]
  rest = [name for name in run.metrics if name.startswith("train/")
          and not name.startswith((
              "train/loss", "train/lr", "train/grad_norm", "train/code/"))]
  drawn += [_plot(run, name, {name: name}) for name in rest]
  return [page.heading("Curves"), page.plots(filter(None, drawn))]


def _plot(run, name, series, **options):
  """A plot of those metrics that there are; None if there is none."""
  series = {label: run.metrics[metric] for label, metric in series.items()
            if metric in run.metrics}
  return plots.lines(name, series, **options) if series else None


def _gaps(run):
  """How far the language model's code is behind the oracle's."""
  for pair in alarms.pairs_of(run.config.get("evals", ())):
    names = [n for n in run.settings if n.startswith(pair.oracle)]
    name = names[0].removeprefix(pair.oracle) if names else ""
    lm = dict(run.metrics.get(pair.lm + name, ()))
    gap = [(step, abs(value - lm[step]))
           for step, value in run.metrics.get(pair.oracle + name, ())
           if step in lm]
    if gap:
      yield plots.lines(f"Oracle − LM, {name}", {"gap": gap})


def _parts_of_loss(run):
  parts = [name.removeprefix("train/") for name in run.metrics
           if name.startswith("train/loss_")]
  if len(parts) > 1:  # A single one is the loss itself.
    for part in parts:
      yield _plot(run, part, {"training": f"train/{part}",
                              "unseen": f"val/{part}"})


def _codebook(run):
  """All that is known of the words."""
  titles = {"usage": "Share of words in use", "perplexity": "Perplexity of use",
            "splits": "Words replaced in a step"}
  drawn = []
  for metric in run.metrics:
    if metric.startswith("train/code/"):
      name = metric.removeprefix("train/code/")
      drawn.append(_plot(run, titles.get(name, name), {name: metric},
                         y_range=(0, 1.05) if name == "usage" else None))
  uses = sorted(run.usage.get("uses", ()), reverse=True)
  if any(uses):
    total = sum(uses)
    drawn.append(plots.lines(
        f"Use of each word, step {run.usage['step']}",
        {"share of the code": [(i + 1, n / total)
                               for i, n in enumerate(uses)]},
        x_label="rank", log_y=True))
  if not drawn:
    return []
  return [page.heading("Codebook"), page.paragraph(
      "Use is counted from the beginning of an epoch. " + _life(run), "faint"),
          page.plots(drawn)]


def _life(run):
  """How long a word lives, by how many are replaced."""
  recent = [n for _, n in run.metrics.get("train/code/splits", ())[-10:]]
  if not recent:
    return ""
  rate = sum(recent) / len(recent)
  life = (f"one lives for {run.config['model']['dict_size'] / rate:,.0f} steps "
          "on average" if rate else "all live on")
  return f"Lately {rate:.3g} words were replaced in a step: {life}."


def _settings(run):
  rows = []
  for block in run.config.get("evals", ()):
    names = _names(run, block)
    if names:
      made_with = run.settings[block["prefix"] + names[0]]
      rows.append((block["name"], f"{block['dataset']}, {block['split']}",
                   block["pred"], ", ".join(
                       f"{k} {v}" for k, v in made_with.items()) or "–"))
  parts = [page.heading("Settings")]
  if rows:
    parts.append(page.table(
        rows, ("score", "data", "prediction", "made with")))
  parts.append(page.folded("config", page.as_json(run.config)))
  if run.sessions:
    parts.append(page.folded(
        f"versions; started {len(run.sessions)} ×", page.as_json(run.sessions)))
  return parts


# ── Files ───────────────────────────────────────────────────────────────────


def _json(path: pathlib.Path, absent: Any) -> Any:
  return json.loads(path.read_text()) if path.exists() else absent


def _write_json(path: pathlib.Path, value: Mapping | Sequence) -> None:
  new = path.with_suffix(".tmp")
  new.write_text(json.dumps(value))
  os.replace(new, path)


def _version(name: str) -> str | None:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None
