"""The one train loop. A stage supplies what is learned, this file the rest.

Path of a step: batch (f(seed, step)) → global arrays, one batch ahead → jitted
step with donated state (trainers/step.py) → logs read one step late, so that
dispatch stays ahead → evaluators, pictures and checkpoints at their periods.

Every process runs all of it; files are written by process 0, but for the
checkpoints, of which each writes what it holds.
"""

import functools
import json
import os
import pathlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from trainers import evaluation, preemption
from trainers.report import panel, recorder
from trainers.step import make_init, make_train_step
from uvim import tree
from uvim.config import RESUME_FREE, TrainConfig, config_diff
from uvim.learn import sharding
from uvim.registry import ConfigError
from uvim.store import checkpoint
from uvim.store import open_model as load
from uvim.store import start_from as model_init


class Diverged(RuntimeError):
  """The loss is NaN or infinite; the last good checkpoint is kept."""


def train(make_stage, config: TrainConfig, workdir, *,
          wandb: str | None = None) -> dict[str, float]:
  """Runs or resumes a training run.

  Args:
    make_stage: TrainConfig → Stage.
    config: the resolved config.
    workdir: folder of the run; made if needed. With several processes, one
      that all of them see.
    wandb: project of Weights & Biases to report to as well.

  Returns:
    The metrics of the last evaluation.

  Raises:
    ConfigError: bad input, before anything is compiled or written.
    Diverged: the loss is not finite.
    Preempted: asked to stop, and saved.
  """
  with preemption.Watch() as watch:
    run, open_batches = _make_run(
        make_stage, config, workdir, watch, wandb)
    return run.loop(open_batches)


