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
  counts = [environ.get(name, "") for name in COUNTS]
  return (any(n.isdecimal() and int(n) > 1 for n in counts)
          or "," in environ.get(HOSTS, ""))


def join(coordinator: str | None = None, num_processes: int | None = None,
         process_id: int | None = None, distributed: bool = False, *,
         initialize: Callable[..., None] = jax.distributed.initialize) -> None:
  """Joins the other processes; returns once all are there.

  Call it before anything is computed. Without arguments and outside of a
  cluster it does nothing.

  Args:
    coordinator: 'host:port' of process 0, where nothing else tells it.
    num_processes: how many there are; together with `coordinator`.
    process_id: which this one is, 0, 1, …; together with `coordinator`.
    distributed: let JAX detect all three, even if no launcher is recognised.
    initialize: joins the processes.

  Raises:
    ConfigError: some of the three are missing, or nobody answers.
  """
  given = {"--coordinator": coordinator, "--num_processes": num_processes,
           "--process_id": process_id}
  missing = [name for name, value in given.items() if value is None]
  if missing and len(missing) < len(given):
    raise ConfigError(f"{missing[0]} is missing: {', '.join(given)} belong "
                      "together.")
  if missing and not (distributed or launched_together(os.environ)):
    return
  try:
    initialize(
        coordinator_address=coordinator, num_processes=num_processes,
        process_id=process_id)
  except (ValueError, RuntimeError) as e:
    how = "Cluster detection" if missing else ", ".join(
        f"{name} {value}" for name, value in given.items())
    raise ConfigError(f"{how} did not bring the processes together: {e}. "
                      f"Give {', '.join(given)}.") from e
