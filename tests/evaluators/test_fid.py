"""The Fréchet distance against closed forms and real photographs."""

import csv
import json

import numpy as np
import pytest
import scipy.linalg
from PIL import Image

from evaluators import features, fid


def _expected(shared, start):
  """The expected figure whose description begins like this."""
  path = shared / "data/metrics/fid/expected.json"
  return next(value for key, value in json.loads(path.read_text()).items()
              if key.startswith(start))


def test_equal_covariances_leave_the_distance_of_the_means(shared):
  folder = shared / "data/metrics/fid"
  mean1, mean2 = (np.load(folder / f"{n}.npy")[:200] for n in ("mu1", "mu2"))
  eye = np.eye(200)
  assert fid.frechet_distance(mean1, eye, mean2, eye) == pytest.approx(
      np.sum((mean1 - mean2) ** 2), rel=1e-12)
  assert fid.frechet_distance(0 * mean1, eye, 0 * mean1 + 1, eye) == (
      pytest.approx(200, rel=1e-12))


def test_closed_form_of_two_covariances_that_do_not_commute(shared):
  # |m|² + 4 + 4 − 2 √(tr(AB) + 2 √(det A det B)) = 13 − 2 √14.
  a, b = np.array([[2., 1], [1, 2]]), np.diag([1., 3])
  distance = fid.frechet_distance(np.array([1., 2]), a, np.zeros(2), b)
  assert distance == pytest.approx(_expected(shared, "2x2"), abs=1e-12)


def test_closed_form_of_diagonal_covariances():
  rng = np.random.default_rng(0)
  mean1, mean2, a, b = rng.uniform(0, 5, (4, 64))
  expected = np.sum((mean1 - mean2) ** 2 + (np.sqrt(a) - np.sqrt(b)) ** 2)
  assert fid.frechet_distance(mean1, np.diag(a), mean2, np.diag(b)) == (
      pytest.approx(expected, rel=1e-12))


def test_equals_the_root_of_the_product_by_scipy():
  rng = np.random.default_rng(1)
  (m1, c1), (m2, c2) = (fid.mean_and_covariance(
      rng.normal(size=(50, 8)) @ rng.normal(size=(8, 8)) + rng.normal(size=8))
      for _ in range(2))
  root = scipy.linalg.sqrtm(c1 @ c2).real
  expected = np.sum((m1 - m2) ** 2) + np.trace(c1 + c2 - 2 * root)
  assert fid.frechet_distance(m1, c1, m2, c2) == pytest.approx(expected,
                                                               rel=1e-10)


def test_fewer_images_than_features_do_no_harm():
  rng = np.random.default_rng(2)
  x, y = rng.normal(size=(5, 40)), rng.normal(size=(7, 40)) * 3
  stats = [fid.mean_and_covariance(f) for f in (x, y)]
  # The root's trace is the nuclear norm of the product of centred features.
  cross = (x - x.mean(0)) @ (y - y.mean(0)).T / np.sqrt(4 * 6)
  nuclear = np.linalg.svd(cross, compute_uv=False).sum()
  expected = (np.sum((stats[0][0] - stats[1][0]) ** 2)
              + np.trace(stats[0][1] + stats[1][1]) - 2 * nuclear)
  assert fid.frechet_distance(*stats[0], *stats[1]) == pytest.approx(
      expected, rel=1e-12)
  assert fid.frechet_distance(*stats[0], *stats[0]) < 1e-12
  zero = np.zeros((40, 40))
  assert fid.frechet_distance(stats[0][0], zero, stats[0][0], zero) == 0


def test_equals_the_expected_distance_of_real_photographs(shared):
  folder = shared / "data/photos"
  with open(folder / "index.csv", newline="") as file:
    names = [row["file"] for row in csv.DictReader(file)
             if row["kind"] == "normal"]
  x = np.array([features.quadrants(np.asarray(Image.open(folder / name)))
                for name in names])
  assert fid.frechet_distance(
      *fid.mean_and_covariance(x[:35]), *fid.mean_and_covariance(x[35:])
  ) == pytest.approx(_expected(shared, "photos quadrant"), rel=1e-9)


def test_statistics_are_float64_and_unbiased():
  x = np.array([[1e4], [1e4 + 1]], np.float32)
  mean, cov = fid.mean_and_covariance(x)
  assert mean.dtype == cov.dtype == np.float64
  assert mean == 1e4 + 0.5 and cov == 0.5
  # In float32 the variance of 1 would drown.
  x = np.float32(1e4) + np.tile([[-1.], [1]], (500, 1)).astype(np.float32)
  assert fid.mean_and_covariance(x)[1] == pytest.approx(1000 / 999, rel=1e-12)


def test_mistakes_are_named():
  with pytest.raises(ValueError, match=r"two images.*\(1, 3\)"):
    fid.mean_and_covariance(np.zeros((1, 3)))
  with pytest.raises(ValueError, match="not finite"):
    fid.mean_and_covariance(np.array([[1., np.nan], [2, 3]]))
