"""The one train loop. A family supplies what is learned, this file the rest.

Path of a step: batch (f(seed, step)) → global arrays, one batch ahead → jitted
step with donated state (trainers/step.py) → logs read one step late, so that
dispatch stays ahead → evaluators, panels and checkpoints at their periods.

Every process runs all of it. Process 0 writes the files, except that each
process writes its own part of a checkpoint.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from trainers import cluster, evaluation, preemption, preflight
from trainers.families.base import Family
from trainers.families.compiled import Compiled
from trainers.inputs import Inputs, first_state, open_run, parts_of_run
from trainers.report import opening, pace, panel, recorder, run_files
from trainers.workdir import (
  RunLock,
  check_inputs,
  check_workdir,
  claim_workdir,
  local_folder,
)
from uvim.cli import app
from uvim.config import TrainConfig
from uvim.learn import sharding
from uvim.learn.state import TrainState
from uvim.store import checkpoint, start_from
from uvim.typing import PyTree

Logs = dict[str, Any]


class Diverged(app.Stop):
  """The loss is NaN or infinite; the last good checkpoint is kept."""

  exit_code = app.EXIT_DIVERGED


def train(
    config: TrainConfig,
    workdir,
    *,
    wandb: str | None = None,
    store: start_from.Store | None = None,
    make_recorder: Callable[..., recorder.AbstractRecorder] | None = None,
) -> dict[str, float]:
  """Runs or resumes a training run.

  Args:
    config: the resolved config; its `kind` names the family.
    workdir: folder of the run; made if needed. With several processes, one
      that all of them see.
    wandb: project of Weights & Biases to report to as well.
    store: where the family reads checkpoints from; None: disk and network.
    make_recorder: makes what process 0 records with; None: `Recorder`.

  Returns:
    The metrics of the last evaluation.

  Raises:
    ConfigError: a mistake in the config, before anything is compiled or
      written. Later: a workdir or checkpoint that cannot be read or written,
      or a bad example.
    Locked: another run has the workdir, or has taken it over.
    Diverged: the loss is not finite.
    Preempted: asked to stop, and saved.
  """
  workdir = local_folder(workdir)
  store = store or start_from.Store()
  make_recorder = make_recorder or recorder.Recorder
  with preemption.Watch() as watch, RunLock(workdir) as lock:
    run = _prepare(config, workdir, watch, lock, wandb, store, make_recorder)
    return run.train()


@dataclasses.dataclass
class Run:
  """A run: what it is made of, and where it stands.

  Attributes:
    family: what is trained.
    config: the run's config.
    workdir: its folder.
    mesh: the devices.
    total_steps: its length.
    schedules: factors of the learning rate, to be logged.
    train_step: the compiled step (state, frozen, batch) → (state, logs).
    open_batches: start_step → endless numpy batches.
    evaluations: the evaluators.
    predict: the compiled predictors.
    panel_batch: the examples of the panels, on the devices; or None.
    panel_legend: what their colors mean; or None.
    frozen: arrays that are used but not trained.
    meta: what every checkpoint says of the run.
    checkpointer: saves and restores.
    recorder: writes metrics and images.
    watch: notices that the run is asked to stop.
    lock: keeps other runs out of the workdir.
    state: parameters, optimizer and the rest.
    step: updates made so far.
    to_score: names of the evaluators that have still to report this step.
    lines_before_scores: of metrics.jsonl, when the first of them began.
    failures: evaluator that could not score → when it last did so, and why.
    num_skipped_steps: training steps that were not finite and were skipped.
    steps_skipped_in_a_row: how many were skipped since the last good step.
    bad_examples: examples that could not be read. Process 0 carries the total
      of all processes over a resume.
    logs: of the last step, on the devices.
    pending: (step, logs) that are not read yet.
    metrics: of the last evaluation.
  """
  family: Family
  config: TrainConfig
  workdir: pathlib.Path
  mesh: jax.sharding.Mesh
  total_steps: int
  schedules: Sequence[Callable]
  train_step: Callable
  open_batches: Callable[..., Iterator[dict[str, np.ndarray]]]
  evaluations: Sequence[evaluation.Evaluation]
  predict: Compiled
  panel_batch: dict[str, jax.Array] | None
  panel_legend: panel.Legend | None
  frozen: PyTree
  meta: dict[str, Any]
  checkpointer: checkpoint.Checkpointer
  recorder: recorder.AbstractRecorder
  watch: preemption.Watch
  lock: RunLock
  state: TrainState
  step: int
  to_score: Sequence[str] = ()
  lines_before_scores: int = 0
  failures: dict[str, str] = dataclasses.field(default_factory=dict)
  num_skipped_steps: int = 0
  steps_skipped_in_a_row: int = 0
  bad_examples: int = 0
  logs: Logs | None = None
  pending: tuple[int, Logs] | None = None
  metrics: dict[str, float] = dataclasses.field(default_factory=dict)

  def train(self) -> dict[str, float]:
    """Trains to the end. A save that has begun is finished in any case."""
    try:
      with jax.set_mesh(self.mesh):
        self._train()
    except preemption.Preempted as e:
      self._settle()
      self._save()
      raise preemption.Preempted(
          f"{e}: stopped after step {self.step} of {self.total_steps}, which "
          "is saved. The same command goes on from there.") from None
    finally:
      self.checkpointer.close()
      self.recorder.close()
    return self.metrics

  def _train(self) -> None:
    if self.to_score:  # It was stopped in the middle of its evaluators.
      self.lines_before_scores = self.recorder.sync()
      self._evaluate()
    if self.step < self.total_steps:
      self.recorder.say("compiling the training step …")
      self.recorder.pause(self.step)
    host_batches = self.open_batches(start_step=self.step)
    batches = map(self._put, host_batches)
    while self.step < self.total_steps:
      batch = next(batches)
      # This returns before the devices are done, so the host goes on to read
      # the logs of the step before.
      self.state, self.logs = self.train_step(self.state, self.frozen, batch)
      if self.config.on_bad_example == "skip":
        self.logs["data/skipped"] = self.bad_examples
      self.step += 1
      self._settle()
      self.pending = self.step, self.logs
      self._do_what_is_due()
      if self.step < self.total_steps:
        self.watch.check(self.step)
    self._say_failures()

  def _put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """A global batch on the devices, without what no step needs."""
    num_bad_examples = np.sum(batch.get("_skipped", 0))
    self.bad_examples += int(num_bad_examples)
    needed = {}
    for key, array in batch.items():
      is_bookkeeping = key == "image/id" or key.startswith("_")
      if not is_bookkeeping:
        needed[key] = array
    return sharding.shard_batch(needed, self.mesh)

  def _do_what_is_due(self) -> None:
    """Evaluators, panel and checkpoint of this step."""
    periods = [self.config.checkpoint_steps, self._panel_steps]
    periods += [item.config.log_steps for item in self.evaluations]
    if not any(self._is_due(period) for period in periods):
      return
    # Everything reported up to this step is on disk before the step is: a
    # killed run repeats no line and misses none.
    self._settle()
    self.lines_before_scores = self.recorder.sync()
    self.to_score = evaluation.due_evaluators(
        self.config, self.step, self.total_steps)
    # Saved first: evaluators take long and may fail.
    if self._is_due(self.config.checkpoint_steps):
      self._save()
    self._evaluate()
    self.recorder.pause(self.step)

  @property
  def _panel_steps(self) -> int:
    return self.config.panel_steps or self.config.log_eval_steps

  def _is_due(self, period: int | None) -> bool:
    if self.step == self.total_steps:
      return True
    return bool(period) and self.step % period == 0

  def _settle(self) -> None:
    """Reads the logs that are pending: waits for their step, if it must."""
    if self.pending is None:
      return
    step, logs = self.pending
    self.pending = None
    is_last = step == self.total_steps
    is_reported = is_last or step % self.config.log_training_steps == 0
    is_checked = is_reported or self.config.skip_bad_steps
    is_shown = is_reported or self.recorder.wants_progress(step)
    if not (is_checked or is_shown):
      return
    logs = {name: float(x) for name, x in jax.device_get(logs).items()}
    # Only process 0 shows a line: where it alone reads the logs, it must not
    # leave the run alone either.
    if is_checked:
      self._count_bad_steps(step, logs)
    if is_reported:
      self._report(step, logs)
    if is_shown:
      self.recorder.progress(step, logs["loss"])

  def _count_bad_steps(self, step: int, logs: dict[str, float]) -> None:
    """Stops the run at a step that is not finite, unless it may be skipped."""
    is_bad = bool(logs.pop("bad", False))
    self.num_skipped_steps += is_bad
    if is_bad:
      self.steps_skipped_in_a_row += 1
    else:
      self.steps_skipped_in_a_row = 0
    may_skip = self.steps_skipped_in_a_row <= self.config.skip_bad_steps
    if not (is_bad and may_skip):
      check_finite(step, logs)

  def _report(self, step: int, logs: dict[str, float]) -> None:
    # A step that was skipped has not moved the schedule on.
    update = max(0, step - 1 - self.num_skipped_steps)
    for i, schedule in enumerate(self.schedules):
      name = f"lr_{i}" if i else "lr"
      logs[name] = self.config.lr * float(schedule(update))
    if self.config.skip_bad_steps:
      logs["skipped"] = self.num_skipped_steps
    if "data/skipped" in logs:
      logs["data/skipped"] = sum_over_processes(logs["data/skipped"])
    # The loss of a step that was skipped is not finite: no chart can show it.
    finite = {}
    for name, value in logs.items():
      if np.isfinite(value):
        finite[f"train/{name}"] = value
    self.recorder.scalars(step, finite)

  def _save(self) -> None:
    """Saves the state, unless its step was not finite.

    A step that was skipped has left the state as it was before.
    """
    if self.logs is not None and not self.config.skip_bad_steps:
      check_finite(self.step, self.logs)
    self.lock.check()
    num_lines = self.recorder.sync()
    if self.to_score:
      # A resumed run drops the scores of this step, and makes them again.
      num_lines = self.lines_before_scores
    meta = {
        **self.meta,
        "scoring": list(self.to_score),
        "lines": num_lines,
        "skipped": [self.num_skipped_steps, self.steps_skipped_in_a_row],
        "bad_examples": sum_over_processes(self.bad_examples),
    }
    self.checkpointer.save(self.step, self.state, meta)

  def _evaluate(self) -> None:
    """Draws the panel, runs the evaluators `to_score`, writes report.html."""
    variables = self.family.variables(
        self.state.params, self.state.extra, self.frozen)
    # First: where all scores are reported, the panel is there too.
    if self.panel_batch is not None and self._is_due(self._panel_steps):
      self._draw_panel(variables)
    for item in self.evaluations:
      if item.config.name in self.to_score:
        self._run_evaluation(item, variables)
    self.to_score = ()
    usage_Q = self.state.extra.get("usage")
    if usage_Q is not None:
      usage_Q = sharding.gather_to_host(usage_Q)
    self.recorder.review(self.step, usage_Q)

  def _draw_panel(self, variables) -> None:
    # Where the evaluators predict, too: panels share their programs.
    mesh, variables = sharding.spread_predictions(
        self.mesh, variables, self.config.batch_size)
    batch = jax.device_put(self.panel_batch, sharding.batch_sharding(mesh))
    with jax.set_mesh(mesh):
      columns = self.family.panel(self.predict, variables, batch)
    drawn = panel.draw_panel(columns, legend=self.panel_legend)
    self.recorder.image(self.step, "panel", drawn)

  def _run_evaluation(self, item: evaluation.Evaluation, variables) -> None:
    """One evaluator: its metrics are kept, recorded and said."""
    name = item.config.name
    started = time.monotonic()
    scores = item.run(variables)
    seconds = time.monotonic() - started
    self.recorder.note_pass(name, seconds)
    values = {}
    for metric, value in scores.metrics.items():
      values[item.config.prefix + metric] = value
    self.metrics.update(values)
    said = [f"{metric} {value:.4g}" for metric, value in values.items()]
    settings = item.settings
    if scores.problem:
      # Every evaluator that was due has one line, also one that failed.
      values[f"{run_files.FAILED}{name}"] = 1.0
      settings = {**settings, "failed": scores.problem}
      self.failures[name] = f"at step {self.step}: {scores.problem}"
      said.append(f"{name} could not score {self.failures[name]}")
    self.recorder.scalars(self.step, values, settings)
    if scores.details is not None:
      self.recorder.details(
          self.step, name, scores.details, self.family.task.render)
    said.append(f"({pace.duration(seconds)})")
    self.recorder.say("  ".join(said))

  def _say_failures(self) -> None:
    """The last lines of a run tell what it could not do."""
    for name, what in self.failures.items():
      self.recorder.say(f"The run is complete, but {name} could not score "
                        f"{what}")


# ── Before the first step ───────────────────────────────────────────────────


def _prepare(
    config: TrainConfig,
    workdir: pathlib.Path,
    watch: preemption.Watch,
    lock: RunLock,
    wandb: str | None,
    store: start_from.Store,
    make_recorder: Callable,
) -> Run:
  """Checks all input and makes a run that is ready to train."""
  # A mistake may show in one process alone, such as data that it cannot see.
  inputs, program, meta, sample = cluster.together(
      lambda: _open_and_check(config, workdir, store, watch))
  cluster.together(lambda: claim_workdir(workdir, config))
  checkpointer = checkpoint.Checkpointer(
      workdir, keep_every=config.keep_checkpoint_steps)
  state, old_meta = first_state(
      checkpointer, program, config.seed, inputs.opened.initial)
  inputs.family.check_features(state.params)
  step = int(state.step)
  due = evaluation.due_evaluators(config, step, inputs.total_steps)
  to_score = evaluation.unscored(workdir, step, due, old_meta.get("scoring"))
  progress = _progress(state, old_meta, to_score)
  record = _open_recorder(
      make_recorder, config, workdir, inputs, progress, wandb,
      num_lines=old_meta.get("lines", 0))
  record.say(opening.title(workdir, step, inputs.total_steps, bool(old_meta)))
  for line in opening.describe(config, inputs, state.params, sample):
    record.say(line)
  return Run(
      config=config,
      workdir=workdir,
      meta=meta,
      checkpointer=checkpointer,
      recorder=record,
      watch=watch,
      lock=lock,
      state=state,
      **parts_of_run(config, inputs, program),
      **progress)


def _open_and_check(
    config: TrainConfig,
    workdir: pathlib.Path,
    store: start_from.Store,
    watch: preemption.Watch,
) -> tuple[Any, ...]:
  """What `open_run` returns, and a training batch; all of it checked.

  What a user can get wrong comes first: it must not wait for the compiler.
  """
  past = check_workdir(workdir, config)
  # An evaluator asks the watch before each batch: a pass takes long, and a run
  # that is told to stop has little time.
  inputs, program, meta = open_run(config, past, store, watch.check)
  check_inputs(workdir, config, past, meta)
  sample = preflight.check_inputs(config, inputs)
  return inputs, program, meta, sample


def _progress(
    state: TrainState,
    old_meta: dict[str, Any],
    to_score: Sequence[str],
) -> dict[str, Any]:
  """Where a run stands, as fields of `Run`; from the meta of its checkpoint."""
  num_skipped_steps, steps_skipped_in_a_row = old_meta.get("skipped", (0, 0))
  bad_examples = 0
  # The meta has the sum over all processes. One process goes on with it, or
  # the next sum would count it several times.
  if jax.process_index() == 0:
    bad_examples = old_meta.get("bad_examples", 0)
  return dict(
      step=int(state.step),
      to_score=to_score,
      num_skipped_steps=num_skipped_steps,
      steps_skipped_in_a_row=steps_skipped_in_a_row,
      bad_examples=bad_examples)


def _open_recorder(
    make_recorder: Callable,
    config: TrainConfig,
    workdir: pathlib.Path,
    inputs: Inputs,
    progress: dict[str, Any],
    wandb: str | None,
    num_lines: int,
) -> recorder.AbstractRecorder:
  """What writes metrics and images; only process 0 does."""
  if jax.process_index():
    return recorder.NullRecorder()
  return make_recorder(
      workdir,
      start_step=progress["step"],
      total_steps=inputs.total_steps,
      batch_size=config.batch_size,
      # Scores of evaluators that did not finish are made again.
      drop_scores=bool(progress["to_score"]),
      num_lines=num_lines,
      wandb=wandb,
      passes=opening.passes_of(inputs))


def sum_over_processes(count: float) -> int:
  """The sum of what each process counted; all of them must ask."""
  if jax.process_count() == 1:
    return int(count)
  counts = multihost_utils.process_allgather(np.int32(count))
  return int(np.sum(counts))


def check_finite(step: int, logs: Logs) -> None:
  """Raises Diverged unless loss and gradient are finite.

  The gradient too: that of a finite loss may still spoil the parameters.
  """
  for name in ("loss", "grad_norm"):
    value = float(logs[name])
    if not np.isfinite(value):
      raise Diverged(
          f"The {name} is {value} at step {step}. The last checkpoint before "
          "it is kept; lower config.lr or set config.grad_clip_norm, then run "
          "with another --workdir that starts from it (config.model_init). Or "
          "go on with config.skip_bad_steps.")
