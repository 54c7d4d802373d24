"""C1, C2, C7 and C8: a training step of each stage, run or only compiled."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.bench import measure, noise, rows, training_problems
from tools.bench.measure import Program, require, say
from tools.bench.rows import Row
from tools.bench.sizes import LEAN_I, LEAN_II, SIZES, Fields, Size
from tools.bench.training_problems import Problem
from uvim import tree
from uvim.typing import PyTree

# Fields that count layers.
_DEPTHS = ("oracle_depth", "base_model_depth", "num_layers")
# XLA hands products and sums on a CPU to YNN, a library of kernels. With an
# empty list of what may go there, nothing does.
WITHOUT_YNN = {"xla_cpu_experimental_ynn_fusion_type": ""}
# Compiles a program; see `measure.compile_program`.
Compile = Callable[..., Program]


# ── The benchmarks ──────────────────────────────────────────────────────────


def stage_i_step(
    size: Size,
    compile_program: Compile = measure.compile_program,
) -> Iterator[Row]:
  """C1: a training step of stage I."""
  problem = training_problems.stage_i(
      size.stage_i, size.batch_i, size.optimizer)
  batch = noise.make_batch(size.stage_i, size.batch_i)
  yield _timed("C1", problem, batch, size, compile_program)
  yield from _without_ynn("C1", problem, batch, size, compile_program)


def stage_ii_step(
    size: Size, compile_program: Compile = measure.compile_program
) -> Iterator[Row]:
  """C2: a training step of stage II, with its oracle and with codes given."""
  problem = training_problems.stage_ii(
      size.stage_ii, size.stage_i, size.batch_ii, size.optimizer)
  batch = noise.make_batch(size.stage_i, size.batch_ii)
  yield _timed("C2", problem, batch, size, compile_program)
  # Codes in the batch take the place of the oracle.
  code_BL = noise.draw_code(
      size.batch_ii, size.stage_ii["seq_len"], size.stage_i["dict_size"])
  batch = {"image": batch["image"], "code": code_BL}
  yield _timed("C2 codes given", problem, batch, size, compile_program)


def paper_stage_i_step(
    size: Size, compile_program: Compile = measure.compile_program
) -> Iterator[Row]:
  """C7: memory of the paper's stage I step.

  A small model with the same switches shows that both sides agree.
  """
  tiny = SIZES["tiny"]
  # The large step never runs, so a tiny one is compared instead.
  if size.paper_i != tiny.paper_i:
    problem = training_problems.stage_i(
        tiny.stage_i | LEAN_I, tiny.batch_i, size.optimizer)
    batch = noise.make_batch(tiny.stage_i, tiny.batch_i)
    compare_steps("C7 in small", problem, batch, tiny.tolerance,
                  compile_program, to_run=False)

  def make_problem(model):
    return training_problems.stage_i(model, size.batch_paper, size.optimizer)

  def make_naive(part, parts):
    return make_problem(_shallow(size.paper_i, part, parts))

  batch = noise.batch_shapes(size.paper_i, size.batch_paper)
  yield _compiled("C7", make_problem(size.paper_i | LEAN_I), make_naive, batch,
                  size.paper_i, compile_program)


def paper_stage_ii_step(
    size: Size, compile_program: Compile = measure.compile_program
) -> Iterator[Row]:
  """C8: memory of the paper's stage II step, codes given."""
  tiny = SIZES["tiny"]
  # As for C7.
  if size.paper_ii != tiny.paper_ii:
    problem = training_problems.stage_ii(
        tiny.stage_ii | LEAN_II, tiny.stage_i | LEAN_I, tiny.batch_ii,
        size.optimizer)
    batch = noise.make_batch(tiny.stage_i, tiny.batch_ii)
    compare_steps("C8 in small", problem, batch, tiny.tolerance,
                  compile_program, to_run=False)

  def make_problem(model, oracle):
    return training_problems.stage_ii(
        model, oracle, size.batch_paper, size.optimizer, only_compiled=True)

  def make_naive(part, parts):
    return make_problem(_shallow(size.paper_ii, part, parts), size.paper_i)

  # Labels are not needed: the batch gives the codes.
  image = noise.batch_shapes(size.paper_i, size.batch_paper)["image"]
  code_shape = (size.batch_paper, size.paper_ii["seq_len"])
  batch = {"image": image,
           "code": jax.ShapeDtypeStruct(code_shape, jnp.int32)}
  problem = make_problem(size.paper_ii | LEAN_II, size.paper_i)
  yield _compiled("C8", problem, make_naive, batch, size.paper_ii,
                  compile_program)


