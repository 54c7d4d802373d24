"""report.html of a run: scores, images, curves and settings in one file.

It follows from the files in the workdir alone, so it can be made again at any
time: `python -m tools.report WORKDIR`. It opens offline.
"""

import os
import pathlib

from trainers.report import (
  alarm_kinds,
  alarms,
  class_tables,
  findings,
  glossary,
  plots,
  run_curves,
  run_files,
)
from trainers.report.html_page import (
  as_json,
  figure,
  folded,
  heading,
  paragraph,
  plot_grid,
  table,
  write_html,
)
from trainers.report.run_files import Evaluator, EvaluatorGroup, Run

PAGE = "report.html"
# What a person calls the families of models; others go by their own name.
_STAGES = {
    "vqvae": "Stage I",
    "lm": "Stage II",
    "mae": "MAE",
    "dino": "DINO",
    "pix2seq_d": "Pix2Seq-D",
}
_SIZES = ("width", "emb_dim", "depth", "num_layers", "oracle_depth",
          "base_model_depth", "code_len", "seq_len", "dict_size", "mask_size",
          "num_bits", "input_scale", "encoder_dim", "decoder_dim")
_MAX_TIMES = 5  # How often an alarm is quoted.
_MAX_EARLIER = 4  # Panels before the newest.
_RECENT = 10  # Reports.


def write_page(workdir: str | os.PathLike,
               history: run_files.History | None = None) -> None:
  """Writes WORKDIR/report.html of a run; arguments of `run_files.read_run`."""
  run = run_files.read_run(workdir, history)
  write_html(run.workdir / PAGE, title(run), body(run))


def title(run: Run) -> str:
  """The stage, the task and the data set, as text."""
  oracle = run.config.get("oracle") or {}
  kind = run_files.kind_of(run.config)
  stage = _STAGES.get(kind, kind)
  # A family that learns from images alone has no task.
  task = run.config.get("task") or oracle.get("task", "images")
  task_words = task.replace("_", " ")
  return f"{stage}: {task_words} on {run.config.get('dataset')}"


def body(run: Run) -> list[str]:
  """All parts of the page as HTML, the title first."""
  parts = [heading(title(run), 1)]
  # The order of the page: what one looks for first stands first.
  for make_part in (_facts, _findings, _scores, class_tables.parts, _panels,
                    _curves, _codebook, _settings):
    parts += make_part(run)
  return parts


def _facts(run: Run) -> list[str]:
  """How far the run is, how large, and where it runs."""
  model = run.config.get("model") or {}
  sizes = [f"{name} {model[name]}" for name in _SIZES if name in model]
  progress = f"{run_files.last_step(run)} of {run_files.total_steps(run)}"
  batch = f"{run.config.get('batch_size')} images"
  rows = [("step", progress), ("model", ", ".join(sizes)), ("batch", batch),
          ("workdir", str(run.workdir))]
  if run.sessions:
    session = run.sessions[-1]
    # The newest session: a resumed run may be on another machine.
    rows.append(("devices", session.get("devices", "?")))
    rows.append(("command", session.get("command", "?")))
  return [table(rows)]


def _findings(run: Run) -> list[str]:
  """What the run says, in words: alarms, failures, findings, the next step."""
  parts = [heading("What it says"), *_alarms(run), *_failures(run)]
  for finding in findings.of_run(run):
    text = f"{finding.seen} {finding.advice}".strip()
    parts.append(paragraph(text, "finding"))
  parts.append(paragraph(findings.next_step(run), "finding"))
  return parts


def _alarms(run: Run) -> list[str]:
  """What the run has warned of, the newest figures, and what to do."""
  parts = []
  for name, points in alarms.points_of_run(run.metrics).items():
    times = [f"{plots.number(value)} at step {step}"
             for step, value in points[-_MAX_TIMES:]]
    sentences = [f"Alarm: {alarms.title_of(name)} ({', '.join(times)}).",
                 alarm_kinds.advice_of(name, run.config),
                 "See docs/troubleshooting.md."]
    text = " ".join(filter(None, sentences))
    parts.append(paragraph(text, "alarm"))
  return parts


def _failures(run: Run) -> list[str]:
  """Which evaluators could not score, the last time that each failed."""
  parts = []
  for metric, points in sorted(run.metrics.items()):
    if not metric.startswith(run_files.FAILED):
      continue
    name = metric.removeprefix(run_files.FAILED)
    step, _ = points[-1]
    reason = run.settings.get(metric, {}).get("failed", "?")
    text = f"{name} could not score at step {step}: {reason}"
    parts.append(paragraph(text, "alarm"))
  return parts


