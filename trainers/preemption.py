"""Notices that the machine is about to be taken away.

Once asked (SIGTERM, or Ctrl-C), a run finishes its step, saves, and leaves with
an exit code of its own; asked again, it stops at once.
"""

import signal
import sys
import threading

import jax

from uvim.cli import app


class Preempted(app.Stop):
  """The run was asked to stop and has saved what it has done."""

  exit_code = app.EXIT_PREEMPTED


class Watch:
  """A context in which the first SIGTERM or SIGINT is noted, not obeyed.

  With several processes JAX's preemption service listens instead: it finds a
  step that all of them can reach, whichever got the signal.
  """

  def __init__(self):
    self._asked = None
    self._old = {}

  def __enter__(self) -> "Watch":
    # Signals are the main thread's; JAX's service has a handler of its own.
    if (threading.current_thread() is threading.main_thread()
        and not jax.distributed.is_initialized()):
      for number in (signal.SIGTERM, signal.SIGINT):
        # In the background of a script Ctrl-C is ignored, and stays so.
        if signal.getsignal(number) != signal.SIG_IGN:
          self._old[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *exc) -> None:
    self._restore()

  def _note(self, number, frame) -> None:
    del frame
    self._asked = signal.Signals(number).name
    # The old handlers come back, so a second signal ends the process at once.
    self._restore()
    print(f"{self._asked}: stopping after this step, with a checkpoint; once "
          "more stops at once", file=sys.stderr, flush=True)

  def _restore(self) -> None:
    while self._old:
      signal.signal(*self._old.popitem())

  def check(self, step: int | None = None) -> None:
    """Raises Preempted if the run was asked to stop.

    Args:
      step: after a training step its number, by which processes agree; None
        elsewhere, where several processes do not stop.
    """
    if jax.distributed.is_initialized():
      if step is None:
        return
      # Here, because it must not be touched before jax.distributed is up.
      from jax.experimental import multihost_utils
      # True in all processes at the same step, or in none.
      if multihost_utils.reached_preemption_sync_point(step):
        raise Preempted("SIGTERM")
    elif self._asked:
      raise Preempted(self._asked)
