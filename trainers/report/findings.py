"""What a run's scores mean, in sentences, and what to do next.

Every finding follows from the files in the workdir. It says what is seen, and
what a person can do about it.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from trainers.report import (
  alarm_kinds,
  details_file,
  pairs,
  run_files,
  step_findings,
  watches,
)
from trainers.report.headlines import (
  NOTICEABLE,
  Finding,
  Score,
  is_better,
  main_evaluator,
  same_measure,
  score_of,
)
from trainers.report.run_files import Evaluator, Run

# UViM that comes so much of the way from no code to the oracle's code is not
# what limits the score.
_MOST_OF_THE_WAY = 0.6
# Stuff of more segments in an image than this is split.
_WHOLE = 1.3
# Things with a smaller share of the PQ of stuff are hardly found.
_HARDLY = 0.2
_MAX_NAMES = 8
PIX2SEQ_D = "pix2seq_d"


def of_run(run: Run) -> list[Finding]:
  """What to say of a run, the most important first."""
  kind = run_files.kind_of(run.config)
  if kind == "lm":
    found = _of_stage_ii(run)
  elif kind == PIX2SEQ_D:
    found = step_findings.of_run(run)
  else:
    found = _of_stage_i(run)
  evaluator = main_evaluator(run)
  if evaluator is not None:
    found += _of_details(run, evaluator)
  return found


# ── Which stage limits the score ────────────────────────────────────────────


def _of_stage_i(run: Run) -> list[Finding]:
  """What the oracle's code is worth."""
  for evaluator in run.evaluators:
    if evaluator["pred"] != pairs.NO_CODE:
      continue
    other = same_measure(run, evaluator, pairs.LM)
    without = score_of(run, evaluator["prefix"])
    score = other and score_of(run, other["prefix"])
    if not (score and without):
      continue
    both = f"{score.name} is {score} with the oracle's code, {without} without"
    distance = abs(score.value - without.value)
    is_as_good = distance < NOTICEABLE * abs(without.value)
    if is_as_good or is_better(without, score):
      return [Finding(
          f"The code is of no use yet: {both}.",
          "Train longer, and see that the codebook is in use (below).")]
    return [Finding(
        f"The code says something: {both}. Stage II can reach the first at "
        "best; a model that learned nothing from the code has the second.")]
  return []


def _of_stage_ii(run: Run) -> list[Finding]:
  """Whether the language model or the oracle's code limits the score."""
  lm = main_evaluator(run)
  if lm is None:
    return []
  score = score_of(run, lm["prefix"])
  found = _of_masked_words(run) + _of_temperature(run, lm)
  oracle = _score_beside(run, lm, pairs.ORACLE)
  without = _score_beside(run, lm, pairs.NO_CODE)
  if oracle is None or without is None:
    return [*found, Finding(
        "Nothing tells whether stage I or the language model limits the score: "
        "no evaluator scores the oracle's code and no code on the same data.",
        'Add one with pred = "oracle" and one with pred = "zero_code", of the '
        "same type, split and options.")]
  return [_limit(run, score, oracle, without), *found]


def _limit(run: Run, score: Score, oracle: Score, without: Score
           ) -> Finding:
  """UViM between no code and the oracle's code."""
  values = f"no code {without}, UViM {score}, the oracle's code {oracle}"
  if watches.is_below(score.name, score.value, without.value):
    return Finding(
        f"UViM is below no code ({score.name}: {values}). Its codes mislead "
        "the base model.", alarm_kinds.KINDS["below_no_code"].advice)
  if not is_better(oracle, without):
    return Finding(
        f"Even the oracle's code is of no use ({score.name}: {values}).",
        "Go back to stage I: train it longer, or change its code.")
  if not is_better(score, without):
    return Finding(
        f"UViM is no better than no code ({score.name}: {values}). One answer "
        "that fits may err more, pixel by pixel, than the mean of all that "
        "fit.", "Take the mean of several samples at temperature 1.")
  way = (score.value - without.value) / (oracle.value - without.value)
  if way < _MOST_OF_THE_WAY:
    return Finding(
        f"The language model is the bottleneck ({score.name}: {values}).",
        "More images or augmentation for stage II, a pretrained encoder, or a "
        "code that is easier to predict (shorter, fewer words).")
  return Finding(
      f"Stage I is the limit ({score.name}: {values}).",
      "Improve stage I: more steps, a longer code, smaller patches.")


def _of_masked_words(run: Run) -> list[Finding]:
  """Whether a masked prior has learned anything that unseen images share."""
  points = run.metrics.get("val/masked_nll")
  owner = run.config.get("oracle") or {}
  num_words = (owner.get("model") or {}).get("dict_size")
  if not points or not num_words:
    return []
  _, nats = points[-1]
  guess = math.log(num_words)
  if nats < (1 - NOTICEABLE) * guess:
    return []
  return [Finding(
      f"The prior guesses: a masked word of an unseen image costs {nats:.3g} "
      f"nats, an even guess among {num_words} words {guess:.3g}.",
      "More images or augmentation for stage II, a pretrained encoder, or a "
      "code that is easier to predict (shorter, fewer words).")]


