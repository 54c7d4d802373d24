"""Training steps of both stages: time, share of the peak, memory."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from tools.bench import flops, measure, noise, training_problems
from tools.bench.gpu import timing
from tools.bench.gpu.setting import Ceilings, Line, Setting, share
from tools.bench.sizes import Fields
from tools.bench.training_problems import Problem


def stage_i(setting: Setting, ceilings: Ceilings, batch_size: int,
            **fields: Any) -> Iterator[Line]:
  """A line for a step of stage I.

  Args:
    setting: of the measurements.
    ceilings: of the device.
    batch_size: images of the step.
    **fields: of the model, in place of those of the setting.
  """

  def make_problem(fields):
    return training_problems.stage_i(
        setting.stage_i | fields, batch_size, setting.optimizer)

  yield _measure_step(setting, ceilings, batch_size, make_problem, fields)


def stage_ii(setting: Setting, ceilings: Ceilings, batch_size: int,
             **fields: Any) -> Iterator[Line]:
  """A line for a step of stage II, its oracle in it; arguments as above."""

  def make_problem(fields):
    return training_problems.stage_ii(
        setting.stage_ii | fields, setting.stage_i | fields, batch_size,
        setting.optimizer, only_compiled=True)

  yield _measure_step(setting, ceilings, batch_size, make_problem, fields)


def _measure_step(setting, ceilings, batch_size, make_problem,
                  fields: Fields) -> Line:
  """Compiles a step, takes some, and tells what they cost."""
  start = time.perf_counter()
  problem = make_problem(fields)
  state = _first_state(problem)
  frozen = _draw_oracle(problem)
  batch = jax.device_put(noise.make_batch(setting.stage_i, batch_size))
  program = measure.compile_program(
      problem.ours, state, frozen, batch, what="step", donate=(0,))
  compile_seconds = time.perf_counter() - start

  def step(state):
    return program.call(state, frozen, batch)

  seconds, losses = _take_steps(step, state, 2 * setting.repeats)
  useful = program.flops
  if fields:
    # What is computed twice to save memory is no use.
    useful = _count_flops(make_problem({}), batch)
  return {
      "batch": batch_size,
      **fields,
      "ms": timing.milliseconds(seconds),
      "images_s": batch_size / seconds,
      "gflop_per_image": useful / batch_size / 1e9,
      "tflop_s": useful / seconds / 1e12,
      "of_peak": share(useful / seconds, ceilings.flops),
      "temp_gb": program.temp_bytes / 1e9,
      "peak_gb": _peak_bytes() / 1e9,
      "first_loss": losses[0],
      "last_loss": losses[-1],
      "compile_s": compile_seconds,
  }


def _take_steps(step, state, num_steps):
  """(seconds of a step, the losses); `step` takes a state to (state, logs)."""
  state, logs = jax.block_until_ready(step(state))
  losses = [logs["loss"]]
  start = time.perf_counter()
  for _ in range(num_steps):
    # As the train loop does it: no step is waited for.
    state, logs = step(state)
    losses.append(logs["loss"])
  jax.block_until_ready(state)
  seconds = (time.perf_counter() - start) / num_steps
  return seconds, [float(loss) for loss in losses]


def _first_state(problem: Problem) -> Any:
  """The state before the first step, drawn on the device."""
  state = jax.jit(problem.init)(jax.random.PRNGKey(0))
  extra = dict(state.extra)
  if "state" in extra:
    # In a new codebook all words are dead. Their splitting is no usual step.
    quantizer_state = noise.draw_quantizer_state(extra["state"])
    # Copied: what is donated must not be the host's own memory.
    extra["state"] = jax.tree.map(jnp.array, quantizer_state)
  return state.replace(extra=extra)


def _draw_oracle(problem: Problem) -> Any:
  """Stage II's oracle, drawn on the device; None in stage I."""
  if problem.frozen is None:
    return None
  model = problem.family.oracle.model
  return jax.jit(model.init)(jax.random.PRNGKey(1))


def _count_flops(problem, batch):
  """Operations of a step that keeps everything."""
  step = jax.jit(problem.ours)
  traced = step.trace(problem.state_shapes(), problem.frozen, batch)
  return flops.count(traced.jaxpr, jax.default_backend())


def _peak_bytes():
  """The most that the device has held in this process; 0: it does not tell."""
  statistics = jax.devices()[0].memory_stats() or {}
  return statistics.get("peak_bytes_in_use", 0)
