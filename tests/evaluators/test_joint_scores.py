"""Scores of several answers, against their definitions written out."""

import numpy as np
import pytest
import scipy.stats

from evaluators import joint_scores
from evaluators.base import score
from evaluators.depth_samples import METRICS, DepthSamples
from uvim.registry import ConfigError


@pytest.fixture
def answers():
  """(samples [S,K], truth [K]) in metres."""
  rng = np.random.default_rng(0)
  truth = rng.uniform(1, 5, 30)
  return truth + rng.normal(0, 0.5, (6, 30)), truth


def crps_by_loops(samples, truth):
  """The definition for a finite set of samples, pair by pair."""
  num = len(samples)
  distance = sum(abs(x - truth) for x in samples) / num
  spread = sum(abs(x - y) for x in samples for y in samples) / num ** 2
  return distance - spread / 2


def test_crps_is_its_definition(answers):
  samples, truth = answers
  found = joint_scores.crps(samples, truth)
  for pixel in range(len(truth)):
    expected = crps_by_loops(samples[:, pixel], truth[pixel])
    assert found[pixel] == pytest.approx(expected)


def test_crps_is_the_area_between_the_steps(answers):
  """Its other definition: ∫ (F(z) − 1[z ≥ y])² dz."""
  samples, truth = answers
  z = np.linspace(-2, 8, 200_001)
  distribution = np.mean(samples[:, 0, None] <= z, axis=0)
  gap = distribution - (z >= truth[0])
  area = np.sum(gap ** 2) * (z[1] - z[0])
  assert joint_scores.crps(samples, truth)[0] == pytest.approx(area, abs=1e-3)


def test_energy_is_half_of_the_squared_energy_distance(answers):
  samples, truth = answers
  # In one dimension scipy has it, as the root.
  distance = scipy.stats.energy_distance(samples[:, 0], truth[:1])
  found = joint_scores.energy_score(samples[:, :1], truth[:1])
  assert found == pytest.approx(distance ** 2 / 2)
  # In many: by loops over pairs.
  root = np.sqrt(len(truth))
  near = np.mean([np.linalg.norm(x - truth) / root for x in samples])
  far = np.mean([np.linalg.norm(x - y) / root
                 for x in samples for y in samples])
  assert joint_scores.energy_score(samples, truth) == pytest.approx(
      near - far / 2)


def test_of_one_sample_they_are_plain_errors(answers):
  samples, truth = answers
  one = samples[:1]
  np.testing.assert_allclose(
      joint_scores.crps(one, truth), abs(one[0] - truth))
  rmse = np.sqrt(np.mean((one[0] - truth) ** 2))
  assert joint_scores.energy_score(one, truth) == pytest.approx(rmse)
  assert joint_scores.rmse_of_each(one, truth) == pytest.approx(rmse)


def test_pairs_are_of_two_pixels_and_always_the_same():
  first, second = joint_scores.draw_pairs(3, 500, seed=7)
  assert (first != second).all()
  assert set(first) == set(second) == {0, 1, 2}
  again = joint_scores.draw_pairs(3, 500, seed=7)
  np.testing.assert_array_equal(again, (first, second))
  other = joint_scores.draw_pairs(3, 500, seed=8)
  assert (other[0] != first).any()


def test_pairs_tell_answers_that_fit_together():
  """All is near or all is far: pixels alone look alike in both sets."""
  together = np.repeat([[2.0], [4.0]], 8, axis=1)
  apart = together.copy()
  apart[:, ::2] = apart[::-1, ::2]
  truth = np.full(8, 2.0)
  np.testing.assert_allclose(joint_scores.crps(together, truth),
                             joint_scores.crps(apart, truth))
  pairs = joint_scores.draw_pairs(8, 200, seed=0)
  assert joint_scores.pair_crps(together, truth, pairs) == 0
  assert joint_scores.pair_crps(apart, truth, pairs) > 0.2
  first, second = pairs
  expected = [
      crps_by_loops(apart[:, i] - apart[:, j], truth[i] - truth[j])
      for i, j in zip(first, second, strict=True)]
  assert joint_scores.pair_crps(apart, truth, pairs) == pytest.approx(
      np.mean(expected))


