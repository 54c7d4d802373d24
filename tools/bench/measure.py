"""What every benchmark needs: two sides in turn, medians, memory, a ceiling.

A machine that does other things slows down by the second. So our code and the
naive one run in turns, and what is compared is their ratio; the ceiling, a
plain matrix product, is measured in the same process.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


class Disagree(Exception):
  """Our code and the naive one do not compute the same."""


@dataclasses.dataclass
class Row:
  """One line of the report; None where a figure has no meaning.

  Attributes:
    name: of the benchmark and, after a space, of its variant.
    unit: of `ours` and `naive`.
    ours, naive: medians.
    ratio: how many times better ours is, whichever direction is better.
    temp_bytes_ours, temp_bytes_naive: scratch memory of the compiled program;
      where nothing is compiled, growth of the process's peak.
    flops_ours, flops_naive: per run, see tools/bench/flops.py.
    details: further figures by name, for the printed report only.
  """
  name: str
  unit: str
  ours: float
  naive: float | None = None
  ratio: float | None = None
  temp_bytes_ours: float | None = None
  temp_bytes_naive: float | None = None
  flops_ours: float | None = None
  flops_naive: float | None = None
  details: dict[str, Any] = dataclasses.field(default_factory=dict)

  def to_json(self) -> dict[str, Any]:
    """What `--json` writes."""
    fields = dataclasses.asdict(self)
    del fields["details"]
    return fields


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program and what is known of it before it runs."""
  call: Callable[..., Any]
  temp_bytes: int
  argument_bytes: int
  flops: float


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds of repeated runs: on the clock, and of all cores together."""
  wall: list[float]
  cpu: list[float]

  @property
  def median(self) -> float:
    return float(np.median(self.wall))

  def summary(self) -> dict[str, float]:
    return dict(min=min(self.wall), max=max(self.wall), runs=len(self.wall),
                cpu=float(np.median(self.cpu)))


def say(text: str) -> None:
  """Progress, to the error stream: the report alone is on the other one."""
  print(f"  {text}", file=sys.stderr, flush=True)


def compiled(fn: Callable[..., Any], *args: Any, what: str,
             donate: tuple[int, ...] = (), to_run: bool = True) -> Program:
  """Compiles `fn` ahead of time for such arguments (arrays or shapes).

  Args:
    fn: what is compiled.
    *args: its arguments.
    what: its name, for the progress.
    donate: places of arguments that it may overwrite.
    to_run: False: for its memory, operations or results alone; a CPU's machine
      code is then not optimised, which changes none of them but rounding, and
      takes less time to compile.
  """
  import jax

  from tools.bench import flops as bench_flops
  start = time.perf_counter()
  traced = jax.jit(fn, donate_argnums=donate).trace(*args)
  platform = jax.default_backend()
  options = {} if to_run or platform != "cpu" else {
      "xla_backend_optimization_level": 0}
  program = traced.lower().compile(compiler_options=options)
  memory = program.memory_analysis()
  out = Program(program, memory.temp_size_in_bytes,
                memory.argument_size_in_bytes,
                bench_flops.count(traced.jaxpr, platform))
  say(f"compiled {what} in {time.perf_counter() - start:.0f} s: "
      f"{out.temp_bytes / 1e6:.0f} MB temp, {out.flops / 1e9:.1f} GFLOP")
  return out


def extrapolated(one: Program, two: Program, steps: int) -> Program:
  """`one` plus `steps` times what `two` has more; for growth that is linear."""
  fields = ("temp_bytes", "argument_bytes", "flops")
  values = {name: getattr(one, name) + steps * (
      getattr(two, name) - getattr(one, name)) for name in fields}
  return Program(None, **values)


# Memory of the run before goes back to the system after its result is there:
# of gigabytes that takes a while, which the next run should not pay for.
SETTLE_S = 0.1


def alternate(*sides: Callable[[], Any], repeats: int, budget_s: float = 6
              ) -> list[Times]:
  """Times of each side, run in turns.

  Args:
    *sides: do the work once and wait for it; compiled, and run before: both
      sides' results have been compared.
    repeats: runs of each.
    budget_s: after these seconds no round is begun, but for the first three.
  """
  times = [Times([], []) for _ in sides]
  start = time.perf_counter()
  for done in range(repeats):
    if done >= min(3, repeats) and time.perf_counter() - start > budget_s:
      break
    for side, kept in zip(sides, times, strict=True):
      time.sleep(SETTLE_S)
      wall, cpu = time.perf_counter(), time.process_time()
      side()
      kept.wall.append(time.perf_counter() - wall)
      kept.cpu.append(time.process_time() - cpu)
  return times


def ceiling(dtype: str = "float32", size: int = 2048, repeats: int = 5
            ) -> float:
  """The machine's best FLOP/s at a product of square matrices."""
  import jax
  import jax.numpy as jnp
  x = jnp.ones((size, size), dtype)
  product = jax.jit(jnp.matmul)
  times, = alternate(lambda: jax.block_until_ready(product(x, x)),
                     repeats=repeats)
  return 2 * size**3 / min(times.wall)


