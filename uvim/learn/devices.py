"""Which devices a process has; on a CPU, a spare one for predictions.

To draw a code is one small product after the other, and XLA computes such a
product on one core. With two devices each draws the codes of half of the
images, on a core of its own. A training step fills all cores from one device.
With two it would be slower, because they exchange their gradients. So the
second device is a spare: no mesh of a run takes it.
"""

import os

import jax

# Set where `add_spare` has made a second device.
_has_spare = False


def add_spare() -> None:
  """Asks for a spare CPU device; call it before JAX computes anything.

  It does nothing where it could not help, or where somebody else decides: on
  one core, in a run of several processes, after the user has set the number of
  CPU devices, or when the devices exist already.
  """
  global _has_spare
  is_set = (jax.config.jax_num_cpu_devices >= 0
            or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""))
  if is_set or num_cores() < 2 or jax.distributed.is_initialized():
    return
  try:
    jax.config.update("jax_num_cpu_devices", 2)
  except RuntimeError:
    # The devices exist already.
    return
  _has_spare = True


def of_runs() -> list[jax.Device]:
  """The devices that a mesh may take: all but the spare one."""
  devices = jax.devices()
  if spare() is None:
    return devices
  return devices[:1]


def spare() -> jax.Device | None:
  """The device for predictions alone; None: there is none.

  Where another device, such as a GPU, takes the place of the CPU, it has no
  use.
  """
  if not _has_spare or jax.default_backend() != "cpu":
    return None
  return jax.devices()[1]


def num_cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    # A scheduler may grant fewer cores than the machine has.
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
