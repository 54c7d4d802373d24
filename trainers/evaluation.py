"""Evaluators bound to a family: which data, which prediction, which measure."""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

import evaluators
from evaluators import base, common
from trainers.families.base import CODE, PASSES, Family
from trainers.families.compiled import Compiled
from trainers.report import run_files
from trainers.trouble import Trouble
from uvim import fields, progress
from uvim.config import EvalConfig, TrainConfig
from uvim.learn import sharding
from uvim.registry import lookup

Options = Mapping[str, fields.Field]


@dataclasses.dataclass(frozen=True)
class Scores:
  """What a pass found.

  Attributes:
    metrics: name → finite number.
    problem: what the evaluator could not do, in one line; "" if nothing.
    details: what a report shows besides; None: nothing.
  """
  metrics: dict[str, float]
  problem: str = ""
  details: base.Details | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """One evaluator of a run; `run` makes one pass over its split.

  Attributes:
    config: its block of `config.evals`.
    evaluator: what scores the predictions.
    settings: every switch its numbers depend on, those left alone too.
    predict: the compiled prediction, (variables, batch) → dict of [B, …]. The
      codes in it are not scored; how many words they hold is reported, and how
      many words a pass of the prior drew.
    start_batches: begins a pass over this process's share of the batches.
    mesh: of the run. Predictions are computed there, and on a spare device.
    on_batch: is called before each batch; it may raise.
    reports_skipped: whether the metrics count the examples that could not be
      read; otherwise such an example is an error.
    has_features: whether the batches bring the features of their images, so
      that the image encoder does not run.
    label: stands before the progress bar; "": none is drawn.
  """

  config: EvalConfig
  evaluator: base.Evaluator
  settings: Mapping[str, Any]
  predict: Callable[[Any, Any], Mapping[str, jax.Array]]
  start_batches: Callable[[], Iterator[common.Batch]]
  mesh: jax.sharding.Mesh
  on_batch: Callable[[], None] | None = None
  reports_skipped: bool = False
  has_features: bool = False
  label: str = ""

  def run(self, variables: Any) -> "Scores":
    """Makes one pass. An evaluator that fails ends neither this nor the run.

    Args:
      variables: of the family, on the mesh.

    Raises:
      Exception: what concerns more than this evaluator; see `trouble.ends_run`.
    """
    mesh, variables = sharding.spread_predictions(
        self.mesh, variables, self.config.batch_size)
    put = functools.partial(self._put, mesh)
    trouble = Trouble()
    batches = trouble.until_any_process_fails(self.start_batches)
    predictions = common.predict_all(
        self.predict, variables, batches, put=put)
    count = _WordCount()
    predictions = count.take_codes(predictions)
    metrics = {}
    details = None
    # Here and not in `predict_all`: a generator that is left half-way would
    # leave the mesh set.
    with jax.set_mesh(mesh):
      with trouble.noted():
        outcome = base.run_pass(self.evaluator, self._shown(predictions))
        metrics = self.evaluator.result(outcome.state)
        metrics |= count.metrics()
        if self.reports_skipped:
          metrics["skipped"] = float(outcome.num_skipped)
        details = self.evaluator.details(outcome.state)
      # The other processes wait for this one's share of the next batch, where
      # they hear of the failure. Nothing is left of a pass that was complete.
      with trouble.noted():
        collections.deque(predictions, maxlen=0)
    scores = _finite_scores(metrics, trouble.agree())
    return dataclasses.replace(scores, details=details)

  def _shown(self, predictions: common.Predictions) -> common.Predictions:
    """The predictions, with a bar that tells how many have passed."""
    if jax.process_index() or not self.label:
      return predictions
    return progress.bar(
        predictions, total=self.evaluator.split.num_examples,
        label=self.label, unit="images", stays=False)

  def _put(
      self, mesh: jax.sharding.Mesh, batch: common.Batch
  ) -> dict[str, jax.Array]:
    """Brings a batch to the devices."""
    if self.on_batch is not None:
      self.on_batch()
    return sharding.shard_batch(batch, mesh)


