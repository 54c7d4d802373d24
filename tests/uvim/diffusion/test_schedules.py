"""Signal and noise by time."""

import numpy as np
import pytest

from uvim.diffusion import schedules
from uvim.registry import ConfigError

NAMES = (
    "cosine", "improved_cosine", "linear", "simple_linear", "cosine@0.2,1,2",
    "sigmoid@-3,3,0.9", "log@1,10,False", "log@1,10,True")
TIMES = np.linspace(0, 1, 33, dtype=np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_signal_falls_and_noise_is_the_rest(name):
  level = schedules.level_at(TIMES, name)
  signal = np.asarray(level.signal)
  assert signal[0] > 0.999 and 0 < signal[-1] < 1e-4
  assert (np.diff(signal) < 0).all()
  np.testing.assert_allclose(signal + level.noise, 1, atol=1e-6)


def cosine(t):
  return np.cos((t + 0.0002) / 1.00025 * np.pi / 2)**2


def improved_cosine(t):
  s = 0.008
  whole = np.cos(s / (1 + s) * np.pi / 2)**2
  return np.cos((t + s) / (1 + s) * np.pi / 2)**2 / whole


def linear(t):
  return np.exp(-0.1 * t - 9.95 * t**2)


@pytest.mark.parametrize("formula", [cosine, improved_cosine, linear])
def test_little_noise_keeps_its_digits(formula):
  t = np.float32([0, 1e-4, 1e-3])
  level = schedules.level_at(t, formula.__name__)
  # In float32, 1 - γ would have one or two digits, or none.
  expected = 1 - formula(t.astype(np.float64))
  np.testing.assert_allclose(level.noise, expected, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("name", [
    "cosin", "cosine@", "cosine@0,1", "cosine@1,0,1", "cosine@0,1,nan",
    "sigmoid@-3,3,0", "log@0,10,False", "log@1,10,2", "linear@0,1,1", 3])
def test_other_schedules_are_refused(name):
  assert not schedules.SCHEDULE.fits(name)
  if isinstance(name, str):
    with pytest.raises(ConfigError, match=f"schedule = {name!r}; it must be"):
      schedules.level_at(TIMES, name)
