"""An evaluator that fails: what it says, and how all processes learn of it."""

import contextlib
import errno
import logging
import pathlib
import traceback
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from evaluators import common
from uvim.cli import app
from uvim.registry import ConfigError

# A full disk: the checkpoints of the run need it too.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_ELSEWHERE = "it failed in another process, whose log says why"

log = logging.getLogger(__name__)


class Trouble:
  """What goes wrong in a pass, in any process.

  All processes compute each batch together. If one left the pass alone, the
  others would wait for ever. So all of them leave it at the same batch.
  """

  def __init__(self):
    """Nothing went wrong so far."""
    self._text = ""

  @contextlib.contextmanager
  def noted(self) -> Iterator[None]:
    """Ends the block at an error, which is noted.

    Raises:
      Exception: an error that `ends_run`.
    """
    try:
      yield
    except Exception as error:
      if ends_run(error):
        raise
      # What follows from the first error says nothing new.
      if not self._text:
        self._text = describe(error)
        if jax.process_index():
          # Only process 0 reports what a pass found.
          log.warning("process %d: %s", jax.process_index(), self._text)

  def until_any_process_fails(
      self,
      start_batches: Callable[[], Iterator[common.Batch]],
  ) -> Iterator[common.Batch]:
    """The batches of a pass, until it fails in any process."""
    batches = iter(())
    with self.noted():
      batches = start_batches()
    while True:
      batch = None
      with self.noted():
        batch = next(batches, None)
      if self.agree() or batch is None:
        return
      yield batch

  def agree(self) -> str:
    """What went wrong in one line; "" if nothing did in any process.

    All processes must ask alike.
    """
    if jax.process_count() == 1:
      return self._text
    has_failed = np.array(bool(self._text))
    all_failed = multihost_utils.process_allgather(has_failed)
    if np.any(all_failed) and not self._text:
      self._text = _ELSEWHERE
    return self._text


def ends_run(error: Exception) -> bool:
  """Whether an error concerns more than the evaluator that met it."""
  if isinstance(error, OSError):
    return error.errno in _NO_SPACE
  # Asked to stop; no memory; a device that is gone.
  return isinstance(error, (app.Stop, MemoryError, jax.errors.JaxRuntimeError))


def describe(error: Exception) -> str:
  """An error in one line, with its place where it may be a fault of ours."""
  if isinstance(error, ConfigError):
    return str(error)
  name = type(error).__name__
  first_line = str(error).partition("\n")[0]
  if isinstance(error, OSError):
    return f"{name}: {first_line}"
  place = traceback.extract_tb(error.__traceback__)[-1]
  file_name = pathlib.Path(place.filename).name
  return f"{name}: {first_line} ({file_name}, line {place.lineno})"