class _WordCount:
  """Counts words of the codes, as predictions pass by."""

  def __init__(self):
    self._num_codes = 0
    # Different words of each code, together.
    self._num_words = 0
    # Of codes whose passes were counted.
    self._num_drawn = 0
    self._num_passes = 0

  def take_codes(
      self,
      predictions: Iterator[common.Arrays | None],
  ) -> Iterator[common.Arrays | None]:
    """The predictions without their codes, which evaluators do not know.

    Args:
      predictions: of single examples, some with a 'code' [L, …]: words where
        it is of integers; some with 'passes' besides. None stands for an
        example that was skipped.
    """
    for prediction in predictions:
      if prediction is not None:
        code = prediction.pop(CODE, None)
        self._add(code, prediction.pop(PASSES, None))
      yield prediction

  def _add(self, code: np.ndarray | None, passes: np.ndarray | None) -> None:
    # A code of real numbers has no words.
    if code is None or not np.issubdtype(code.dtype, np.integer):
      return
    # Where a place has several words, they count as one.
    different = np.unique(code, axis=0)
    self._num_codes += 1
    self._num_words += len(different)
    if passes is not None:
      self._num_drawn += code.size
      self._num_passes += int(passes)

  def metrics(self) -> dict[str, float]:
    """Means over codes, and over passes; nothing where there were none."""
    metrics = {}
    if self._num_codes:
      metrics[run_files.WORDS_PER_CODE] = self._num_words / self._num_codes
    if self._num_passes:
      metrics[run_files.WORDS_PER_PASS] = self._num_drawn / self._num_passes
    return metrics


def _finite_scores(metrics: Mapping[str, float], problem: str) -> Scores:
  """Leaves out what is no number: no chart and no JSON can hold it."""
  finite = {}
  others = []
  for name, value in metrics.items():
    if np.isfinite(value):
      finite[name] = value
    else:
      others.append(f"{name} is {value}")
  return Scores(finite, problem or ", ".join(others))


# ── Which evaluators have to run ────────────────────────────────────────────


def due_evaluators(
    config: TrainConfig,
    step: int,
    total_steps: int,
) -> list[str]:
  """Names of the evaluators that report at this step."""
  names = []
  for block in config.evals:
    is_period = bool(block.log_steps) and step % block.log_steps == 0
    if is_period or step == total_steps:
      names.append(block.name)
  return names


def unscored(
    workdir: pathlib.Path,
    step: int,
    due: Sequence[str],
    saved: Sequence[str] | bool | None,
) -> Sequence[str]:
  """The evaluators that a run has to score again when it goes on at a step.

  A checkpoint is saved before its evaluators run. So only metrics.jsonl knows
  whether they came to their end.

  Args:
    workdir: of the run.
    step: of its checkpoint.
    due: the evaluators that report at this step.
    saved: what the checkpoint says of them: the names of those that were due;
      True or False from a version that kept no names.

  Returns:
    All of them, or none if each has reported. A report is one line.
  """
  names = due if saved is True else saved or ()
  num_reports = 0
  if jax.process_index() == 0:
    for line in run_files.read_lines(workdir).sound:
      # Only evaluators have settings.
      num_reports += line.step == step and line.settings is not None
  if jax.process_count() > 1:
    # Others may see an older state of the file.
    num_reports = multihost_utils.broadcast_one_to_all(np.int32(num_reports))
  return () if num_reports >= len(names) else names


# ── Making evaluations ──────────────────────────────────────────────────────


def make_evaluations(
    config: TrainConfig,
    family: Family,
    predict: Compiled,
    mesh: jax.sharding.Mesh,
    on_batch: Callable[[], None] | None = None,
) -> list[Evaluation]:
  """Builds `config.evals`; every mistake in them is an error here."""
  make = functools.partial(
      make_evaluation,
      family=family,
      predict=predict,
      mesh=mesh,
      pp_modules=config.pp_modules,
      on_batch=on_batch,
      on_bad_example=config.on_bad_example)
  return [make(block) for block in config.evals]


