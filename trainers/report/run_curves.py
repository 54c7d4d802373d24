"""The plots on a run's page: which metrics they show, and in which order."""

from collections.abc import Iterator, Mapping
from typing import Any

from trainers.report import pairs, plots
from trainers.report.run_files import Run

_CODE = "train/code/"
_CODE_TITLES = {
    "usage": "Share of words in use",
    "perplexity": "Perplexity of use",
    "splits": "Words replaced in a step",
}
# Training metrics that have a plot of their own, by the beginning of the name.
_PLOTTED = ("train/loss", "train/lr", "train/grad_norm", "train/masked_nll",
            _CODE)


def curves(run: Run) -> list[str]:
  """SVG plots of losses, scores and the other training metrics."""
  losses = {"training": "train/loss", "unseen": "val/loss"}
  bits = {"unseen": "val/bits_per_codeword"}
  # Of a masked prior. Unlike its losses, the two can be compared: training
  # smooths the labels, and an evaluation does not.
  masked_nll = {"training": "train/masked_nll", "unseen": "val/masked_nll"}
  drawn = [
      _plot(run, "Loss", losses),
      *_score_plots(run),
      *_gap_plots(run),
      _plot(run, "Bits per codeword", bits),
      _plot(run, "Nats per masked word", masked_nll),
      *_plots_of_loss_parts(run),
      _plot(run, "Learning rate", _learning_rates(run)),
      _plot(run, "Gradient norm", {"norm": "train/grad_norm"}),
      *_plots_of_other_metrics(run)]
  # A run reports only some of these metrics.
  return [plot for plot in drawn if plot is not None]


def codebook_curves(run: Run) -> list[str]:
  """SVG plots of how the run uses its words."""
  drawn = []
  for metric, points in run.metrics.items():
    if metric.startswith(_CODE):
      name = metric.removeprefix(_CODE)
      title = _CODE_TITLES.get(name, name)
      # A share of the codebook is read against all of it.
      y_range = (0, 1.05) if name == "usage" else None
      drawn.append(plots.lines(title, {name: points}, y_range=y_range))
  if any(run.usage.get("uses", ())):
    drawn.append(_plot_of_each_word(run))
  return drawn


def _plot_of_each_word(run: Run) -> str:
  """The share of each word in the code, the most used word first."""
  # Words have no order of their own, so the most used one comes first.
  uses = sorted(run.usage["uses"], reverse=True)
  total = sum(uses)
  shares = []
  for rank, count in enumerate(uses, start=1):
    shares.append((rank, count / total))
  title = f"Use of each word, step {run.usage['step']}"
  return plots.lines(
      title, {"share of the code": shares}, x_label="rank", log_y=True)


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
  for group in run.evaluator_groups():
    names = run.score_names(*group.evaluators)
    # Losses have plots of their own.
    if not names or group.kind == "mean":
      continue
    # The other scores stand in the tables.
    score = names[0]
    metrics = {}
    for evaluator in group.evaluators:
      metrics[evaluator["name"]] = evaluator["prefix"] + score
    yield _plot(run, f"{score}, {group.split}", metrics)


def _gap_plots(run: Run) -> Iterator[str]:
  """How far the language model's code is behind the oracle's."""
  for pair in pairs.pairs_of(run.evaluators, pairs.ORACLE):
    score = _first_score(run, pair.other)
    oracle_points = run.metrics.get(pair.other + score, ())
    # Step → score. A gap needs both scores of one step.
    lm_values = dict(run.metrics.get(pair.lm + score, ()))
    gaps = []
    for step, value in oracle_points:
      if step in lm_values:
        gaps.append((step, abs(value - lm_values[step])))
    if gaps:
      yield plots.lines(f"Oracle − LM, {score}", {"gap": gaps})


def _first_score(run: Run, prefix: str) -> str:
  """The first score with this prefix, without it; empty if there is none."""
  for metric in run.settings:
    if metric.startswith(prefix):
      return metric.removeprefix(prefix)
  return ""


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


def _plots_of_other_metrics(run: Run) -> Iterator[str | None]:
  for metric in run.metrics:
    # All that is left, so that a new metric shows without a change here.
    if metric.startswith("train/") and not metric.startswith(_PLOTTED):
      yield _plot(run, metric, {metric: metric})
