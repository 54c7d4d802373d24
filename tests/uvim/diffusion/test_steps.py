"""Noise added, and taken away."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim.diffusion import schedules, steps

SCALE = 0.1


def normal(seed):
  return jax.random.normal(jax.random.key(seed), (2, 8, 8, 8))


def level(t):
  return schedules.level_at(jnp.float32(t), "cosine")


@pytest.fixture(scope="module")
def clean():
  return SCALE * jnp.sign(normal(0))


def test_times_end_at_zero_and_never_below():
  one = steps.times(1)
  assert one.now.tolist() == [1] and one.next.tolist() == [0]
  far = steps.times(2, 5)
  assert far.now.tolist() == [1, 0.5] and far.next.tolist() == [0, 0]
  plain = steps.times(4)
  np.testing.assert_array_equal(plain.next[:-1], plain.now[1:])
  ahead = steps.times(4, 1)
  np.testing.assert_array_equal(ahead.next, [0.5, 0.25, 0, 0])


def test_at_the_end_there_is_noise_of_variance_one_alone(clean):
  noise = normal(1)
  noisy = steps.corrupt(clean, noise, level(1))
  np.testing.assert_allclose(noisy, noise, atol=1e-4)


def test_either_part_gives_the_other(clean):
  noise = normal(1)
  now = level(0.4)
  noisy = steps.corrupt(clean, noise, now)
  split = steps.split_by_clean(noisy, clean, now)
  np.testing.assert_allclose(split.noise, noise, atol=1e-5)
  np.testing.assert_allclose(
      steps.clean_of_noise(noisy, noise, now), clean, atol=1e-5)
  velocity = steps.velocity(clean, noise, now)
  np.testing.assert_allclose(
      steps.clean_of_velocity(noisy, velocity, now), clean, atol=1e-5)


def test_without_signal_or_noise_nothing_is_infinite(clean):
  for now in (steps.Level(jnp.float32(0), jnp.float32(1)),
              steps.Level(jnp.float32(1), jnp.float32(0))):
    noisy = steps.corrupt(clean, normal(1), now)
    split = steps.split_by_clean(noisy, clean, now)
    found = steps.clean_of_noise(noisy, normal(1), now)
    assert np.isfinite(split.noise).all() and np.isfinite(found).all()


@pytest.mark.parametrize("after", [0.9, 0.3, 0.0])
def test_ddim_goes_where_less_of_the_same_noise_is(clean, after):
  noise = normal(1)
  now = level(0.95)
  noisy = steps.corrupt(clean, noise, now)
  split = steps.split_by_clean(noisy, clean, now)
  found = steps.step(noisy, split, now, level(after), None, "ddim")
  expected = steps.corrupt(clean, noise, level(after))
  np.testing.assert_allclose(found, expected, atol=1e-5)
  if after == 0:
    np.testing.assert_allclose(found, clean, atol=2e-3)


@pytest.mark.parametrize("times", [(1.0, 0.9), (0.5, 0.3), (0.1, 0.05)])
def test_ddpm_leaves_as_much_noise_as_its_level_says(times):
  """With x_0 known, `small` is exactly what may have been there."""
  now, after = map(level, times)
  nothing = jnp.zeros(())
  noise = jnp.ones(())
  noisy = steps.corrupt(nothing, noise, now)
  split = steps.Split(nothing, noise)

  def step(noisy, split, new_noise, sampler="ddpm_small"):
    return float(steps.step(noisy, split, now, after, new_noise, sampler))

  of_old = step(noisy, split, nothing)
  none = steps.Split(nothing, nothing)
  of_new = step(nothing, none, noise)
  np.testing.assert_allclose(of_old**2 + of_new**2, after.noise, rtol=1e-3)
  # The signal has the strength of its level, too.
  clean = steps.Split(noise, nothing)
  signal = steps.corrupt(noise, nothing, now)
  np.testing.assert_allclose(
      step(signal, clean, nothing)**2, after.signal, rtol=1e-3)
  assert step(nothing, none, noise, "ddpm") >= of_new
