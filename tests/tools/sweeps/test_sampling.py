"""How a prior's samples are timed."""

import pytest

from tools.sweeps import sampling


def test_the_fastest_call_counts_and_not_the_first():
  # Each call takes as many seconds as the list says.
  durations = [0.001, 3.0, 0.5, 0.25, 4.0, 1.0]
  now = [0.0]
  calls = iter(durations)

  def predict():
    now[0] += next(calls)

  ms = sampling.best_ms_per_image(predict, 10, clock=lambda: now[0])
  assert ms == pytest.approx(25)
  assert next(calls, None) is None