def test_ordering_counts_pairs_of_each_sample():
  truth = np.array([1.0, 2.0, 2.01])
  samples = np.array([[5.0, 6.0, 6.0], [6.0, 5.0, 6.0]])
  pairs = (np.array([0, 1, 0]), np.array([1, 2, 2]))
  # The pair 1, 2 is too close to count. Sample 0 has both right; sample 1 has
  # the first wrong and a tie.
  found = joint_scores.ordering(samples, truth, pairs)
  assert found == pytest.approx((1 + 1 + 0 + 0.5) / 4)
  everything = joint_scores.ordering(samples, truth, pairs, min_ratio=1.001)
  assert everything == pytest.approx((1 + 1 + 0.5 + 0 + 0.5 + 1) / 6)
  assert joint_scores.ordering(samples, np.ones(3), pairs) is None


# ── The evaluator ───────────────────────────────────────────────────────────


class Split:
  """Depth maps; 0 is a hole."""

  def __init__(self, *maps):
    self._maps = maps
    self.num_examples = len(maps)

  def example(self, index):
    return {"image/id": index, "depth": self._maps[index][..., None]}


def test_evaluator_averages_the_scores_of_images():
  rng = np.random.default_rng(1)
  truths = rng.uniform(1, 5, (2, 4, 6)).astype(np.float32)
  truths[0, 0] = 0
  empty = np.zeros((4, 6), np.float32)
  samples = rng.uniform(1, 5, (3, 5, 4, 6)).astype(np.float32)
  evaluator = DepthSamples(Split(*truths, empty), crop="none")
  predictions = [{"depth": x} for x in samples]
  found = score(evaluator, predictions)
  assert found.pop("num_skipped") == 1
  assert list(found) == list(METRICS)
  by_hand = []
  for truth, maps in zip(truths, samples, strict=False):
    valid = truth > 0
    flat = maps[:, valid].astype(float)
    by_hand.append((
        joint_scores.crps(flat, truth[valid]).mean(),
        joint_scores.energy_score(flat, truth[valid]),
        min(np.sqrt(np.mean((x - truth[valid]) ** 2)) for x in flat),
        np.sqrt(np.mean((flat.mean(0) - truth[valid]) ** 2))))
  expected = np.mean(by_hand, axis=0)
  names = ("CRPS", "energy", "RMSE_best", "RMSE_mean")
  np.testing.assert_allclose([found[x] for x in names], expected, rtol=1e-6)
  assert found["RMSE_best"] < found["RMSE_one"]


def test_one_answer_may_come_without_an_axis_of_samples():
  rng = np.random.default_rng(2)
  truth, answer = rng.uniform(1, 5, (2, 3, 4)).astype(np.float32)
  found = []
  for depth in (answer, answer[None]):
    evaluator = DepthSamples(Split(truth), crop="none")
    found.append(score(evaluator, [{"depth": depth}]))
  assert found[0] == found[1]
  assert found[0]["energy"] == found[0]["RMSE_best"] == found[0]["RMSE_mean"]


def test_what_it_refuses():
  with pytest.raises(ConfigError, match="num_pairs = 0; it must be an integer"):
    DepthSamples(Split(), num_pairs=0)
  evaluator = DepthSamples(Split(np.ones((2, 2), np.float32)), crop="none")
  with pytest.raises(ConfigError, match="two pixels of valid depths that dif"):
    score(evaluator, [{"depth": np.ones((2, 2), np.float32)}])
  with pytest.raises(ConfigError, match="not positive and finite at 4 of 4"):
    score(evaluator, [{"depth": np.zeros((2, 2), np.float32)}])