def _make_run(make_stage, config, workdir, watch, wandb):
  """(a started run, its batches from a step on), all input being checked."""
  from pp import splits
  workdir = pathlib.Path(workdir)
  check_workdir(workdir, config)
  mesh = sharding.make_mesh(config.mesh)
  check_batch_size(config, mesh)
  split = splits.open_split(
      config.dataset, config.train_split, config.data_dir)
  total_steps = config.num_steps(split.num_examples)
  # Built now: a mistake in the string must not wait for the compiler.
  preprocess = split.make_preprocess(config.pp_train, config.pp_modules)
  stage = make_stage(config)
  open_batches = functools.partial(
      split.train_batches, preprocess,
      batch_size=config.batch_size, seed=config.seed,
      process_index=jax.process_index(), process_count=jax.process_count(),
      on_bad_example=config.on_bad_example,
      codes_per_image=config.codes_per_image, codes=stage.codes)
  evals = evaluation.make_evaluations(
      config, stage, mesh, on_batch=watch.check)
  panel_batch = evaluation.panel_batch(config)
  init, tx, schedules = make_init(stage, config, total_steps)
  abstract = jax.eval_shape(init, jax.random.PRNGKey(config.seed))
  shardings = sharding.state_shardings(abstract, mesh, config.sharding)
  stage.check_batch(next(open_batches(batch_size=jax.process_count())))
  claim_workdir(workdir, config)

  run = _Run(stage, config, workdir, mesh=mesh, total_steps=total_steps,
             evals=evals, schedules=schedules, panel_batch=panel_batch,
             watch=watch, wandb=wandb)
  run.start(init, sharding.with_shardings(abstract, shardings), shardings)
  run.compile(tx, max(1, split.num_examples // config.batch_size))
  return run, open_batches


def check_batch_size(config: TrainConfig, mesh) -> None:
  """Raises a ConfigError if devices and parts cannot share a batch evenly."""
  sharding.check_batch_size(config.batch_size, mesh)
  sharding.check_batch_size(
      config.batch_size // config.grad_accum_steps, mesh,
      what="config.batch_size / config.grad_accum_steps")


class _Run:
  """The moving parts of one run."""

  def __init__(self, stage, config, workdir, *, mesh, total_steps, evals,
               schedules, panel_batch, watch, wandb):
    self.stage, self.config, self.workdir = stage, config, workdir
    self.mesh, self.total_steps, self.evals = mesh, total_steps, evals
    self.schedules, self.watch, self.wandb = schedules, watch, wandb
    self.panel_batch = None if panel_batch is None else (
        sharding.shard_batch(panel_batch, mesh))
    self.checkpointer = checkpoint.Checkpointer(
        workdir, keep_every=config.keep_checkpoint_steps)
    self.panel_steps = config.panel_steps or config.log_eval_steps
    self.metrics = {}
    self.pending = self.logs = None

  def start(self, init, abstract, shardings) -> None:
    """The state of the last checkpoint, or a fresh one."""
    self.shardings = shardings
    restored = self.checkpointer.restore_latest(abstract)
    self.oracle_crc32 = tree.fingerprint(self.stage.frozen)
    if restored is None:
      meta = {}
      # The key is made inside: it is then the same on all processes.
      self.state = model_init.replace(
          jax.jit(lambda: init(jax.random.PRNGKey(self.config.seed)),
                  out_shardings=shardings)(), self.stage.initial)
    else:
      self.state, meta = restored
      load.check_oracle(meta, self.oracle_crc32, self.workdir)
    self.stage.initial = {}  # Large, and of no more use.
    self.step = int(self.state.step)
    self.scoring = meta.get("scoring", False)
    self.skipped, self.in_a_row = meta.get("skipped", (0, 0))
    # What all processes have skipped is on the account of the first.
    self.bad_examples = (
        0 if jax.process_index() else meta.get("bad_examples", 0))
    self.frozen = jax.device_put(
        self.stage.frozen, sharding.replicated(self.mesh))
    if jax.process_index():
      self.reporter = recorder.NullRecorder()
    else:
      self.reporter = recorder.Recorder(
          self.workdir, start_step=self.step, total_steps=self.total_steps,
          batch_size=self.config.batch_size, drop_scores=self.scoring,
          wandb=self.wandb)
    num_params = sum(x.size for x in jax.tree.leaves(self.state.params))
    origin = f"resumed at step {self.step}" if restored else "new run"
    self.reporter.say(
        f"{self.workdir}: {origin}, {self.total_steps} steps, "
        f"{num_params:,} parameters, {jax.device_count()} device(s)")

  def compile(self, tx, epoch_steps: int) -> None:
    step = make_train_step(self.stage, tx, epoch_steps=epoch_steps,
                           shardings=self.shardings)
    self.train_step = jax.jit(
        step, donate_argnums=0,
        out_shardings=(self.shardings, sharding.replicated(self.mesh)))

  def loop(self, open_batches) -> dict[str, float]:
    """Trains to the end. However it leaves, what was being saved is saved."""
    try:
      with jax.set_mesh(self.mesh):
        self._loop(open_batches)
    except preemption.Preempted as e:
      self.settle()
      self.save()
      raise preemption.Preempted(
          f"{e}: stopped after step {self.step} of {self.total_steps}, which "
          "is saved. The same command goes on from there.") from None
    finally:
      self.checkpointer.close()
      self.reporter.close()
    return self.metrics

  def _loop(self, open_batches) -> None:
    config = self.config
    periods = [config.checkpoint_steps, self.panel_steps,
               *(item.config.log_steps for item in self.evals)]
    if self.scoring:  # Stopped in the middle of it.
      self.evaluate()
    batches = map(self.put, open_batches(start_step=self.step))
    while self.step < self.total_steps:
      batch = next(batches)
      self.state, self.logs = self.train_step(self.state, self.frozen, batch)
      if config.on_bad_example == "skip":
        self.logs["data/skipped"] = self.bad_examples
      self.step += 1
      self.settle()
      self.pending = self.step, self.logs
      if any(map(self.due, periods)):
        # Everything reported up to this step is on disk before the step
        # is: a killed run repeats no line and misses none.
        self.settle()
        self.evaluate()
        if self.due(config.checkpoint_steps):
          self.save()
        self.reporter.pause(self.step)
      if self.step < self.total_steps:
        self.watch.check(self.step)

  def put(self, batch):
    """A global batch on the devices, but for what no step needs."""
    self.bad_examples += int(np.sum(batch.get("_skipped", 0)))
    batch = {k: v for k, v in batch.items()
             if k != "image/id" and not k.startswith("_")}
    return sharding.shard_batch(batch, self.mesh)

  def due(self, period: int | None) -> bool:
    if self.step == self.total_steps:
      return True
    return bool(period) and self.step % period == 0

  def settle(self) -> None:
    """Reads the logs that are pending: waits for their step, if it must."""
    if self.pending is None:
      return
    (step, logs), self.pending = self.pending, None
    reported = (step == self.total_steps
                or step % self.config.log_training_steps == 0)
    if not (reported or self.config.skip_bad_steps):
      return
    logs = {k: float(v) for k, v in jax.device_get(logs).items()}
    bad = bool(logs.pop("bad", False))
    self.skipped += bad
    self.in_a_row = self.in_a_row + 1 if bad else 0
    if not bad or self.in_a_row > self.config.skip_bad_steps:
      check_finite(step, logs)
    if reported:
      self.log(step, logs)

  def log(self, step: int, logs) -> None:
    for i, schedule in enumerate(self.schedules):
      suffix = f"_{i}" if i else ""
      # A step that was skipped has not moved the schedule on.
      update = max(0, step - 1 - self.skipped)
      logs[f"lr{suffix}"] = self.config.lr * float(schedule(update))
    if self.config.skip_bad_steps:
      logs["skipped"] = self.skipped
    if "data/skipped" in logs:
      logs["data/skipped"] = total(logs["data/skipped"])
    self.reporter.scalars(step, {f"train/{k}": v for k, v in logs.items()
                                 if np.isfinite(v)})
    self.reporter.progress(step, logs["loss"])

  def save(self) -> None:
    """Saves the state, unless its step was not finite.

    One that was skipped has left it as it was before.
    """
    if self.logs is not None and not self.config.skip_bad_steps:
      check_finite(self.step, self.logs)
    self.checkpointer.save(self.step, self.state, {
        "config": self.config.to_json(), "scoring": self.scoring,
        "oracle_crc32": self.oracle_crc32,
        "skipped": [self.skipped, self.in_a_row],
        "bad_examples": total(self.bad_examples)})

  def evaluate(self) -> None:
    """Runs the evaluators whose turn it is, and draws the panel."""
    self.scoring = True
    variables = {"params": self.state.params, "codebook": self.state.codebook,
                 "frozen": self.frozen}
    for item in self.evals:
      if self.due(item.config.log_steps):
        values = {item.config.prefix + k: v for k, v in item.run(variables)}
        self.metrics.update(values)
        self.reporter.scalars(self.step, values, item.settings)
        self.reporter.say("  ".join(f"{k} {v:.4g}" for k, v in values.items()))
    if self.panel_batch is not None and self.due(self.panel_steps):
      columns = self.stage.panel(variables, self.panel_batch)
      self.reporter.image(self.step, "panel", panel.draw_panel(columns, rows=6))
    usage_Q = sharding.gather_to_host(self.state.usage)
    self.reporter.review(self.step, usage_Q)
    self.scoring = False


def total(count: float) -> int:
  """The sum of what each process counted; all of them must ask."""
  if jax.process_count() == 1:
    return int(count)
  return int(np.sum(multihost_utils.process_allgather(np.int32(count))))


def check_finite(step: int, logs) -> None:
  """The gradient too: of a finite loss it may still spoil the parameters."""
  for name in ("loss", "grad_norm"):
    if not np.isfinite(value := float(logs[name])):
      raise Diverged(
          f"The {name} is {value} at step {step}. The last checkpoint before "
          "it is kept; lower config.lr or set config.grad_clip_norm, then run "
          "with another --workdir that starts from it (config.model_init). Or "
          "go on with config.skip_bad_steps.")


def check_workdir(workdir: pathlib.Path, config: TrainConfig) -> None:
  """Refuses a workdir that holds a run of another config."""
  path = workdir / "config.json"
  if not path.exists():
    return
  diff = config_diff(json.loads(path.read_text()), config.to_json())
  if diff:
    shown = "\n  ".join(diff[:10])
    raise ConfigError(
        f"--workdir {workdir} holds a run of another config. Choose another "
        f"workdir or the old settings (may differ: "
        f"{', '.join(sorted(RESUME_FREE))}). Old → new:\n  {shown}")


def claim_workdir(workdir: pathlib.Path, config: TrainConfig) -> None:
  """Makes the workdir and writes config.json, all checks being passed."""
  if jax.process_index():
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    new = workdir / "config.json.tmp"
    new.write_text(json.dumps(config.to_json(), indent=2))
    os.replace(new, workdir / "config.json")
  except OSError as e:
    raise ConfigError(f"--workdir {workdir} cannot be written: {e}.") from e
