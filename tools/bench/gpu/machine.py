"""What the machine can do: arithmetic, memory, and the way to the device."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from tools.bench import noise
from tools.bench.gpu import timing
from tools.bench.gpu.setting import Ceilings, Line, Setting

# Small operations that follow each other in one program.
_NUM_SMALL = 1000


def measure_ceilings(setting: Setting) -> tuple[Ceilings, Line]:
  """The ceilings that later parts are held against, and their line."""
  ceilings = Ceilings(
      flops=_flops_per_second(setting),
      bandwidth=_bytes_per_second(setting))
  line = {
      "device": jax.devices()[0].device_kind,
      "jax": jax.__version__,
      "tflop_s": ceilings.flops / 1e12,
      "tb_s": ceilings.bandwidth / 1e12,
      "us_per_small_operation": _seconds_per_operation(setting) * 1e6,
  }
  return ceilings, line


def _flops_per_second(setting):
  """Of a product of square matrices in half precision."""
  side = setting.matrix_side
  # Noise: zeros and ones use less power, and so run faster than real numbers.
  matrix = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
  multiply = jax.jit(jnp.matmul)
  seconds = timing.seconds_in_flight(
      lambda: multiply(matrix, matrix), setting.repeats)
  return 2 * side**3 / seconds


def _bytes_per_second(setting):
  """Of an array that is read once and written once."""
  array = jnp.ones(setting.array_bytes // 4, jnp.float32)
  add_one = jax.jit(lambda x: x + 1)
  seconds = timing.seconds_each(lambda: add_one(array), setting.repeats)
  return 2 * array.nbytes / seconds


def _seconds_per_operation(setting):
  """Of a product so small that starting it is all that takes time."""
  matrix = jnp.eye(128)

  def multiply_often(x):
    # Each product needs the one before, so none can be left out or joined.
    return jax.lax.fori_loop(0, _NUM_SMALL, lambda _, x: x @ matrix, x)

  multiply_often = jax.jit(multiply_often)
  x = jnp.ones((8, 128))
  seconds = timing.seconds_each(lambda: multiply_often(x), setting.repeats)
  return seconds / _NUM_SMALL


def host_to_device(setting: Setting, ceilings: Ceilings) -> Iterator[Line]:
  """How fast a training batch reaches the device, as it is and as bytes."""
  del ceilings
  batch_size = setting.batch_sizes[0]
  batch = noise.make_batch(setting.stage_i, batch_size)
  yield _time_transfer(batch, setting, as_bytes=False)
  small = {}
  for name, array in batch.items():
    small[name] = array.astype(np.uint8)
  yield _time_transfer(small, setting, as_bytes=True)


def _time_transfer(batch, setting, as_bytes):
  batch_size = setting.batch_sizes[0]
  num_bytes = sum(array.nbytes for array in batch.values())
  seconds = timing.seconds_each(
      lambda: jax.device_put(batch), setting.repeats)
  return {
      "batch": batch_size,
      "as_bytes": as_bytes,
      "mb_per_image": num_bytes / batch_size / 1e6,
      "gb_s": num_bytes / seconds / 1e9,
      "images_s": batch_size / seconds,
  }
