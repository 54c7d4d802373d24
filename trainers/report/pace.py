"""How fast a run is and when it will be done: what its progress line says.

Training steps and the passes of evaluators are timed apart. How long a pass
takes is not known before the first one: a language model draws word by word,
perhaps several samples, and an image encoder may run. No step tells of that.
Until then the line names the evaluators that it does not count.
"""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

# The step, counted from the start of the session, whose logs tell how long the
# run will take. The steps before it are timed; the first one compiles.
_TIMED_STEPS = 5
# A run whose reports are further apart shows a line after so many seconds.
_MAX_SECONDS = 60


class Pass(NamedTuple):
  """A pass that an evaluator makes again and again.

  Attributes:
    name: of the evaluator.
    period: steps from one pass to the next; None: only at the end.
    num_images: of its split.
  """
  name: str
  period: int | None
  num_images: int


class Pace:
  """The clock of a run."""

  def __init__(
      self,
      *,
      start_step: int,
      total_steps: int,
      batch_size: int,
      passes: Sequence[Pass] = (),
      clock: Callable[[], float] = time.monotonic,
  ):
    """Starts the clock.

    Args:
      start_step: steps that were done before this session.
      total_steps: of the run.
      batch_size: global.
      passes: of the evaluators.
      clock: tells the time in seconds.
    """
    self._first_step = start_step + 1
    self._total_steps = total_steps
    self._batch_size = batch_size
    self._passes = passes
    self._clock = clock
    self._step = start_step
    self._time = clock()
    self._has_compiled = False
    # The evaluators that the newest line with all parts did not count.
    self._told_untimed: list[str] | None = None
    self._pass_seconds: dict[str, float] = {}  # Evaluator → its newest pass.

  def is_due(self, step: int) -> bool:
    """Whether a line should be shown now, even where nothing is reported.

    Args:
      step: the newest one; its logs can be read.
    """
    is_early = step in (self._first_step, self._first_step + _TIMED_STEPS)
    return is_early or self._clock() - self._time > _MAX_SECONDS

  def pause(self, step: int) -> None:
    """Restarts the clock: only training counts, from `step` on."""
    self._step = step
    self._time = self._clock()

  def note_pass(self, name: str, seconds: float) -> None:
    """Notes how long an evaluator took."""
    self._pass_seconds[name] = seconds

  def line(self, step: int, loss: float) -> str:
    """The progress line of a step, which starts the clock anew."""
    seconds = self._clock() - self._time
    num_steps = step - self._step
    self.pause(step)
    beginning = f"step {step}/{self._total_steps}  loss {loss:.4f}"
    if not self._has_compiled:
      self._has_compiled = True
      return f"{beginning}  compiled in {duration(seconds)}"
    step_seconds = seconds / max(num_steps, 1)
    images_per_second = num_steps * self._batch_size / max(seconds, 1e-9)
    left = self._left(step, step_seconds)
    return f"{beginning}  {images_per_second:.3g} img/s  {left}"

  def _left(self, step: int, step_seconds: float) -> str:
    """The time to the end; with its parts once and when more are known."""
    training = (self._total_steps - step) * step_seconds
    scoring = self._scoring_seconds(step)
    untimed = self._untimed(step)
    left = f"{duration(training + scoring)} left"
    is_early = step < self._first_step + _TIMED_STEPS
    if is_early or untimed == self._told_untimed:
      return f"{left} without evaluations" if untimed else left
    self._told_untimed = untimed
    parts = ""
    if scoring:
      parts += f", of which evaluations take {duration(scoring)}"
    if untimed:
      parts += (f", without the evaluations {', '.join(untimed)}, whose time "
                "is not known before their first pass")
    return f"about {left}{parts}; memory so far: {peak_memory()}"

  def _scoring_seconds(self, step: int) -> float:
    """How long the passes at `step` and later will take, if it is known."""
    total = 0.0
    for item in self._passes:
      seconds = self._pass_seconds.get(item.name, 0.0)
      total += seconds * self._num_left(item, step)
    return total

  def _untimed(self, step: int) -> list[str]:
    """The evaluators that are still to make their first pass."""
    names = []
    for item in self._passes:
      if item.name not in self._pass_seconds and self._num_left(item, step):
        names.append(item.name)
    return names

  def _num_left(self, item: Pass, step: int) -> int:
    """How many passes an evaluator makes at `step` and later."""
    # One that has no period reports at the end.
    period = item.period or self._total_steps
    # The line of a step comes before its passes, so they count.
    num_before = (step - 1) // period
    count = self._total_steps // period - num_before
    ends_between = self._total_steps % period != 0
    return count + ends_between


def duration(seconds: float) -> str:
  """Such as '40 s', '75 min' or '9 h 5 min'."""
  if seconds < 100:
    return f"{seconds:.0f} s"
  minutes = round(seconds / 60)
  if minutes < 100:
    return f"{minutes} min"
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes} min"


def peak_memory() -> str:
  """The most that this process has used: of its devices, or of the machine."""
  gigabyte = 1e9
  most = 0
  for device in jax.local_devices():
    stats = device.memory_stats() or {}
    most = max(most, stats.get("peak_bytes_in_use", 0))
  if most:
    return f"{most / gigabyte:.2g} GB on a device"
  # A CPU has no memory of its own.
  usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  unit = 1 if sys.platform == "darwin" else 1024
  return f"{usage * unit / gigabyte:.2g} GB"
