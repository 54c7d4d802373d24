"""Seconds of what runs on the device."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# Does the work once; what it returns may not be there yet.
Run = Callable[[], Any]

# Runs that wait for the device side by side. More would fill its memory.
_IN_FLIGHT = 5


def seconds_each(run: Run, repeats: int) -> float:
  """The median of runs that the host waits for, one after the other."""
  # The first one compiles.
  jax.block_until_ready(run())
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(run())
    seconds.append(time.perf_counter() - start)
  return float(np.median(seconds))


def seconds_in_flight(run: Run, repeats: int) -> float:
  """The mean of runs that the host starts before the last one has ended.

  The time that the host takes to start a run is hidden behind the run before.
  """
  jax.block_until_ready(run())
  num_runs = repeats * _IN_FLIGHT
  start = time.perf_counter()
  for _ in range(repeats):
    results = [run() for _ in range(_IN_FLIGHT)]
    jax.block_until_ready(results)
  return (time.perf_counter() - start) / num_runs


def milliseconds(seconds: float) -> float:
  return 1e3 * seconds
