"""The bound on the bits of a map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim.diffusion import likelihood, steps

NUM_LEVELS = 16
NUM_BITS = 6
NUM_EXAMPLES = 64


def bound(denoise, scale):
  """The mean bound of random bits under a denoiser of bits of ±scale."""
  rng = np.random.default_rng(0)
  shape = (NUM_EXAMPLES, 40, NUM_BITS)
  clean = scale * jnp.asarray(2.0 * rng.integers(0, 2, shape) - 1, jnp.float32)
  noise = jnp.asarray(rng.standard_normal(shape), jnp.float32)
  rngs_B = jax.random.split(jax.random.key(1), NUM_EXAMPLES)
  log_ratios_TB = likelihood.draw_log_ratios(rngs_B, NUM_LEVELS)
  errors = []
  for log_ratio_B in log_ratios_TB:
    level = likelihood.level_of(log_ratio_B[:, None, None], scale)
    noisy = steps.corrupt(clean, noise, level)
    error = (denoise(noisy, clean, level) - clean) / scale
    errors.append(jnp.mean(jnp.square(error), axis=(1, 2)))
  bits_B = likelihood.bits_per_pixel(
      jnp.stack(errors), log_ratios_TB, NUM_BITS, scale)
  return float(jnp.mean(bits_B))


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_the_best_model_of_independent_bits_needs_one_bit_each(scale):
  def best(noisy, clean, level):
    """The mean of a bit of ±scale, given itself with noise."""
    del clean
    tilt = scale * jnp.sqrt(level.signal) * noisy / level.noise
    return scale * jnp.tanh(tilt)

  assert bound(best, scale) == pytest.approx(NUM_BITS, rel=0.02)


def test_who_knows_the_map_needs_nothing():
  known = bound(lambda noisy, clean, level: clean, scale=1.0)
  assert 0 <= known < 0.001


def test_a_worse_model_costs_more():
  def shy(noisy, clean, level):
    del clean
    return 0.5 * jnp.tanh(jnp.sqrt(level.signal) * noisy / level.noise)

  assert bound(shy, scale=1.0) > 1.5 * NUM_BITS


def test_each_part_of_the_range_has_one_level():
  rngs_B = jax.random.split(jax.random.key(0), 5)
  log_ratios_TB = likelihood.draw_log_ratios(rngs_B, 8)
  edges = np.linspace(likelihood.LEAST, likelihood.MOST, 9)
  for part, values in enumerate(np.asarray(log_ratios_TB)):
    assert (values >= edges[part]).all() and (values <= edges[part + 1]).all()
  assert len(np.unique(log_ratios_TB)) == 40
