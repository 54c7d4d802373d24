"""What a run is made of before its first step: inputs, programs, first state.

`open_run` reads data and models, checks the config and asks for the shapes of
the state. Only then does the loop claim the workdir, read or draw the first
state and compile the step.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax

import uvim
from trainers import evaluation, workdir
from trainers.families import make_family
from trainers.families.base import Family, Opened
from trainers.families.compiled import Compiled
from trainers.report import panel
from trainers.step import make_init, make_train_step
from uvim import tree
from uvim.config import TrainConfig
from uvim.learn import sharding
from uvim.learn.state import TrainState
from uvim.store import checkpoint, code_cache, feature_cache, start_from
from uvim.typing import PyTree

Meta = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What a run reads: data, models and where they are computed.

  Attributes:
    mesh: the devices.
    split: the opened training split.
    total_steps: length of the run.
    family: what is trained.
    opened: what the family has read.
    open_batches: start_step → endless numpy batches; other arguments of
      `Split.train_batches` replace those of the config.
    predict: the compiled predictors.
    evaluations: the evaluators.
    panel_batch: the examples of the panels, on the host; or None.
  """
  mesh: jax.sharding.Mesh
  split: Any
  total_steps: int
  family: Family
  opened: Opened
  open_batches: Callable[..., Iterator[dict[str, np.ndarray]]]
  predict: Compiled
  evaluations: Sequence[evaluation.Evaluation]
  panel_batch: dict[str, np.ndarray] | None


@dataclasses.dataclass(frozen=True)
class Program:
  """The functions to be compiled, and the shapes that they work on.

  Attributes:
    init: key → fresh state.
    tx: the optimizer.
    schedules: factors of the learning rate.
    abstract: shapes and dtypes of the state.
    shardings: where the arrays of the state lie.
  """
  init: Callable[[jax.Array], TrainState]
  tx: optax.GradientTransformation
  schedules: Sequence[Callable]
  abstract: TrainState
  shardings: PyTree


def open_run(
    config: TrainConfig,
    past: Meta,
    store: start_from.Store,
    on_eval_batch: Callable[[], None],
) -> tuple[Inputs, Program, Meta]:
  """(what a run reads, what it compiles, what its checkpoints will say).

  Args:
    config: the run's config.
    past: what its newest checkpoint says; {} for a new run.
    store: where the family reads checkpoints from.
    on_eval_batch: is called before each batch of an evaluator; it may raise.

  Raises:
    ConfigError: names the field.
  """
  needs_no_start = workdir.needs_no_start(config, past)
  opened_config = config
  if needs_no_start:
    opened_config = dataclasses.replace(config, model_init=None)
  inputs = open_inputs(opened_config, store, on_eval_batch)
  if not past:
    inputs.family.check_start(inputs.opened.initial)
  program = make_program(config, inputs)
  meta = checkpoint_meta(config, inputs)
  if needs_no_start:
    meta["initial_crc32"] = past["initial_crc32"]
  return inputs, program, meta


def open_inputs(
    config: TrainConfig,
    store: start_from.Store,
    on_eval_batch: Callable[[], None],
) -> Inputs:
  """Opens data and models; every mistake in the config is an error here.

  Arguments and errors as `open_run`.
  """
  from pp import splits
  mesh = sharding.make_mesh(config.mesh)
  check_batch_size(config, mesh)
  split = splits.open_split(config.dataset, config.train_split, config.data_dir)
  total_steps = config.num_steps(split.num_examples)
  # Made now: a mistake in the string must not wait for the compiler.
  preprocess = split.make_preprocess(config.pp_train, config.pp_modules)
  family = make_family(config)
  opened = family.open(store)
  fingerprint = split.fingerprint(config.pp_train)
  for cache in (code_cache.CACHE, feature_cache.CACHE):
    path = getattr(config, cache.field)
    if path:
      cache.check_data(path, fingerprint)
  open_batches = functools.partial(
      split.train_batches,
      preprocess,
      batch_size=config.batch_size,
      seed=config.seed,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      on_bad_example=config.on_bad_example,
      codes_per_image=config.codes_per_image,
      cached=opened.cached,
      unused=family.unused_keys)
  predict = Compiled(family)
  evaluations = evaluation.make_evaluations(
      config, family, predict, mesh, on_batch=on_eval_batch)
  return Inputs(
      mesh, split, total_steps, family, opened, open_batches, predict,
      evaluations, panel_batch=evaluation.panel_batch(config, family))


