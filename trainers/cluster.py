"""Several processes as one run: how they find each other.

JAX itself knows how TPU pods, Slurm, Open MPI and Kubernetes name a process.
This file only decides whether to ask it; on a single machine it does not. It
also lets an error in one process end all of them.
"""

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np

from uvim.registry import ConfigError

# In these a launcher tells each of its processes how many there are. Not in
# SLURM_NTASKS: a script that `srun` did not start has it too, and is alone.
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
HOSTS = "TPU_WORKER_HOSTNAMES"
# Of a message that goes to the other processes.
_MAX_MESSAGE_BYTES = 4096

Result = TypeVar("Result")


def launched_together(environ: Mapping[str, str]) -> bool:
  """Whether the environment says that this process is one of several."""
  for name in COUNTS:
    count = environ.get(name, "")
    # Such a variable may be empty, or a list such as "4(x2)".
    if count.isdecimal() and int(count) > 1:
      return True
  # One name for each host, separated by commas.
  return "," in environ.get(HOSTS, "")


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    distributed: bool = False,
    *,
    initialize: Callable[..., None] = jax.distributed.initialize,
) -> None:
  """Joins the other processes; returns once all are there.

  Call it before anything is computed. Without arguments and outside of a
  cluster it does nothing. The first three arguments belong together.

  Args:
    coordinator: 'host:port' of process 0, where nothing else tells it.
    num_processes: how many there are.
    process_id: which this one is, 0, 1, ….
    distributed: let JAX detect all three, even if no launcher is recognised.
    initialize: joins the processes.

  Raises:
    ConfigError: some of the three are missing, or nobody answers.
  """
  given = {"--coordinator": coordinator, "--num_processes": num_processes,
           "--process_id": process_id}
  is_given = _are_all_given(given)
  if not (is_given or distributed or launched_together(os.environ)):
    return
  try:
    # JAX detects what is None.
    initialize(
        coordinator_address=coordinator,
        num_processes=num_processes,
        process_id=process_id)
  except (ValueError, RuntimeError) as e:
    how = _say(given) if is_given else "Cluster detection"
    raise ConfigError(
        f"{how} did not bring the processes together: {e}. Give "
        f"{', '.join(given)}.") from e


def _say(given: Mapping[str, object]) -> str:
  return ", ".join(f"{name} {value}" for name, value in given.items())


def _are_all_given(given: Mapping[str, object]) -> bool:
  """True if all of these have a value, False if none; else a ConfigError."""
  missing = [name for name, value in given.items() if value is None]
  if missing and len(missing) < len(given):
    raise ConfigError(
        f"{missing[0]} is missing: {', '.join(given)} belong together.")
  return not missing


def together(action: Callable[[], Result]) -> Result:
  """Does something in every process; an error in one is an error in all.

  Without it, the others would wait for one that has left. All processes must
  call it alike. The action itself must not compute anything together.

  Returns:
    What the action returned in this process.

  Raises:
    Exception: what the action raised in this process.
    ConfigError: it failed in another one, whose message this is.
  """
  if jax.process_count() == 1:
    return action()
  result = None
  own_error = None
  try:
    result = action()
  except Exception as error:  # noqa: BLE001
    own_error = error
  messages = share_text("" if own_error is None else _message(own_error))
  if own_error is not None:
    raise own_error
  for process, message in enumerate(messages):
    if message:
      raise ConfigError(f"process {process}: {message}")
  return result


def share_text(text: str) -> list[str]:
  """The text of each process, cut to 4096 bytes; all processes must call it."""
  # Here, because it must not be touched before jax.distributed is up.
  from jax.experimental import multihost_utils
  content = text.encode()[:_MAX_MESSAGE_BYTES]
  # Only arrays of one size travel.
  padded = np.zeros(_MAX_MESSAGE_BYTES, np.uint8)
  padded[:len(content)] = np.frombuffer(content, np.uint8)
  texts = []
  for row in multihost_utils.process_allgather(padded):
    sent = np.asarray(row).tobytes().rstrip(b"\0")
    texts.append(sent.decode(errors="replace"))
  return texts


def _message(error: Exception) -> str:
  """What went wrong, in a text that is not empty."""
  return str(error) or type(error).__name__
