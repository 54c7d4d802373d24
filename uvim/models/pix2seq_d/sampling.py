"""From noise to a mask, in steps.

B batch · h w mask pixels · n analog bits of a pixel

Randomness comes from the seed of an image alone, so what is drawn for it does
not depend on its batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uvim import fields
from uvim.diffusion import schedules, steps
from uvim.diffusion.schedules import Level
from uvim.registry import ConfigError
from uvim.typing import Array, Float, Int, PyTree, Seeds

Bits = Float[Array, "B h w n"]

# (noisy bits, their level of noise, what the step before gave or zeros) → the
# bits without noise, in [-b, b].
Denoise = Callable[[Bits, Level, Bits], Bits]
# Number of a draw, traced → noise from N(0, 1) of the shape of the bits.
DrawNoise = Callable[[Any], Bits]


# (number of a step from 0, traced, the noisy bits that it starts with, and what
# the step before took for the bits without noise) → the noisy bits after it,
# and what it takes for the bits without noise.
RunStep = Callable[[Any, Bits, Bits], tuple[Bits, Bits]]


class Steps(NamedTuple):
  """What some steps of a sampling saw and said; [K, …], a row for each step.

  Attributes:
    noisy: what the network was given.
    clean: what it takes for that without noise.
  """
  noisy: Array
  clean: Array


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
  run_step = make_step(
      denoise, draw_noise, num_steps=num_steps,
      time_difference=time_difference, sampler=sampler, schedule=schedule)

  def go_on(index, carry):
    noisy, clean = carry
    return run_step(index, noisy, clean)

  start = draw_noise(0)
  _, clean = jax.lax.fori_loop(
      0, num_steps, go_on, (start, jnp.zeros_like(start)))
  return clean


def generate_steps(
    denoise: Denoise,
    draw_noise: DrawNoise,
    kept: Int[Array, "K"],
    read: Callable[[Bits], Array],
    **options: Any,
) -> Steps:
  """What some of the steps of `generate` saw and said.

  Args:
    denoise, draw_noise: as in `generate`.
    kept: numbers of the steps, rising, from 1 to `num_steps`.
    read: what is kept of bits.
    **options: all others of `generate`.
  """
  run_step = make_step(denoise, draw_noise, **options)

  def go_on(index, carry):
    _, noisy, clean = carry
    return (noisy, *run_step(index, noisy, clean))

  def go_to(carry, number):
    num_done, before, noisy, clean = carry
    before, noisy, clean = jax.lax.fori_loop(
        num_done, number, go_on, (before, noisy, clean))
    seen = Steps(read(before), read(clean))
    return (number, before, noisy, clean), seen

  start = draw_noise(0)
  none_yet = jnp.zeros_like(start)
  num_done = jnp.zeros((), kept.dtype)
  _, seen = jax.lax.scan(go_to, (num_done, none_yet, start, none_yet), kept)
  return seen


def check_kept(kept: Sequence[int], num_steps: int) -> tuple[int, ...]:
  """Numbers of steps, as a tuple.

  Raises:
    ConfigError: none, or they do not rise from 1 to `num_steps`.
  """
  # Plain numbers: an array has some of numpy's.
  kept = tuple(np.ravel(kept).tolist())
  are_numbers = bool(kept) and all(map(fields.integer(1, num_steps).fits, kept))
  if not are_numbers or sorted(set(kept)) != list(kept):
    raise ConfigError(f"steps = {list(kept)}; they must be numbers that rise, "
                      f"each from 1 to num_steps = {num_steps}.")
  return kept


def make_step(
    denoise: Denoise,
    draw_noise: DrawNoise,
    *,
    num_steps: int,
    time_difference: float,
    sampler: str,
    schedule: str,
) -> RunStep:
  """One step of `generate`, whose arguments these are."""
  times = steps.times(num_steps, time_difference)
  levels_now = schedules.level_at(jnp.asarray(times.now), schedule)
  levels_after = schedules.level_at(jnp.asarray(times.next), schedule)

  def run_step(index, noisy, clean_before):
    now = _at(levels_now, index)
    clean = denoise(noisy, now, clean_before)
    split = steps.split_by_clean(noisy, clean, now)
    new_noise = None
    if steps.needs_noise(sampler):
      new_noise = draw_noise(index + 1)
    after = _at(levels_after, index)
    noisy = steps.step(noisy, split, now, after, new_noise, sampler)
    return noisy, clean

  return run_step


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