def _scores(run: Run) -> list[str]:
  """The newest scores: a table for each measure."""
  parts = []
  for group in run.evaluator_groups():
    names = run.score_names(*group.evaluators)
    if names:
      measure = "losses" if group.kind == "mean" else group.kind
      caption = f"{measure} on {group.dataset}, {group.split}"
      parts.append(paragraph(caption, "faint"))
      parts.append(_score_table(run, group, names))
  if parts:
    # No heading without a table.
    parts.insert(0, heading("Scores"))
    parts.append(folded("what the names mean", table(glossary.of_run(run))))
  return parts


def _score_table(run: Run, group: EvaluatorGroup, names: list[str]) -> str:
  """A row for each score, a column for each evaluator."""
  header = [""]
  for evaluator in group.evaluators:
    header.append(evaluator["name"])
  rows = []
  for name in names:
    row = [name]
    for evaluator in group.evaluators:
      row.append(_newest(run, evaluator["prefix"] + name))
    rows.append(row)
  return table(rows, header, numbers=True)


def _newest(run: Run, metric: str) -> str:
  """The last value of a metric as text; empty if there is none."""
  if metric not in run.metrics:
    return ""
  _, value = run.metrics[metric][-1]
  return plots.number(value)


def _panels(run: Run) -> list[str]:
  """The newest panel; some of the earlier ones, folded away."""
  folder = run.workdir / run_files.IMAGES
  paths = sorted(folder.glob("panel_*.png"))
  if not paths:
    return []
  # Their names end with the step, so the order of names is that of steps.
  *earlier, newest = paths
  parts = [heading("Images of unseen examples"), _panel(newest)]
  if earlier:
    shown = [_panel(path) for path in _spread(earlier, _MAX_EARLIER)]
    parts.append(folded("earlier", *shown))
  return parts


def _panel(path: pathlib.Path) -> str:
  step = int(path.stem.removeprefix("panel_"))
  return figure(path, f"step {step}")


def _spread(items: list, count: int) -> list:
  """At most `count` items at equal distances, first and last included."""
  distance = (len(items) - 1) / (count - 1)
  chosen = []
  for position in range(count):
    item = items[round(position * distance)]
    # Rounding may choose one twice if there are few.
    if item not in chosen:
      chosen.append(item)
  return chosen


def _curves(run: Run) -> list[str]:
  drawn = run_curves.curves(run)
  return [heading("Curves"), plot_grid(drawn)]


def _codebook(run: Run) -> list[str]:
  """How the words are used; nothing if the run has no codebook."""
  drawn = run_curves.codebook_curves(run)
  if not drawn:
    return []
  note = "Use is counted from the beginning of an epoch. " + _life(run)
  return [heading("Codebook"), paragraph(note, "faint"),
          plot_grid(drawn)]


def _life(run: Run) -> str:
  """How long a word lives, by how many are replaced."""
  # Each split of a much used word replaces a dead one.
  splits = run.metrics.get("train/code/splits", ())
  recent = [count for _, count in splits[-_RECENT:]]
  if not recent:
    return ""
  rate = sum(recent) / len(recent)
  model = run.config.get("model") or {}
  dict_size = model.get("dict_size")
  if dict_size is None:
    return ""
  if rate:
    # If 2 of 100 words are replaced in a step, a word lives for 50 steps.
    steps = dict_size / rate
    life = f"one lives for {steps:,.0f} steps on average"
  else:
    life = "all live on"
  return f"Lately {rate:.3g} words were replaced in a step: {life}."


def _settings(run: Run) -> list[str]:
  """What the scores were made with, the config, and the versions."""
  rows = []
  for evaluator in run.evaluators:
    names = run.score_names(evaluator)
    if names:
      rows.append(_settings_row(run, evaluator, names[0]))
  parts = [heading("Settings")]
  if rows:
    header = ("score", "data", "prediction", "made with")
    parts.append(table(rows, header))
  parts.append(folded("config", as_json(run.config)))
  if run.sessions:
    summary = f"versions; started {len(run.sessions)} ×"
    parts.append(folded(summary, as_json(run.sessions)))
  return parts


def _settings_row(run: Run, evaluator: Evaluator, name: str) -> list[str]:
  settings = run.settings[evaluator["prefix"] + name]
  made_with = [f"{key} {value}" for key, value in settings.items()]
  data = f"{evaluator['dataset']}, {evaluator['split']}"
  return [evaluator["name"], data, evaluator["pred"],
          ", ".join(made_with) or "–"]
