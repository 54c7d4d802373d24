"""The plots on a run's page: which metrics they show, and in which order."""

from collections.abc import Iterator, Mapping
from typing import Any

from trainers.report import alarms, plots
from trainers.report.run_files import Run

_CODE = "train/code/"
_CODE_TITLES = {
    "usage": "Share of words in use",
    "perplexity": "Perplexity of use",
    "splits": "Words replaced in a step",
}
# Training metrics that have a plot of their own, by the beginning of the name.
_PLOTTED = ("train/loss", "train/lr", "train/grad_norm", _CODE)


def curves(run: Run) -> list[str]:
  """SVG plots of losses, scores and the other training metrics."""
  drawn = [_plot(run, "Loss", {"training": "train/loss", "unseen": "val/loss"})]
  drawn += _score_plots(run)
  drawn += _gap_plots(run)
  drawn.append(
      _plot(run, "Bits per codeword", {"unseen": "val/bits_per_codeword"}))
  drawn += _plots_of_loss_parts(run)
  drawn.append(_plot(run, "Learning rate", _learning_rates(run)))
  drawn.append(_plot(run, "Gradient norm", {"norm": "train/grad_norm"}))
  for name in run.metrics:
    if name.startswith("train/") and not name.startswith(_PLOTTED):
      drawn.append(_plot(run, name, {name: name}))
  return [plot for plot in drawn if plot is not None]


def codebook_curves(run: Run) -> list[str]:
  """SVG plots of how the run uses its words."""
  drawn = []
  for metric in run.metrics:
    if metric.startswith(_CODE):
      name = metric.removeprefix(_CODE)
      title = _CODE_TITLES.get(name, name)
      y_range = (0, 1.05) if name == "usage" else None
      drawn.append(_plot(run, title, {name: metric}, y_range=y_range))
  uses = sorted(run.usage.get("uses", ()), reverse=True)
  total = sum(uses)
  if total:
    shares = [(rank, count / total) for rank, count in enumerate(uses, 1)]
    title = f"Use of each word, step {run.usage['step']}"
    drawn.append(plots.lines(
        title, {"share of the code": shares}, x_label="rank", log_y=True))
  return drawn


def _plot(run: Run, title: str, names: Mapping[str, str],
          **options: Any) -> str | None:
  """A plot of those metrics that exist; None if there is none.

  Args:
    run: which.
    title: of the plot.
    names: label → metric.
    **options: of `plots.lines`.
  """
  series = {}
  for label, metric in names.items():
    if metric in run.metrics:
      series[label] = run.metrics[metric]
  if not series:
    return None
  return plots.lines(title, series, **options)


def _score_plots(run: Run) -> Iterator[str | None]:
  """For each measure its first score, with a curve for each evaluator."""
  for (kind, _, split), evaluators in run.evaluator_groups().items():
    names = []
    for evaluator in evaluators:
      names += run.score_names(evaluator)
    # Losses have plots of their own.
    if not names or kind == "mean":
      continue
    first = names[0]
    metrics = {item["name"]: item["prefix"] + first for item in evaluators}
    yield _plot(run, f"{first}, {split}", metrics)


def _gap_plots(run: Run) -> Iterator[str]:
  """How far the language model's code is behind the oracle's."""
  for pair in alarms.pairs_of(run.evaluators):
    score = ""
    for name in run.settings:
      if name.startswith(pair.oracle):
        score = name.removeprefix(pair.oracle)
        break
    lm_scores = dict(run.metrics.get(pair.lm + score, ()))
    gaps = []
    for step, value in run.metrics.get(pair.oracle + score, ()):
      if step in lm_scores:
        gaps.append((step, abs(value - lm_scores[step])))
    if gaps:
      yield plots.lines(f"Oracle − LM, {score}", {"gap": gaps})


def _plots_of_loss_parts(run: Run) -> Iterator[str | None]:
  parts = []
  for name in run.metrics:
    if name.startswith("train/loss_"):
      parts.append(name.removeprefix("train/"))
  if len(parts) < 2:  # A single part is the loss itself.
    return
  for part in parts:
    names = {"training": f"train/{part}", "unseen": f"val/{part}"}
    yield _plot(run, part, names)


def _learning_rates(run: Run) -> dict[str, str]:
  """Label → metric, of each group of parameters with its own schedule."""
  names = {}
  for metric in run.metrics:
    if metric.startswith("train/lr"):
      names[metric.removeprefix("train/")] = metric
  return names
