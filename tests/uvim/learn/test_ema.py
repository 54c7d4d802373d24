"""The running average of parameters."""

import numpy as np

from uvim.learn import ema


def test_the_average_follows_by_its_decay():
  average = {"a": np.zeros(2), "b": np.ones(1)}
  params = {"a": np.ones(2), "b": np.full(1, 3.0)}
  moved = ema.move(average, params, 0.75)
  np.testing.assert_allclose(moved["a"], [0.25, 0.25])
  np.testing.assert_allclose(moved["b"], [1.5])


def test_it_forgets_fast_at_first():
  decays = [float(ema.decay_at(updates, 0.99)) for updates in (0, 90, 10**6)]
  np.testing.assert_allclose(decays, [0.1, 0.91, 0.99], rtol=1e-6)