# ── Steps that run ──────────────────────────────────────────────────────────


class Stepper:
  """A training step to be called again and again; each goes on from the last.

  Attributes:
    program: the compiled step.
    state: after the last call.
    logs: of the last call.
  """

  def __init__(self, program: Program, state: PyTree, frozen: PyTree,
               batch: PyTree):
    self.program = program
    # Copied: what is donated must not be the host's own memory.
    self.state = jax.tree.map(jnp.array, state)
    self.logs = None
    self._frozen = frozen
    self._batch = batch

  def __call__(self) -> None:
    # The program overwrites the state that it is given (donation), so the new
    # one takes its place.
    results = self.program.call(self.state, self._frozen, self._batch)
    self.state, self.logs = jax.block_until_ready(results)


def _without_ynn(
    name: str, problem: Problem, batch: Mapping[str, Any], size: Size,
    compile_program: Compile) -> Iterator[Row]:
  """Our step without YNN, against our step as XLA compiles it by default."""
  name = f"{name} without YNN"
  twice = dataclasses.replace(problem, naive=problem.ours)
  try:
    yield _timed(name, twice, batch, size, compile_program, WITHOUT_YNN)
  except jax.errors.JaxRuntimeError as error:
    if "compile option" not in str(error):
      raise
    say(f"{name} is left out: this version of jaxlib has no such option")


def _timed(name: str, problem: Problem, batch: Mapping[str, Any], size: Size,
           compile_program: Compile,
           our_options: Mapping[str, Any] | None = None) -> Row:
  """Compiles, compares and times both steps."""
  ours, naive = compare_steps(
      name, problem, batch, size.tolerance, compile_program,
      our_options=our_options)
  peak_flops = measure.peak_flops(size.ceiling)
  times = measure.alternate(ours, naive, repeats=size.repeats)
  row = rows.timed_row(
      name, times, items=len(batch["image"]), unit="images/s")
  rows.add_programs(row, ours.program, naive.program)
  rows.add_ceiling(row, peak_flops)
  # Nearly all of a step is products of matrices.
  rows.add_floor(row, ours.program.flops / peak_flops)
  return row


def compare_steps(name: str, problem: Problem, batch: Mapping[str, Any],
                  tolerance: float,
                  compile_program: Compile = measure.compile_program, *,
                  to_run: bool = True,
                  our_options: Mapping[str, Any] | None = None,
                  ) -> tuple[Stepper, Stepper]:
  """Compiles both steps and runs each once.

  Args:
    name: of the row.
    problem: what is trained.
    batch: host arrays.
    tolerance: relative, of loss, gradient and updates.
    compile_program: see `measure.compile_program`.
    to_run: whether the steps will be timed.
    our_options: of the compiler, for ours alone.

  Returns:
    Ours and the naive one.

  Raises:
    Disagree: see `compare`.
  """
  start = problem.first_state()
  batch = jax.device_put(dict(batch))

  def take_step(step, side, options=None):
    program = compile_program(
        step, start, problem.frozen, batch, what=f"{name} {side}",
        donate=(0,), to_run=to_run, options=options)
    stepper = Stepper(program, start, problem.frozen, batch)
    stepper()
    return stepper

  # The results are taken now: the next steps go on from these states.
  ours = take_step(problem.ours, "ours", our_options)
  result = jax.device_get((ours.state, ours.logs))
  naive = take_step(problem.naive, "naive")
  naive_result = jax.device_get((naive.state, naive.logs))
  compare(name, start, result, naive_result, tolerance=tolerance)
  return ours, naive


