"""Angles between normals: known ones, pooled over the pixels of all images."""

import types

import numpy as np
import pytest

import evaluators
from evaluators import base, normals


def tilted(degrees, shape=(4, 6)):
  """Normals that lean to the right by so many degrees."""
  a = np.deg2rad(np.broadcast_to(np.float32(degrees), shape))
  return np.stack([np.sin(a), 0 * a, np.cos(a)], -1).astype(np.float32)


def test_known_angles():
  truth = tilted(0)
  truth[0] = 0
  for degrees in (0, 10, 90, 180):
    got = normals.angles(truth, tilted(degrees))
    assert got.shape == (18,)
    np.testing.assert_allclose(got, degrees, atol=1e-3)
  np.testing.assert_allclose(
      normals.angles(truth, np.zeros((4, 6, 3), np.float32)), 90)
  # A prediction of half the size, and of any length.
  small = 3 * tilted([[0, 10, 20], [30, 40, 50]], (2, 3))
  np.testing.assert_allclose(
      normals.angles(tilted(0), small).reshape(4, 6),
      np.repeat(np.repeat([[0, 10, 20], [30, 40, 50]], 2, 0), 2, 1),
      atol=1e-3)


def test_figures_are_pooled_over_pixels():
  truths = [tilted(0, (2, 2)), tilted(0, (4, 4))]
  angles = [np.float32([[5, 12], [25, 80]]), np.full((4, 4), 20, np.float32)]
  source = types.SimpleNamespace(num_examples=2, example=lambda i: {
      "image/id": i, "labels": truths[i]})

  def predictions():
    for i, angle in enumerate(angles):
      yield {"normals": tilted(angle, angle.shape), "image/id": i}

  evaluator = evaluators.make_evaluator(
      "normals", source, {"pp_truth": 'keep("labels")'})
  got = base.score(evaluator, predictions())
  pooled = np.concatenate([a.ravel() for a in angles])
  assert got["mean_angle"] == pytest.approx(pooled.mean(), abs=1e-3)
  assert got["median_angle"] == pytest.approx(20, abs=1e-3)
  assert got["below_11.25"] == pytest.approx(5)
  assert got["below_22.5"] == pytest.approx(90)
  assert got["below_30"] == pytest.approx(95)
