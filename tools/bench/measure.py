"""What every benchmark needs: programs, two sides in turn, memory, a ceiling.

A machine that does other things slows down by the second. So our code and the
naive one run in turns, and what is compared is their ratio. What the machine
can do at best, a plain matrix product and plain reading, is measured in the
same process.
"""

import concurrent.futures
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# Memory of the run before goes back to the system after its result is there.
# For gigabytes that takes a while, which the next run should not pay for.
SETTLE_S = 0.1


class Disagree(Exception):
  """Our code and the naive one do not compute the same."""


def require(condition: bool, message: str) -> None:
  """Raises Disagree with `message` unless the condition holds."""
  if not condition:
    raise Disagree(message)


def relative_error(ours: Any, naive: Any) -> float:
  """|ours − naive| / |naive| as whole vectors (0 if both are zero)."""
  ours = np.asarray(ours, np.float64)
  naive = np.asarray(naive, np.float64)
  error = np.linalg.norm(ours - naive)
  scale = np.linalg.norm(naive)
  # Not divided by zero: then the error itself says enough.
  return float(error / scale) if scale else float(error)


def say(text: str) -> None:
  """Progress, to the error stream: the report alone is on the other one."""
  print(f"  {text}", file=sys.stderr, flush=True)


# ── Programs ────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program and what is known of it before it runs.

  Attributes:
    call: runs it; None where it is extrapolated.
    temp_bytes: its scratch memory, on all devices together.
    flops: its operations, see tools/bench/flops.py.
  """
  call: Callable[..., Any] | None
  temp_bytes: int
  flops: float


@dataclasses.dataclass(frozen=True)
class Run:
  """A program with its arguments, to be called again and again."""
  program: Program
  arguments: tuple[Any, ...]

  def __call__(self) -> Any:
    """Its result, when that is complete."""
    import jax
    return jax.block_until_ready(self.program.call(*self.arguments))


def compile_program(function: Callable[..., Any], *args: Any, what: str,
                    donate: tuple[int, ...] = (),
                    to_run: bool = True,
                    options: Mapping[str, Any] | None = None) -> Program:
  """Compiles a function ahead of time for such arguments (arrays or shapes).

  Args:
    function: what is compiled.
    *args: its arguments.
    what: its name, for the progress.
    donate: places of arguments that it may overwrite.
    to_run: False: for its memory, operations or results alone. A CPU's machine
      code is then not optimized. That changes none of them but rounding, and
      it takes less time to compile.
    options: further options of the compiler.
  """
  import jax

  from tools.bench import flops
  start = time.perf_counter()
  # In three steps, because the operations are counted on the traced program and
  # the memory is known once it is compiled.
  traced = jax.jit(function, donate_argnums=donate).trace(*args)
  platform = jax.default_backend()
  options = dict(options or {})
  if platform == "cpu" and not to_run:
    options["xla_backend_optimization_level"] = 0
  executable = traced.lower().compile(compiler_options=options)
  # The compiler tells the scratch memory of one device.
  num_devices = len(_devices_of(executable))
  temp_bytes = executable.memory_analysis().temp_size_in_bytes * num_devices
  program = Program(
      call=executable,
      temp_bytes=temp_bytes,
      flops=flops.count(traced.jaxpr, platform))
  seconds = time.perf_counter() - start
  say(f"compiled {what} in {seconds:.0f} s: "
      f"{program.temp_bytes / 1e6:.0f} MB temp, "
      f"{program.flops / 1e9:.1f} GFLOP")
  return program


def _devices_of(executable) -> set[Any]:
  """The devices that run a compiled program."""
  import jax
  sharding, *_ = jax.tree.leaves(executable.output_shardings)
  return sharding.device_set


def extrapolate(one: Program, two: Program, steps: int) -> Program:
  """`one` plus `steps` times what `two` has more; for growth that is linear."""
  more_bytes = two.temp_bytes - one.temp_bytes
  more_flops = two.flops - one.flops
  return Program(None, one.temp_bytes + steps * more_bytes,
                 one.flops + steps * more_flops)


# ── Time ────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds of repeated runs.

  Attributes:
    wall: of each run, on the clock.
    cpu: of each run, of all cores together.
  """
  wall: list[float]
  cpu: list[float]

  @property
  def median(self) -> float:
    return float(np.median(self.wall))

  @property
  def cpu_median(self) -> float:
    return float(np.median(self.cpu))


def alternate(*sides: Callable[[], Any], repeats: int,
              budget_s: float = 6) -> list[Times]:
  """Times of each side, run in turns.

  Args:
    *sides: do the work once and wait for it. They are compiled and have run
      before, because their results have been compared.
    repeats: runs of each.
    budget_s: after these seconds no round begins, but for the first three.
  """
  times = [Times([], []) for _ in sides]
  start = time.perf_counter()
  for num_done in range(repeats):
    seconds = time.perf_counter() - start
    # A slow benchmark stops early, but not before a median makes sense.
    if num_done >= 3 and seconds > budget_s:
      break
    # In turns: a slow second of the machine then hits all sides.
    for side, times_of_side in zip(sides, times, strict=True):
      # Before the clock starts; see SETTLE_S.
      time.sleep(SETTLE_S)
      wall_start = time.perf_counter()
      cpu_start = time.process_time()
      side()
      times_of_side.wall.append(time.perf_counter() - wall_start)
      times_of_side.cpu.append(time.process_time() - cpu_start)
  return times


def peak_flops(size: int = 2048, repeats: int = 5) -> float:
  """The machine's best operations per second at a product of float32 matrices.

  Args:
    size: their side.
    repeats: runs, of which the best counts.
  """
  import jax
  import jax.numpy as jnp
  matrix = jnp.ones((size, size), jnp.float32)
  multiply = jax.jit(jnp.matmul)

  def run():
    jax.block_until_ready(multiply(matrix, matrix))

  times, = alternate(run, repeats=repeats)
  # The best run, because a ceiling is what the machine can do at all.
  return 2 * size**3 / min(times.wall)


def read_rate(num_bytes: float, repeats: int = 10) -> float:
  """Bytes per second that all cores together read, again and again.

  Args:
    num_bytes: of what is read. What fits into a cache is read faster.
    repeats: runs, of which the best counts.
  """
  num_parts = num_cores()
  part_size = int(num_bytes) // num_parts // 4
  parts = [np.ones(part_size, np.int32) for _ in range(num_parts)]
  with concurrent.futures.ThreadPoolExecutor(num_parts) as pool:

    def run():
      # The largest number: nothing that reads all of an array does less.
      list(pool.map(np.max, parts))

    times, = alternate(run, repeats=repeats)
  total_bytes = sum(part.nbytes for part in parts)
  return total_bytes / min(times.wall)


def num_cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    # A scheduler may grant fewer cores than the machine has.
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


# ── Memory of the process ───────────────────────────────────────────────────


class PeakMemory:
  """Growth of this process's peak resident memory; a context manager.

  Attributes:
    bytes: the growth, when the block has ended; None where the system does
      not tell (it is not Linux).
  """

  def __enter__(self):
    try:
      # Writing 5 resets the peak to what is resident now.
      with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
      self._start = self._read("VmRSS")
    except OSError:
      self._start = None
    return self

  def __exit__(self, *error):
    self.bytes = None
    if self._start is not None:
      self.bytes = max(0, self._read("VmHWM") - self._start)

  def _read(self, field: str) -> int:
    """A size that Linux tells of this process, in bytes."""
    with open("/proc/self/status") as file:
      for line in file:
        if line.startswith(f"{field}:"):
          # The file counts in kB.
          return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
