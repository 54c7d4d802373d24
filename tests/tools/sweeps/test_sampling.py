"""How a prior's samples are timed."""

import pytest

from tools.sweeps import sampling


def test_the_fastest_batch_counts_and_not_what_compiles():
  # Each run of a program takes as many seconds as the list says.
  durations = iter([0.001, 3.0, 0.25, 4.0])
  now = [0.0]

  def compiled(name, **options):
    def program(variables, batch):
      now[0] += next(durations)
      return {"code": batch + variables, "name": name, **options}

    return program

  timed = sampling.Timed(compiled, clock=lambda: now[0])
  predict = timed("predict", num_iter=3)
  for batch in (1, 2, 3):
    outputs = predict(10, batch)
    assert outputs == {"code": batch + 10, "name": "predict", "num_iter": 3}
  assert timed.seconds == pytest.approx([3.0, 0.25, 4.0])
  assert timed.ms_per_image(10) == pytest.approx(25)
