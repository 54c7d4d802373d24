"""The one train loop. A stage supplies what is learned, this file the rest.

Path of a step: batch (f(seed, step)) → global arrays, one batch ahead → jitted
step with donated state → logs read one step late, so that dispatch stays
ahead → evaluators, pictures and checkpoints at their periods.
"""

import abc
import functools
import json
import os
import pathlib
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainers import evaluation, model_init, report
from uvim import checkpoint, optim, sharding
from uvim.config import RESUME_FREE, TrainConfig, config_diff
from uvim.quantizer import Codebook, code_histogram, perplexity
from uvim.registry import ConfigError
from uvim.state import TrainState


class Diverged(RuntimeError):
  """The loss is NaN or infinite; the last good checkpoint is kept."""


class Aux(flax.struct.PyTreeNode):
  """What a stage's loss reports besides the scalar.

  Attributes:
    codebook: the codebook after this step, or None in stage II.
    code_BL: the guiding codes of the batch, for the usage statistics; None
      without an oracle.
    logs: name → scalar.
  """

  codebook: Codebook | None
  code_BL: jax.Array | None
  logs: dict[str, jax.Array]


class Stage(abc.ABC):
  """What stage I and stage II each supply.

  Attributes:
    config: the TrainConfig.
    dict_size: number of words of the code.
    frozen: arrays that are used but not trained (stage II: the oracle); an
      argument of the jitted step, never a captured constant.
    initial: arrays by name that replace those of `init` in a new run.
    predict_fns: name → function (variables, batch, **options) → dict of
      [B, …]; variables = {"params", "codebook", "frozen"}.
  """

  config: TrainConfig
  dict_size: int
  frozen: Any = None
  initial: dict[str, np.ndarray] = {}
  predict_fns: dict[str, Any]

  def jitted(self, name: str, **options):
    """The compiled prediction function (variables, batch); compiled once.

    Options are Python values that are built into the program; but not a seed,
    so that another seed is not another program.
    """
    traced = {k: np.uint32(options.pop(k)) for k in ("seed",) if k in options}
    key = name, repr(sorted(options.items()))
    cache = self.__dict__.setdefault("_jitted", {})
    if key not in cache:
      cache[key] = jax.jit(functools.partial(
          self.predict_fns[name], **options))
    return functools.partial(cache[key], **traced)

  def scored(self, name: str) -> dict[str, Any]:
    """The options of the first evaluator of this prediction function.

    For pictures: they then show what is scored, and compile nothing new.
    """
    return next((dict(e.pred_kw) for e in self.config.evals
                 if e.pred == name), {})

  @abc.abstractmethod
  def init(self, rng) -> tuple[Any, Codebook | None]:
    """Parameters and codebook at step 0; traceable."""

  @abc.abstractmethod
  def check_batch(self, batch) -> None:
    """Raises a ConfigError if the models cannot take such a numpy batch."""

  @abc.abstractmethod
  def loss(self, params, codebook, frozen, batch, rng):
    """The training loss: (scalar, Aux)."""

  @abc.abstractmethod
  def panel(self, variables, batch) -> dict[str, np.ndarray]:
    """Title → uint8 pictures [B, H, W, 3] of a few examples."""


def make_train_step(stage: Stage, tx, *, epoch_steps: int):
  """The function (state, frozen, batch) → (state, logs), to be jitted."""

  def train_step(state: TrainState, frozen, batch):
    (loss, aux), grads = jax.value_and_grad(stage.loss, has_aux=True)(
        state.params, state.codebook, frozen, batch, state.step_rng())
    usage_Q = state.usage
    logs = {"loss": loss, "grad_norm": optax.global_norm(grads), **aux.logs}
    if aux.code_BL is not None:
      usage_Q = jnp.where(state.step % epoch_steps == 0, 0, usage_Q)
      usage_Q += code_histogram(aux.code_BL, stage.dict_size).astype(jnp.int32)
      logs |= {"code/usage": jnp.mean(usage_Q > 0),
               "code/perplexity": perplexity(usage_Q)}
    return state.apply_gradients(
        tx, grads, codebook=aux.codebook, usage=usage_Q), logs

  return train_step


