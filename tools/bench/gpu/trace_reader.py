"""Which kernels a program spends its time in."""

import collections
import pathlib
import tempfile

import jax

from tools.bench.gpu.setting import Line
from tools.bench.gpu.timing import Run

# Kernels that are listed, the slowest first.
_NUM_LISTED = 12
# Letters of a kernel's name that are shown.
_NAME_LENGTH = 70


def record(run: Run) -> Line:
  """Number and milliseconds of the kernels of one run, and the slowest ones."""
  # Compiled before anything is recorded.
  jax.block_until_ready(run())
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      jax.block_until_ready(run())
    path, = pathlib.Path(folder).rglob("*.xplane.pb")
    profile = jax.profiler.ProfileData.from_file(str(path))
    return _summary(_events(profile))


def _events(profile):
  """(name, milliseconds) of everything that ran on the device."""
  on_gpu = jax.default_backend() == "gpu"
  for plane in profile.planes:
    is_device = "GPU" in plane.name if on_gpu else "CPU" in plane.name
    if not is_device:
      continue
    for line in plane.lines:
      # A GPU's plane has lines of other things too, such as source lines.
      if on_gpu and "Stream" not in line.name:
        continue
      for event in line.events:
        yield event.name[:_NAME_LENGTH], event.duration_ns / 1e6


def _summary(events) -> Line:
  milliseconds = collections.Counter()
  num_kernels = 0
  for name, duration in events:
    milliseconds[name] += duration
    num_kernels += 1
  slowest = milliseconds.most_common(_NUM_LISTED)
  return {
      "kernels": num_kernels,
      "ms": sum(milliseconds.values()),
      "slowest": dict(slowest),
  }
