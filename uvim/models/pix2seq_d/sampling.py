"""From noise to a mask, in steps.

B batch · h w mask pixels · n analog bits of a pixel

Randomness comes from the seed of an image alone, so what is drawn for it does
not depend on its batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from uvim.diffusion import schedules, steps
from uvim.diffusion.schedules import Level
from uvim.typing import Array, Float, PyTree, Seeds

Bits = Float[Array, "B h w n"]

# (noisy bits, their level of noise) → the bits without noise, in [-b, b].
Denoise = Callable[[Bits, Level], Bits]
# Number of a draw, traced → noise from N(0, 1) of the shape of the bits.
DrawNoise = Callable[[Any], Bits]


def generate(
    denoise: Denoise,
    draw_noise: DrawNoise,
    *,
    num_steps: int,
    time_difference: float,
    sampler: str,
    schedule: str,
) -> Bits:
  """The bits that the last of the steps takes for those without noise.

  Args:
    denoise: the network.
    draw_noise: draw 0 is where the sampling starts, draw i + 1 that of step i.
    num_steps: how often the network runs.
    time_difference: see `steps.times`.
    sampler: one that `steps.SAMPLER` allows.
    schedule: one that `schedules.SCHEDULE` allows.
  """
  times = steps.times(num_steps, time_difference)
  levels_now = schedules.level_at(jnp.asarray(times.now), schedule)
  levels_after = schedules.level_at(jnp.asarray(times.next), schedule)

  def run_step(index, carry):
    noisy, _ = carry
    now = _at(levels_now, index)
    clean = denoise(noisy, now)
    split = steps.split_by_clean(noisy, clean, now)
    new_noise = None
    if steps.needs_noise(sampler):
      new_noise = draw_noise(index + 1)
    after = _at(levels_after, index)
    noisy = steps.step(noisy, split, now, after, new_noise, sampler)
    return noisy, clean

  start = draw_noise(0)
  _, clean = jax.lax.fori_loop(
      0, num_steps, run_step, (start, jnp.zeros_like(start)))
  return clean


def _at(levels: Level, index) -> Level:
  """The level of one step."""
  return Level(levels.signal[index], levels.noise[index])


def noise_of_seeds(seeds_B: Seeds, shape: Sequence[int]) -> DrawNoise:
  """Noise that follows from the seed of each example and the draw's number.

  Args:
    seeds_B: one integer for each example.
    shape: of the bits of an example, [h, w, n].
  """

  def draw_noise(draw):
    def of_seed(seed):
      key = jax.random.fold_in(jax.random.key(seed), draw)
      return jax.random.normal(key, tuple(shape))

    return jax.vmap(of_seed)(seeds_B)

  return draw_noise


def map_by_rows(
    function: Callable[[PyTree], Array], arrays: PyTree, chunks: int
) -> Array:
  """A function of arrays [B, rows, …], for a few of their rows at a time.

  Only the numbers of these rows then exist at once; see `rows.mean_by_rows`.
  """
  if chunks == 1:
    return function(arrays)

  def split(array):
    batch_size, num_rows, *rest = array.shape
    split_array = array.reshape(batch_size, chunks, num_rows // chunks, *rest)
    return jnp.moveaxis(split_array, 1, 0)

  result = jax.lax.map(function, jax.tree.map(split, arrays))
  _, batch_size, _, *rest = result.shape
  return jnp.moveaxis(result, 0, 1).reshape(batch_size, -1, *rest)
