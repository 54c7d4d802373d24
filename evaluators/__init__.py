"""The evaluators by name. A module is imported when its class is needed."""

import importlib
from collections.abc import Mapping
from typing import Any

from evaluators.base import Evaluator
from uvim import fields, registry

# The values are paths, not classes: some of these modules import heavy
# libraries. The published configs use the second name of an evaluator.
EVALUATORS = {
    "coco_panoptic": "evaluators.coco_panoptic.CocoPanoptic",
    "proj.uvim.coco_panoptic": "evaluators.coco_panoptic.CocoPanoptic",
    "coltran_fid": "evaluators.coltran_fid.ColtranFid",
    "proj.uvim.coltran_fid": "evaluators.coltran_fid.ColtranFid",
    "davis": "evaluators.davis.Davis",
    "depth_samples": "evaluators.depth_samples.DepthSamples",
    "mean": "evaluators.mean.Mean",
    "proj.uvim.compute_mean": "evaluators.mean.Mean",
    "normals": "evaluators.normals.Normals",
    "nyu_depth": "evaluators.nyu_depth.NyuDepth",
    "proj.uvim.nyu_depth": "evaluators.nyu_depth.NyuDepth",
    "psnr": "evaluators.psnr.Psnr",
    "proj.uvim.psnr": "evaluators.psnr.Psnr",
    "stq": "evaluators.stq.Stq",
    "save_predictions": "evaluators.save_predictions.SavePredictions",
    "proj.uvim.save_predictions": "evaluators.save_predictions.SavePredictions",
}

# The score that an evaluator is judged by → whether more of it is better.
HEADLINES = {
    "PQ": True,
    "JF": True,
    "STQ": True,
    "RMSE": False,
    "energy": False,
    "PSNR": True,
    "FID": False,
    "FID_5k": False,
    "mean_angle": False,
}


def evaluator_class(name: str) -> type[Evaluator]:
  """The class that a key of EVALUATORS stands for.

  Raises:
    ConfigError: there is no such key.
  """
  path = registry.lookup(EVALUATORS, name, "evaluator")
  module_name, _, class_name = path.rpartition(".")
  return getattr(importlib.import_module(module_name), class_name)


def make_evaluator(name: str, split: Any,
                   options: Mapping[str, Any] | None = None,
                   where: str = "") -> Evaluator:
  """Builds an evaluator.

  Args:
    name: a key of EVALUATORS, as a block of `config.evals` gives it.
    split: the examples it scores; see `base.Evaluator.split`.
    options: its options.
    where: path of `options` in the config, for messages.

  Raises:
    ConfigError: an unknown evaluator or option, or a value that is not
      allowed.
  """
  # Check the options here, so that a mistake is a ConfigError that names its
  # place in the config.
  cls = evaluator_class(name)
  options = options or {}
  fields.check_fields(
      fields.options_of(cls), options, where or f"{name}.options")
  return cls(split, **options)
