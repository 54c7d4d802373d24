"""Line plots: where the points go, odd values, long curves."""

import math
import re

import numpy as np
import pytest

from tests.trainers.report.runs import PageReader
from trainers.report import plots


def curve_points(svg):
  """The (x, y) of the first curve, y upwards."""
  text = re.search(r'polyline points="([^"]*)"', svg)[1]
  pixels = [pair.split(",") for pair in text.split()]
  return np.array(pixels, float) * (1, -1)


@pytest.mark.parametrize("curve,log_y", [
    (lambda x: 3 * x - 7, False), (lambda x: 10.0**x, True)])
def test_a_straight_line_is_drawn_straight(curve, log_y):
  points = [(x, curve(x)) for x in range(9)]
  svg = plots.lines("t", {"a": points}, log_y=log_y)
  right, up = np.diff(curve_points(svg), axis=0).T
  slopes = up / right
  np.testing.assert_allclose(slopes, slopes[0], rtol=0.02)
  assert slopes[0] > 0


@pytest.mark.parametrize("values", [
    [], [5.0], [0.0, 0.0], [math.nan, math.inf, 2.0], [-1e-9, 1e9]])
@pytest.mark.parametrize("log_y", [False, True])
def test_odd_values_give_a_plot(values, log_y):
  points = list(enumerate(values))
  svg = plots.lines("a & <b>", {"c": points}, log_y=log_y)
  assert "nan" not in svg and "inf" not in svg
  assert "a &amp; &lt;b&gt;" in svg
  assert not PageReader(svg).open_tags


def test_long_curves_become_means_of_neighbors():
  long = [(step, float(step % 2)) for step in range(3000)]
  short = plots.thin(long)
  assert len(short) == 300
  xs, ys = np.transpose(short)
  assert ys.min() > 0.3 and ys.max() < 0.7
  assert xs.mean() == pytest.approx(1499.5)


def test_ticks_are_round_and_inside():
  assert plots.ticks(0, 10) == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize("low,high", [
    (0, 1), (3.2, 4.7), (-17, 2e6), (1e-9, 3e-9)])
def test_ticks_are_inside_and_few(low, high):
  got = plots.ticks(low, high)
  assert 2 <= len(got) <= 6
  assert got[0] >= low - 1e-9 * high
  assert got[-1] <= high * (1 + 1e-9)
  assert got == sorted(got)


def test_a_few_points_have_marks_with_their_values():
  points = [(step, 2.0 * step) for step in range(40)]
  svg = plots.lines("t", {"a <b>": points})
  assert svg.count("<circle") == 40
  assert "<title>a &lt;b&gt;: 6 at 3</title>" in svg
  assert "<circle" not in plots.lines("t", {"a": [*points, (40, 80.0)]})