def compare(name: str, start: Any, ours: tuple[Any, dict[str, Any]],
            naive: tuple[Any, dict[str, Any]], *, tolerance: float) -> None:
  """Raises Disagree unless loss, gradient and every update are the same.

  An update is compared as a whole array, because Adafactor makes an element of
  rounding noise as large as any other. The biases of keys are left out: a
  softmax does not see them, so their updates are rounding noise alone.

  Args:
    name: of the row.
    start: the state before the step.
    ours: our state and logs after it.
    naive: those of the naive side.
    tolerance: the largest relative difference.
  """
  state, logs = ours
  naive_state, naive_logs = naive
  updates = _updates(start, state)
  naive_updates = _updates(start, naive_state)
  # Each difference by name, so that a message can tell the worst.
  differences = {}
  for key in ("loss", "grad_norm"):
    differences[key] = measure.relative_error(logs[key], naive_logs[key])
  for key, update in updates.items():
    differences[key] = measure.relative_error(update, naive_updates[key])

  worst_key = max(differences, key=differences.get)
  worst = differences[worst_key]
  require(worst < tolerance,
          f"{name}: {worst_key} differs by {worst:.2g} of its size.")
  loss = float(logs["loss"])
  say(f"{name}: loss {loss:.6f} and {len(updates)} updates agree; "
      f"largest relative difference {worst:.1e} ({worst_key})")


def _updates(start, state) -> dict[str, np.ndarray]:
  """What a step added to each array, by name."""
  before = _learned_arrays(start)
  updates = {}
  for key, array in _learned_arrays(state).items():
    if not key.endswith("key/bias"):
      updates[key] = np.asarray(array) - np.asarray(before[key])
  return updates


def _learned_arrays(state) -> dict[str, Any]:
  """The parameters, and what the quantizer learns, by name."""
  learned_by_quantizer = state.extra.get("state", {})
  return tree.flatten(
      {"params": state.params, "state": learned_by_quantizer})


# ── Steps that are only compiled ────────────────────────────────────────────


def _shallow(model: Fields, part: int, parts: int) -> dict[str, Any]:
  """The fields of a model with part/parts of its layers."""
  shallow = dict(model)
  # The shares are whole layers: `parts` divides every depth.
  for name in _DEPTHS:
    if name in model:
      shallow[name] = model[name] * part // parts
  return shallow


def _compiled(name: str, problem: Problem,
              make_naive: Callable[[int, int], Problem],
              batch: Mapping[str, Any], model: Fields,
              compile_program: Compile) -> Row:
  """Both steps compiled, but not run.

  Args:
    name: of the row.
    problem: whose step is ours.
    make_naive: (part, parts) → the problem with part/parts of the layers.
    batch: shapes.
    model: fields of the model, for its depths.
    compile_program: see `measure.compile_program`.
  """

  def compile_step(step, problem, what):
    return compile_program(
        step, problem.state_shapes(), noise.shapes_of(problem.frozen), batch,
        what=f"{name} {what}", donate=(0,), to_run=False)

  def compile_naive(part, parts):
    shallow = make_naive(part, parts)
    share = f"naive, {part}/{parts} of the layers"
    return compile_step(shallow.naive, shallow, share)

  # Ours scans over its layers, so that all of them compile quickly.
  ours = compile_step(problem.ours, problem, "ours")
  # As many shares as divide every depth into whole layers.
  depths = [model[key] for key in _DEPTHS if key in model]
  parts = math.gcd(*depths)
  naive = _extrapolate_layers(compile_naive, parts)
  return rows.memory_row(name, ours, naive)


def _extrapolate_layers(compile_naive: Callable[[int, int], Program],
                        parts: int) -> Program:
  """The naive program with all layers.

  That of a deep model takes minutes to compile. So it is compiled with one of
  `parts` shares of the layers and with two, and continued in a straight line:
  what it keeps and computes is a sum over layers.
  """
  # With so few layers the whole is as cheap as its shares.
  if parts <= 2:
    return compile_naive(parts, parts)
  one = compile_naive(1, parts)
  two = compile_naive(2, parts)
  return measure.extrapolate(one, two, steps=parts - 1)
