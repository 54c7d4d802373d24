"""The evaluators by name. Loaded when asked for, with all they import."""

import inspect
from typing import Any

from uvim import registry


def _coco_panoptic():
  from evaluators import coco_panoptic
  return coco_panoptic.Evaluator


def _mean():
  from evaluators import mean
  return mean.Evaluator


# The second spelling of each is the released code's own.
EVALUATORS = {
    "coco_panoptic": _coco_panoptic,
    "proj.uvim.coco_panoptic": _coco_panoptic,
    "mean": _mean,
    "proj.uvim.compute_mean": _mean,
}


def make_evaluator(name: str, predictions: Any, source: Any,
                   **options: Any) -> Any:
  """Builds an evaluator; its `run(variables)` yields (metric, float).

  Args:
    name: a key of EVALUATORS, as `config.evals` gives it.
    predictions: function of variables, giving an iterator over examples as
      `evaluators.common.predict_all` makes it.
    source: the split's examples, for the truth (`pp.sources.Source`).
    **options: the keyword-only arguments of that evaluator.

  Raises:
    ConfigError: an unknown evaluator or option.
  """
  cls = registry.lookup(EVALUATORS, name, "evaluator")()
  allowed = [p.name for p in inspect.signature(cls).parameters.values()
             if p.kind is p.KEYWORD_ONLY]
  for option in options:
    if option not in allowed:
      raise registry.unknown(f"option of evaluator {name!r}", option, allowed)
  return cls(predictions, source, **options)
