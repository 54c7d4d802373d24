"""The predictors of a family, compiled."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from trainers.families.base import Family
from uvim import fields


class Compiled:
  """The predictors of a family, each compiled once for its options."""

  def __init__(self, family: Family):
    self._family = family
    self._programs: dict[Any, Callable] = {}

  def __call__(self, name: str, **options: Any) -> Callable:
    """The compiled function (variables, batch) → dict of [B, …].

    Args:
      name: a key of `Family.predictors`.
      **options: Python values that are built into the program; but for
        `seed`, which is passed to it: another seed is no other program.
    """
    traced = {}
    if "seed" in options:
      traced["seed"] = np.uint32(options.pop("seed"))
    # A key of the dict must hash, and must not depend on the order.
    static = [(key, fields.hashable(value)) for key, value in options.items()]
    program_key = (name, tuple(sorted(static)))
    if program_key not in self._programs:
      predictor = self._family.predictors[name]
      function = functools.partial(predictor, **options)
      self._programs[program_key] = self._family.compile(name, function)
    return functools.partial(self._programs[program_key], **traced)

  def scored(self, name: str) -> dict[str, Any]:
    """The options of the first evaluator of this predictor.

    For panels: they then show what is scored, and compile nothing new.
    """
    for block in self._family.config.evals:
      if block.pred == name:
        return dict(block.pred_kw)
    return {}