def _of_temperature(run: Run, best: Evaluator) -> list[Finding]:
  """Whether sampling beats the likeliest words."""
  for evaluator in run.evaluators:
    other = score_of(run, evaluator["prefix"])
    is_other = evaluator["name"] != best["name"]
    if not is_other or not other or evaluator["pred"] != pairs.LM:
      continue
    score = score_of(run, best["prefix"])
    hot = _temperature(run, best, score)
    cold = _temperature(run, evaluator, other)
    is_sampled = hot is not None and cold == 0 and hot > 0
    if is_sampled and pairs.can_compare(evaluator, best):
      return [Finding(
          f"Sampling is better than the likeliest words: {score.name} is "
          f"{score} at temperature {hot:g}, {other} at 0.",
          f"Predict with --temperature {hot:g}.")]
  return []


def _temperature(run: Run, evaluator: Evaluator, score: Score
                 ) -> float | None:
  settings = run.settings.get(evaluator["prefix"] + score.name, {})
  return settings.get("temperature")


def _score_beside(run: Run, evaluator: Evaluator, pred: str) -> Score | None:
  other = same_measure(run, evaluator, pred)
  return score_of(run, other["prefix"]) if other else None


# ── What stands behind a PQ ─────────────────────────────────────────────────


def _of_details(run: Run, evaluator: Evaluator) -> list[Finding]:
  details = details_file.read(run.workdir, evaluator["name"])
  categories = details.get("categories", ())
  found = []
  if not evaluator["options"].get("merge_stuff"):
    found += _split_stuff(categories)
  found += _small_things(run, details.get("thing_share"))
  found += _missed_things(run, categories)
  found += _never_found(categories)
  return found


def _split_stuff(categories) -> list[Finding]:
  split = []
  for row in categories:
    if not row["isthing"] and row["pieces"] > _WHOLE:
      split.append(f"{row['name']} {row['pieces']:.1f}")
  if not split:
    return []
  return [Finding(
      f"Stuff is split into several segments ({_some(split)} in an image), and "
      "all but one of them count as false.",
      "Where a class of stuff is one segment, score with "
      "options.merge_stuff = True.")]


def _small_things(run: Run, thing_share: float | None) -> list[Finding]:
  """Whether a patch is larger than most things; shares in percent."""
  patch_share = _patch_share(run.config)
  if thing_share is None or patch_share is None or thing_share >= patch_share:
    return []
  return [Finding(
      f"Half of the things are smaller than a patch: {thing_share:.2g} % of "
      f"the image, a patch has {patch_share:.2g} %.",
      "Take smaller patches (model.patch_size) or larger labels "
      "(model.input_size) in stage I.")]


def _patch_share(config: Mapping[str, Any]) -> float | None:
  """A patch of the labels in percent of the image; None: nobody knows it."""
  owner = config.get("oracle") or config
  model = owner.get("model") or {}
  sizes = (model.get("patch_size"), model.get("input_size"))
  if not all(isinstance(size, list) and len(size) == 2 for size in sizes):
    return None
  patch, image = sizes
  return 100 * patch[0] * patch[1] / (image[0] * image[1])


def _missed_things(run: Run, categories) -> list[Finding]:
  """Whether things are hardly found where stuff is."""
  things = _mean_pq(categories, lambda row: row["isthing"])
  stuff = _mean_pq(categories, lambda row: not row["isthing"])
  if things is None or stuff is None or things >= _HARDLY * stuff:
    return []
  remedy = "smaller patches"
  if run_files.kind_of(run.config) == PIX2SEQ_D:
    remedy = "a larger mask (model.mask_size)"
  return [Finding(
      f"Things are hardly found: PQ {things:.3g}, stuff {stuff:.3g}.",
      f"Small things need {remedy}, rare ones more images. A lower "
      "pred_kw.min_fraction drops fewer.")]


def _mean_pq(categories, is_in: Callable[[Any], bool]) -> float | None:
  values = [row["pq"] for row in categories if is_in(row)]
  return sum(values) / len(values) if values else None


def _never_found(categories) -> list[Finding]:
  names = []
  for row in categories:
    is_there = row["fn"] > 0
    if is_there and row["tp"] == 0:
      names.append(row["name"])
  if not names:
    return []
  return [Finding(f"Never found: {_some(names)}.")]


def _some(texts: list[str]) -> str:
  """A list for a sentence, not too long."""
  shown = ", ".join(texts[:_MAX_NAMES])
  num_more = len(texts) - _MAX_NAMES
  return f"{shown} and {num_more} more" if num_more > 0 else shown


# ── The next step ───────────────────────────────────────────────────────────


def next_step(run: Run) -> str:
  """What to do with the run as it is, in one sentence."""
  if not run.metrics:
    return "The run has reported nothing yet."
  kind = run_files.kind_of(run.config)
  last_step = run_files.last_step(run)
  total_steps = run_files.total_steps(run)
  if isinstance(total_steps, int) and last_step < total_steps:
    return (f"The run is at step {last_step} of {total_steps}, so its scores "
            "are not final. The same command goes on from its last "
            "checkpoint.")
  if kind == "vqvae":
    return ("Train stage II: python -m trainers.lm --config CONFIG "
            f"--config.oracle.model_init={run.workdir} --workdir OTHER.")
  if kind in ("lm", PIX2SEQ_D):
    return ("See predictions for images of your own: python -m tools.predict "
            f"--checkpoint {run.workdir} --out OUT IMAGES.")
  return ("Train stage I on these features: its model_init may name "
          f"{run.workdir}.")
