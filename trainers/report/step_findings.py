"""How many steps the samples of a Pix2Seq-D run need."""

from typing import NamedTuple

from trainers.report import pairs
from trainers.report.headlines import (
  NOTICEABLE,
  Finding,
  Score,
  main_evaluator,
  score_of,
)
from trainers.report.run_files import Evaluator, Run
from uvim import fields


class _Sampled(NamedTuple):
  """The score of samples of so many steps."""
  num_steps: int
  score: Score


def of_run(run: Run) -> list[Finding]:
  """Whether samples find anything, and whether more steps find more."""
  best = main_evaluator(run)
  if best is None:
    return []
  score = score_of(run, best["prefix"])
  if score.name == "PQ" and score.value == 0:
    return [Finding(
        "No segment is found yet.",
        "Ids are learned last: see whether train/loss_instances falls. If it "
        "does not, raise model.input_scale: the smaller the mask, the less "
        "noise its bits can bear.")]
  sampled = _scores_by_steps(run, best)
  if len(sampled) < 2:
    return []
  texts = [f"{one.score} at {one.num_steps}" for one in sampled]
  values = f"{score.name} is {', '.join(texts)}"
  # The fewest steps whose score no more steps beat.
  as_good = [one for one in sampled if _is_as_good(one.score, score)]
  enough = as_good[0] if as_good else sampled[-1]
  if enough is sampled[-1]:
    return [Finding(
        f"More steps are better: {values}.",
        f"Score still more: python -m tools.evaluate --checkpoint {run.workdir}"
        f" --evaluator {best['name']} --set num_steps=50 --out OUT.json.")]
  return [Finding(
      f"{enough.num_steps} steps are enough: {values}.",
      f"Predict with --num_steps {enough.num_steps}.")]


def _is_as_good(score: Score, best: Score) -> bool:
  return abs(best.value - score.value) <= NOTICEABLE * abs(best.value)


def _scores_by_steps(run: Run, best: Evaluator) -> list[_Sampled]:
  """The scores of evaluators that differ from the best in their steps, rising.

  That one is among them.
  """
  sampled = []
  for evaluator in run.evaluators:
    is_best = evaluator["name"] == best["name"]
    is_like_best = is_best or pairs.can_compare(evaluator, best)
    score = score_of(run, evaluator["prefix"])
    if evaluator["pred"] != pairs.LM or not is_like_best or score is None:
      continue
    settings = run.settings.get(evaluator["prefix"] + score.name, {})
    num_steps = settings.get("num_steps")
    if fields.is_integer(num_steps):
      sampled.append(_Sampled(num_steps, score))
  return sorted(sampled, key=lambda one: one.num_steps)
