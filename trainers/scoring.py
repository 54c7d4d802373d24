"""Scores of a trained checkpoint: what a run's evaluators say of it."""

import dataclasses
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from evaluators import evaluator_class
from trainers import evaluation, preflight
from trainers.families import open_checkpoint
from trainers.families.base import Family
from trainers.families.compiled import Compiled
from uvim.config import EvalConfig, TrainConfig, from_json
from uvim.fields import check_value, fields_of
from uvim.learn import sharding
from uvim.registry import ConfigError, unknown
from uvim.store import open_model

Result = dict[str, Any]

# Fields of an evaluator's block that may be changed.
FIELDS = ("type", "dataset", "data_dir", "split", "pp", "batch_size", "pred")


def config_of(checkpoint: str) -> TrainConfig:
  """The config that a run left in its workdir.

  Raises:
    ConfigError: it has none.
  """
  fields = open_model.read_config(checkpoint)
  if not fields:
    raise ConfigError(f"--checkpoint {checkpoint} has no config.json; name the "
                      "config with --config configs/NAME.py.")
  return from_json(fields)


def check_places(
    checkpoint: str,
    config: TrainConfig,
    names: Sequence[str] | None,
    changes: Mapping[str, Any],
) -> None:
  """Refuses evaluators that would use a place which the user has not named.

  A checkpoint may come from a stranger. Whoever is asked for data learns that
  it is used, and by whom. What an option names may be overwritten or run; see
  `Evaluator.risks`.

  Args:
    checkpoint: the workdir that the config came with.
    config: what it says.
    names: of the evaluators to run; None: all.
    changes: what the user has named in place of it.

  Raises:
    ConfigError: shows how to name the place.
  """
  for block in choose(config, names):
    options = dict(block.options)
    places = {"dataset": block.dataset, "data_dir": block.data_dir, **options}
    evaluator = evaluator_class(changes.get("type", block.type))
    risks = evaluator.risks(options)
    for name, place in places.items():
      is_risk = name in risks or "://" in str(place)
      if is_risk and name not in changes:
        remedy = shlex.quote(f"{name}={place}")
        raise ConfigError(
            f"{checkpoint} names {place} as {name} of its evaluator "
            f"{block.name!r}, which is not used unless you name it yourself: "
            f"--set {remedy}.")


def score(
    checkpoint: str,
    config: TrainConfig,
    *,
    names: Sequence[str] | None = None,
    changes: Mapping[str, Any] | None = None,
    oracle: str | None = None,
) -> list[Result]:
  """Runs evaluators on a checkpoint.

  Args:
    checkpoint: a run's workdir, a `.npz`, an address or a published name.
    config: of its family.
    names: of `config.evals`; None: all.
    changes: what to change in every one of them: a field of FIELDS, an option
      of the prediction or of the evaluator.
    oracle: stage II: its stage I checkpoint, if not where the config says.

  Returns:
    Per evaluator: its name, type, data, metrics and every setting; and the
    "problem" that kept it from scoring, "" if there was none; and its
    "details" (categories, confusions, …), if it has any.

  Raises:
    ConfigError: as `trainers.families.open_checkpoint`; an unknown evaluator
      or option; no data.
  """
  blocks = choose(config, names)
  family, variables = open_checkpoint(checkpoint, config, oracle=oracle)
  # All devices along the batch; parameters are whole on each.
  mesh = sharding.make_mesh((("data", -1),))
  predict = Compiled(family)
  # All are built before the first runs, so that a mistake costs no time.
  evaluations = []
  for block in blocks:
    block = changed(block, changes or {}, _predict_options(family, block))
    evaluations.append(evaluation.make_evaluation(
        block, family, predict, mesh, pp_modules=config.pp_modules))
  preflight.check_evaluations(family, evaluations, config)
  variables = jax.device_put(variables, sharding.replicated(mesh))
  return [_run(item, variables) for item in evaluations]


def _predict_options(family: Family, block: EvalConfig) -> list[str]:
  """The names of the options of an evaluator's prediction."""
  # A wrong name is an error of `make_evaluation`, which knows the field.
  predictor = block.pred if block.pred in family.predictors else "predict"
  return list(family.options(predictor))


def choose(
    config: TrainConfig,
    names: Sequence[str] | None,
) -> list[EvalConfig]:
  """The evaluators of these names; all of them by default."""
  blocks = {block.name: block for block in config.evals}
  for name in names or ():
    if name not in blocks:
      raise unknown("evaluator (of this config)", name, blocks)
  return [blocks[name] for name in names or blocks]


def changed(
    block: EvalConfig,
    changes: Mapping[str, Any],
    predict_options: Sequence[str],
) -> EvalConfig:
  """An evaluator's block with other fields or options; see `score`."""
  fields = {}
  pred_kw = dict(block.pred_kw)
  options = dict(block.options)
  for name, value in changes.items():
    if name in FIELDS:
      check_value(fields_of(EvalConfig)[name], value, "--set")
      fields[name] = value
    elif name in predict_options:
      pred_kw[name] = value
    else:
      options[name] = value
  return dataclasses.replace(block, **fields, pred_kw=pred_kw, options=options)


def _run(item: evaluation.Evaluation, variables) -> Result:
  """Makes the pass of one evaluator and prints its metrics."""
  started = time.monotonic()
  scores = item.run(variables)
  metrics = {}
  for name, value in scores.metrics.items():
    full_name = item.config.prefix + name
    metrics[full_name] = value
    print(f"{full_name:40} {value:.6g}", flush=True)
  block = dataclasses.asdict(item.config)
  kept = {name: block[name] for name in ("name", *FIELDS)}
  seconds = time.monotonic() - started
  result = {
      "metrics": metrics,
      "problem": scores.problem,
      "settings": dict(item.settings),
      **kept,
      "seconds": round(seconds, 1),
  }
  if scores.details is not None:
    result["details"] = scores.details.content
  return result
