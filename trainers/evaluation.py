"""Evaluators bound to a stage: which data, which prediction, which measure."""

import dataclasses
import functools
import inspect
from collections.abc import Iterator
from typing import Any

import jax

import evaluators
from evaluators import common
from uvim.config import EvalConfig, TrainConfig
from uvim.learn import sharding
from uvim.registry import lookup, unknown


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """One evaluator of a run. `run(variables)` yields (name, float).

  Attributes:
    settings: every switch its numbers depend on, those left alone too.
    skipped: where `predictions` leave how many examples could not be read;
      None where such an example is an error.
  """

  config: EvalConfig
  evaluator: Any
  settings: dict[str, Any]
  skipped: list[int] | None = None

  def run(self, variables) -> Iterator[tuple[str, float]]:
    yield from self.evaluator.run(variables)
    if self.skipped is not None:
      yield "skipped", float(self.skipped[0])


def make_evaluations(config: TrainConfig, stage, mesh,
                     on_batch=None) -> list[Evaluation]:
  """Builds `config.evals`; every mistake in them is an error here."""
  return [make_evaluation(block, stage, mesh, config.pp_modules, on_batch,
                          config.on_bad_example)
          for block in config.evals]


def make_evaluation(config: EvalConfig, stage, mesh,
                    pp_modules=None, on_batch=None,
                    on_bad_example="error") -> Evaluation:
  """Builds one evaluator.

  Args:
    config: its block.
    stage: whose predictions it scores.
    mesh: where they are computed.
    pp_modules: names of op modules.
    on_batch: called before each batch of a pass; it may raise.
    on_bad_example: 'skip' leaves out what cannot be read and counts it.

  Raises:
    ConfigError: unknown evaluator, prediction or option; missing data; a
      mistake in the preprocessing string; a batch size that does not divide.
  """
  from pp import splits
  sharding.check_batch_size(
      config.batch_size, mesh, what=f"config.{config.name}.batch_size")
  fn = lookup(stage.predict_fns, config.pred,
              f"prediction in config.{config.name}.pred")
  known = prediction_options(fn, stage.task)
  for name in config.pred_kw:
    if name not in known:
      raise unknown(f"option in config.{config.name}.pred_kw", name, known)
  split = splits.open_split(config.dataset, config.split, config.data_dir)
  batches = split.eval_batches(
      split.make_preprocess(config.pp, pp_modules),
      batch_size=config.batch_size,
      process_index=jax.process_index(), process_count=jax.process_count(),
      on_bad_example=on_bad_example)
  skipped = [0]
  predictions = functools.partial(
      _predictions, stage.jitted(config.pred, **config.pred_kw),
      batches=batches, mesh=mesh, on_batch=on_batch, skipped=skipped)
  evaluator = evaluators.make_evaluator(
      config.type, predictions, split, **config.options)
  settings = {**_defaults(type(evaluator)), **config.options,
              **known, **config.pred_kw}
  return Evaluation(
      config, evaluator, {k: v for k, v in settings.items() if v is not None},
      skipped if on_bad_example == "skip" else None)


def _predictions(predict, variables, *, batches, mesh, on_batch, skipped):
  """Per-example host predictions of a whole split, in its order.

  None for an example that could not be read; `skipped` counts them.
  """
  skipped[0] = 0

  def put(batch):
    if on_batch is not None:
      on_batch()
    return sharding.shard_batch(batch, mesh)

  with jax.set_mesh(mesh):
    for example in common.predict_all(
        predict, variables, batches.start(), put=put):
      skipped[0] += example is None
      yield example


def prediction_options(fn, task) -> dict[str, Any]:
  """Option → default of a prediction function, those of `outputs` included."""
  passes_on = any(p.kind is p.VAR_KEYWORD
                  for p in inspect.signature(fn).parameters.values())
  return _defaults(fn) | (_defaults(task.outputs) if passes_on else {})


def _defaults(fn) -> dict[str, Any]:
  return {name: p.default for name, p in inspect.signature(fn)
          .parameters.items() if p.default is not p.empty}


def panel_batch(config: TrainConfig):
  """The first batch of the validation split, for the pictures; or None.

  The split the run never trains on, so that the pictures flatter nobody; the
  evaluators' batch size, so that both share their compiled programs.
  """
  from pp import splits
  if not (config.val_split and config.pp_eval):
    return None
  split = splits.open_split(config.dataset, config.val_split, config.data_dir)
  batches = split.eval_batches(
      split.make_preprocess(config.pp_eval, config.pp_modules),
      batch_size=config.batch_size, on_bad_example=config.on_bad_example,
      process_index=jax.process_index(), process_count=jax.process_count())
  batch = next(batches.start())
  for key in ("_mask", "_skipped"):
    batch.pop(key, None)
  # Without x64 JAX would cut the ids silently; 32 bits seed a sample well.
  batch["image/id"] = batch["image/id"].astype("uint32")
  return batch