def train(make_stage, config: TrainConfig, workdir) -> dict[str, float]:
  """Runs or resumes a training run.

  Args:
    make_stage: TrainConfig → Stage.
    config: the resolved config.
    workdir: folder of the run; made if needed.

  Returns:
    The metrics of the last evaluation.

  Raises:
    ConfigError: bad input, before anything is compiled or written.
    Diverged: the loss is not finite.
  """
  from pp import pipeline, sources
  workdir = pathlib.Path(workdir)
  check_workdir(workdir, config)
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_batch_size(config.batch_size, mesh)
  source = sources.make_source(
      config.dataset, config.train_split, config.data_dir)
  total_steps = config.num_steps(source.num_examples)
  # Built now: a mistake in the string must not wait for the compiler.
  preprocess = pipeline.make_preprocess(config.pp_train, config.pp_modules)
  open_batches = functools.partial(
      pipeline.train_batches, source, preprocess,
      batch_size=config.batch_size, seed=config.seed,
      process_index=jax.process_index(), process_count=jax.process_count())
  stage = make_stage(config)
  evals = evaluation.make_evaluations(config, stage, mesh)
  panel_batch = evaluation.panel_batch(config)
  init, tx, schedules = make_init(stage, config, total_steps)
  abstract = jax.eval_shape(init, jax.random.PRNGKey(config.seed))
  shardings = sharding.state_shardings(abstract, mesh, config.sharding)
  stage.check_batch(next(open_batches(batch_size=jax.process_count())))
  claim_workdir(workdir, config)

  run = _Run(stage, config, workdir, mesh=mesh, total_steps=total_steps,
             evals=evals, schedules=schedules, panel_batch=panel_batch)
  run.start(init, sharding.with_shardings(abstract, shardings), shardings)
  run.compile(tx, max(1, source.num_examples // config.batch_size))
  return run.loop(open_batches)


def make_init(stage: Stage, config: TrainConfig, total_steps: int):
  """(init function rng → TrainState, optimizer, schedules)."""
  params, _ = jax.eval_shape(stage.init, jax.random.key(0))
  tx, schedules = optim.make_optimizer(
      optax_name=config.optax_name, optax=config.optax, lr=config.lr,
      wd=config.wd, lr_mults=config.lr_mults, schedule=config.schedule,
      grad_clip_norm=config.grad_clip_norm, params=params,
      total_steps=total_steps)

  def init(rng):
    init_rng, rng = jax.random.split(rng)
    params, codebook = stage.init(init_rng)
    return TrainState.create(
        params=params, tx=tx, codebook=codebook, rng=rng,
        usage=jnp.zeros((stage.dict_size,), jnp.int32))

  return init, tx, schedules


class _Run:
  """The moving parts of one run."""

  def __init__(self, stage, config, workdir, *, mesh, total_steps, evals,
               schedules, panel_batch):
    self.stage, self.config, self.workdir = stage, config, workdir
    self.mesh, self.total_steps, self.evals = mesh, total_steps, evals
    self.schedules = schedules
    self.panel_batch = None if panel_batch is None else (
        sharding.shard_batch(panel_batch, mesh))
    self.checkpointer = checkpoint.Checkpointer(
        workdir, keep_every=config.keep_checkpoint_steps)
    self.panel_steps = config.panel_steps or config.log_eval_steps
    self.metrics = {}

  def start(self, init, abstract, shardings) -> None:
    """The state of the last checkpoint, or a fresh one."""
    self.shardings = shardings
    restored = self.checkpointer.restore_latest(abstract)
    if restored is None:
      rng = jax.random.PRNGKey(self.config.seed)
      self.state = model_init.replace(
          jax.jit(init, out_shardings=shardings)(rng), self.stage.initial)
    else:
      self.state, _ = restored
    self.stage.initial = {}  # Large, and of no more use.
    self.step = int(self.state.step)
    self.frozen = jax.device_put(
        self.stage.frozen, sharding.replicated(self.mesh))
    self.reporter = report.Reporter(
        self.workdir, start_step=self.step, total_steps=self.total_steps,
        batch_size=self.config.batch_size)
    num_params = sum(x.size for x in jax.tree.leaves(self.state.params))
    origin = f"resumed at step {self.step}" if restored else "new run"
    self.reporter.say(
        f"{self.workdir}: {origin}, {self.total_steps} steps, "
        f"{num_params:,} parameters, {jax.device_count()} device(s)")

  def compile(self, tx, epoch_steps: int) -> None:
    step = make_train_step(self.stage, tx, epoch_steps=epoch_steps)
    self.train_step = jax.jit(
        step, donate_argnums=0, out_shardings=(self.shardings, None))

  def loop(self, open_batches) -> dict[str, float]:
    """Trains to the end. However it leaves, what was being saved is saved."""
    try:
      self._loop(open_batches)
    finally:
      self.checkpointer.close()
      self.reporter.close()
    return self.metrics

  def _loop(self, open_batches) -> None:
    config, pending = self.config, None
    periods = [config.checkpoint_steps, self.panel_steps,
               *(item.config.log_steps for item in self.evals)]
    with jax.set_mesh(self.mesh):
      batches = map(self.put, open_batches(start_step=self.step))
      while self.step < self.total_steps:
        batch = next(batches)
        self.state, logs = self.train_step(self.state, self.frozen, batch)
        self.step += 1
        if pending is not None:
          self.log(*pending)
          pending = None
        if self.due(config.log_training_steps):
          pending = self.step, logs
        if any(map(self.due, periods)):
          # Everything reported up to this step is on disk before the step
          # is: a killed run repeats no line and misses none.
          if pending is not None:
            self.log(*pending)
            pending = None
          self.evaluate()
          if self.due(config.checkpoint_steps):
            self.save(logs)
          self.reporter.pause(self.step)

  def put(self, batch):
    """A global batch on the devices. Ids stay behind: no step needs them."""
    batch = {k: v for k, v in batch.items() if k != "image/id"}
    return sharding.shard_batch(batch, self.mesh)

  def due(self, period: int | None) -> bool:
    if self.step == self.total_steps:
      return True
    return bool(period) and self.step % period == 0

  def log(self, step: int, logs) -> None:
    logs = {k: float(v) for k, v in jax.device_get(logs).items()}
    check_finite(step, logs)
    for i, schedule in enumerate(self.schedules):
      suffix = f"_{i}" if i else ""
      logs[f"lr{suffix}"] = self.config.lr * float(schedule(step - 1))
    self.reporter.scalars(step, {f"train/{k}": v for k, v in logs.items()})
    self.reporter.progress(step, logs["loss"])

  def save(self, logs) -> None:
    """Saves the state, unless its step was not finite."""
    check_finite(self.step, logs)
    self.checkpointer.save(
        self.step, self.state, {"config": self.config.to_json()})

  def evaluate(self) -> None:
    """Runs the evaluators whose turn it is, and draws the panel."""
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
      self.reporter.image(self.step, "panel", report.panel(columns, rows=6))


def check_finite(step: int, logs) -> None:
  """The gradient too: of a finite loss it may still spoil the parameters."""
  for name in ("loss", "grad_norm"):
    if not np.isfinite(value := float(logs[name])):
      raise Diverged(
          f"The {name} is {value} at step {step}. The last checkpoint before "
          "it is kept; lower config.lr or set config.grad_clip_norm, then run "
          "with another --workdir that starts from it (config.model_init).")


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
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    new = workdir / "config.json.tmp"
    new.write_text(json.dumps(config.to_json(), indent=2))
    os.replace(new, workdir / "config.json")
  except OSError as e:
    raise ConfigError(f"--workdir {workdir} cannot be written: {e}.") from e