def make_evaluation(
    config: EvalConfig,
    family: Family,
    predict: Compiled,
    mesh: jax.sharding.Mesh,
    *,
    pp_modules: Any = None,
    on_batch: Callable[[], None] | None = None,
    on_bad_example: str = "error",
) -> Evaluation:
  """Builds one evaluator.

  Args:
    config: its block.
    family: whose predictions it scores.
    predict: the family's compiled predictors.
    mesh: where they are computed.
    pp_modules: names of op modules.
    on_batch: see `Evaluation`.
    on_bad_example: 'skip' leaves out what cannot be read and counts it.

  Raises:
    ConfigError: whatever is wrong in the block, or data that is missing.
  """
  from pp import splits
  # What the config alone can tell comes first: opening data takes time.
  predict_options = _checked_predict_options(config, family, mesh)
  split = splits.open_split(config.dataset, config.split, config.data_dir)
  cached = family.open_evaluated_features(split, config.pp)
  batches = _eval_batches(
      split, config.pp, pp_modules, config.batch_size, on_bad_example, cached)
  evaluator = evaluators.make_evaluator(
      config.type, split, config.options, f"config.{config.name}.options")
  settings = _settings(config, evaluator, predict_options)
  return Evaluation(
      config, evaluator, settings,
      predict=predict(config.pred, **config.pred_kw),
      start_batches=batches.start,
      mesh=mesh,
      on_batch=on_batch,
      reports_skipped=on_bad_example == "skip",
      has_features=bool(cached),
      label=config.name)


def _checked_predict_options(
    config: EvalConfig,
    family: Family,
    mesh: jax.sharding.Mesh,
) -> Options:
  """The options of the prediction, after a check of what names them.

  Raises:
    ConfigError: unknown prediction or option; a batch size that does not
      divide.
  """
  where = f"config.{config.name}"
  sharding.check_batch_size(config.batch_size, mesh, what=f"{where}.batch_size")
  lookup(family.predictors, config.pred, f"prediction in {where}.pred")
  family.check_options(config.pred, config.pred_kw, f"{where}.pred_kw")
  return family.options(config.pred)


def _eval_batches(split, pp: str, pp_modules, batch_size, on_bad_example,
                  cached):
  """This process's share of one pass over a split."""
  return split.eval_batches(
      split.make_preprocess(pp, pp_modules),
      batch_size=batch_size,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      on_bad_example=on_bad_example,
      cached=cached)


def _settings(
    config: EvalConfig,
    evaluator: base.Evaluator,
    predict_options: Options,
) -> dict[str, Any]:
  """The options of evaluator and prediction, but for those that are None."""
  own_options = fields.options_of(type(evaluator))
  defaults = {**own_options, **predict_options}
  settings = {name: option.default for name, option in defaults.items()}
  # A score without the switches left alone could not be compared later.
  settings |= config.options
  settings |= config.pred_kw
  return {name: value for name, value in settings.items() if value is not None}


def panel_batch(config: TrainConfig, family: Family
                ) -> dict[str, np.ndarray] | None:
  """Examples of the validation split, for the panels; or None.

  They are of the split that the run never trains on, so that the panels flatter
  nobody, and lie anywhere in it: the first ones may be frames of one video. It
  has the batch size of the evaluators, and features of a cache where they have,
  so that both share their compiled programs.
  """
  from pp import splits
  if not (config.val_split and config.pp_eval):
    return None
  split = splits.open_split(config.dataset, config.val_split, config.data_dir)
  cached = family.open_evaluated_features(split, config.pp_eval)
  # In a shuffled order, which is always the same.
  batches = split.train_batches(
      split.make_preprocess(config.pp_eval, config.pp_modules),
      batch_size=config.batch_size,
      seed=0,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      on_bad_example=config.on_bad_example,
      # As a cache has one augmentation of each.
      codes_per_image=1 if cached else None,
      cached=cached)
  return unmasked(next(batches))


def unmasked(batch: common.Batch) -> dict[str, np.ndarray]:
  """A batch as predictions take it: without masks, with ids of 32 bits."""
  batch = dict(batch)
  for key in ("_mask", "_skipped"):
    batch.pop(key, None)
  batch["image/id"] = common.seed_ids(batch["image/id"])
  return batch
