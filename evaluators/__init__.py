"""The evaluators by name. Loaded when asked for, with all they import."""

import inspect
from typing import Any

from uvim import registry


def _coco_panoptic():
  from evaluators import coco_panoptic
  return coco_panoptic.Evaluator


def _coltran_fid():
  from evaluators import coltran_fid
  return coltran_fid.Evaluator


def _mean():
  from evaluators import mean
  return mean.Evaluator


def _normals():
  from evaluators import normals
  return normals.Evaluator


def _nyu_depth():
  from evaluators import nyu_depth
  return nyu_depth.Evaluator


def _psnr():
  from evaluators import psnr
  return psnr.Evaluator


def _save_predictions():
  from evaluators import save_predictions
  return save_predictions.Evaluator


# The second spelling of each is the released code's own.
EVALUATORS = {
    "coco_panoptic": _coco_panoptic,
    "proj.uvim.coco_panoptic": _coco_panoptic,
    "coltran_fid": _coltran_fid,
    "proj.uvim.coltran_fid": _coltran_fid,
    "mean": _mean,
    "proj.uvim.compute_mean": _mean,
    "normals": _normals,
    "nyu_depth": _nyu_depth,
    "proj.uvim.nyu_depth": _nyu_depth,
    "psnr": _psnr,
    "proj.uvim.psnr": _psnr,
    "save_predictions": _save_predictions,
    "proj.uvim.save_predictions": _save_predictions,
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