def bandwidth(megabytes: int = 256, repeats: int = 5) -> float:
  """The machine's best bytes/s at reading one long array."""
  import jax
  import jax.numpy as jnp
  x = jnp.ones(megabytes * 2**18, jnp.float32)
  total = jax.jit(jnp.sum)
  times, = alternate(lambda: jax.block_until_ready(total(x)), repeats=repeats)
  return x.nbytes / min(times.wall)


def timed_row(name: str, times: list[Times], *, items: int, unit: str,
              programs: tuple[Program | None, Program | None] = (None, None),
              ceiling_flops: float | None = None, **details: Any) -> Row:
  """A row of throughputs.

  Args:
    name: of the row.
    times: of ours and of the naive side.
    items: images, words, … of one run.
    unit: such as 'images/s'.
    programs: both sides as compiled.
    ceiling_flops: see `ceiling`.
    **details: passed on.
  """
  ours, naive = times
  row = Row(name, unit, items / ours.median, items / naive.median,
            naive.median / ours.median)
  for side, program, time_of in zip(("ours", "naive"), programs, times,
                                    strict=True):
    row.details[f"seconds_{side}"] = time_of.median
    row.details |= {f"{k}_{side}": v for k, v in time_of.summary().items()}
    if program is not None:
      add_program(row, side, program)
      row.details[f"gflops_{side}"] = program.flops / time_of.median / 1e9
  if ceiling_flops:
    row.details["ceiling_gflops"] = ceiling_flops / 1e9
  row.details |= details
  return row


def add_program(row: Row, side: str, program: Program) -> None:
  """Enters memory and operations of one side."""
  setattr(row, f"temp_bytes_{side}", program.temp_bytes)
  setattr(row, f"flops_{side}", program.flops)
  row.details[f"argument_bytes_{side}"] = program.argument_bytes


def require(condition: bool, message: str) -> None:
  """Raises Disagree with `message` unless the condition holds."""
  if not condition:
    raise Disagree(message)


def relative_error(ours: Any, naive: Any) -> float:
  """|ours − naive| / |naive| as whole vectors (0 if both are zero)."""
  ours, naive = (np.asarray(x, np.float64) for x in (ours, naive))
  error, scale = np.linalg.norm(ours - naive), np.linalg.norm(naive)
  return float(error / scale) if scale else float(error)


class PeakMemory:
  """Growth of this process's peak resident memory (Linux; elsewhere None)."""

  def __enter__(self):
    try:
      # Writing 5 resets the peak to what is resident now.
      with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
      self.start = self._read("VmRSS")
    except OSError:
      self.start = None
    return self

  def __exit__(self, *error):
    self.bytes = (None if self.start is None
                  else max(0, self._read("VmHWM") - self.start))

  def _read(self, field: str) -> int:
    with open("/proc/self/status") as file:
      line = next(x for x in file if x.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def num_cores() -> int:
  """Cores this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
