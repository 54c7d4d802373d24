"""Several processes as one run: how they find each other.

JAX itself knows how TPU pods, Slurm, Open MPI and Kubernetes name a process.
This file only decides whether to ask it; on a single machine it does not.
"""

import os
from collections.abc import Callable, Mapping

import jax

from uvim.registry import ConfigError

# In these a launcher tells each of its processes how many there are. Not in
# SLURM_NTASKS: a script that `srun` did not start has it too, and is alone.
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
HOSTS = "TPU_WORKER_HOSTNAMES"


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