def make_program(config: TrainConfig, inputs: Inputs) -> Program:
  """Init, optimizer and the shapes of the state; computes no array."""
  init, tx, schedules = make_init(inputs.family, config, inputs.total_steps)
  abstract = jax.eval_shape(init, jax.random.PRNGKey(config.seed))
  shardings = sharding.state_shardings(abstract, inputs.mesh, config.sharding)
  return Program(init, tx, schedules, abstract, shardings)


def parts_of_run(
    config: TrainConfig,
    inputs: Inputs,
    program: Program,
) -> dict[str, Any]:
  """Fields of `trainers.loop.Run`; what each step reads is on the devices."""
  panel_batch = inputs.panel_batch
  legend = None
  if panel_batch is not None:
    legend = panel.make_legend(
        inputs.family.task, panel_batch, inputs.split.categories)
    panel_batch = sharding.shard_batch(panel_batch, inputs.mesh)
  replicated = sharding.replicated(inputs.mesh)
  return dict(
      family=inputs.family,
      mesh=inputs.mesh,
      total_steps=inputs.total_steps,
      schedules=program.schedules,
      train_step=compile_step(config, inputs, program),
      open_batches=inputs.open_batches,
      evaluations=inputs.evaluations,
      predict=inputs.predict,
      panel_batch=panel_batch,
      panel_legend=legend,
      frozen=jax.device_put(inputs.opened.frozen, replicated))


def compile_step(
    config: TrainConfig,
    inputs: Inputs,
    program: Program,
) -> Callable:
  """The jitted step (state, frozen, batch) → (state, logs)."""
  num_batches = inputs.split.num_examples // config.batch_size
  train_step = make_train_step(
      inputs.family,
      program.tx,
      # A batch larger than the split is an epoch of its own.
      epoch_steps=max(1, num_batches),
      shardings=program.shardings)
  replicated = sharding.replicated(inputs.mesh)
  # Donated: the new state takes the memory of the old one.
  return jax.jit(
      train_step,
      donate_argnums=0,
      out_shardings=(program.shardings, replicated))


def first_state(
    checkpointer: checkpoint.Checkpointer,
    program: Program,
    seed: int,
    initial: start_from.Arrays,
) -> tuple[TrainState, Meta]:
  """(the state of the last checkpoint and its meta; or a fresh one and {})."""
  abstract = sharding.with_shardings(program.abstract, program.shardings)
  restored = checkpointer.restore_latest(abstract)
  if restored is not None:
    return restored

  def fresh_state():
    # The key is made inside: it is then the same on all processes.
    return program.init(jax.random.PRNGKey(seed))

  state = jax.jit(fresh_state, out_shardings=program.shardings)()
  return start_from.replace(state, initial), {}


def checkpoint_meta(config: TrainConfig, inputs: Inputs) -> Meta:
  """What every checkpoint says of the run, as plain JSON.

  When the run is resumed, `trainers.workdir` compares it.
  """
  categories = []
  for category in inputs.split.categories:
    categories.append([category.id, category.name, bool(category.isthing)])
  return {
      "version": uvim.__version__,
      "config": config.to_json(),
      "data": _fingerprints(config, inputs.split),
      # A prior is worth nothing with another oracle; see `check_oracle`.
      "oracle_crc32": tree.fingerprint(inputs.opened.frozen),
      "initial_crc32": tree.fingerprint(inputs.opened.initial),
      "categories": categories,
  }


def _fingerprints(config: TrainConfig, train_split: Any) -> dict[str, Any]:
  """Field of the config → what tells its data from other data."""
  from pp import splits
  found = {"train_split": train_split.fingerprint(config.pp_train)}
  for block in config.evals:
    split = splits.open_split(block.dataset, block.split, block.data_dir)
    found[block.name] = split.fingerprint(block.pp)
  return found


def check_batch_size(config: TrainConfig, mesh) -> None:
  """Raises a ConfigError if devices and parts cannot share a batch evenly."""
  sharding.check_batch_size(config.batch_size, mesh)
  sharding.check_batch_size(
      config.batch_size // config.grad_accum_steps, mesh,
      what="config.batch_size / config.grad_accum_steps")
