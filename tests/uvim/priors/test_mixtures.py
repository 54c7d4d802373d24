"""Densities of vectors: plain sums, areas of 1, and what is drawn from them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from uvim.priors import mixtures
from uvim.priors.mixtures import MixtureForm
from uvim.registry import ConfigError

FORMS = {
    "one": MixtureForm(out_dim=2),
    "per_channel": MixtureForm(out_dim=2, num_mixtures=3),
    "joint": MixtureForm(
        out_dim=2, num_mixtures=3, per_channel_mixtures=False),
    "multivariate": MixtureForm(out_dim=2, multivariate=True),
}


def numbers(form, seed=0, leading=(5,)):
  shape = (*leading, form.num_logits)
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def log_prob(form, logits, x, temp=1.0, temp_probs=1.0):
  density = form.density(logits, temp=temp, temp_probs=temp_probs)
  return density.log_prob(x), density.log_prob_of_place(x)


def square_plus(x):
  return (x + np.sqrt(x ** 2 + 4)) / 2


def softmax(x):
  return np.exp(x) / np.sum(np.exp(x))


def test_per_channel_is_a_sum_of_gaussians_for_each_number():
  form = FORMS["per_channel"]
  logits = numbers(form)[0]
  x = np.float32([0.3, -1.2])
  got, of_place = log_prob(form, logits, x, 0.5, 2.0)
  # Kinds of numbers, channels, components.
  weights, means, scales = logits.reshape(3, 2, 3)
  for channel in range(2):
    wanted = np.sum(softmax(2 * weights[channel]) * stats.norm.pdf(
        x[channel], means[channel], 0.5 * square_plus(scales[channel])))
    assert got[channel] == pytest.approx(np.log(wanted), rel=1e-5)
  np.testing.assert_allclose(of_place, np.sum(got), rtol=1e-5)


def test_joint_is_a_sum_of_gaussians_of_vectors():
  form = FORMS["joint"]
  logits = numbers(form)[0]
  x = np.float32([0.3, -1.2])
  got, of_place = log_prob(form, logits, x, 0.5, 2.0)
  weights = softmax(2 * logits[:3])
  wanted = 0
  for weight, (means, scales) in zip(
      weights, logits[3:].reshape(3, 2, 2), strict=True):
    density = stats.norm.pdf(x, means, 0.5 * square_plus(scales))
    wanted += weight * np.prod(density)
  assert got == of_place
  assert got == pytest.approx(np.log(wanted), rel=1e-5)


def test_multivariate_has_the_covariance_of_its_triangle():
  form = FORMS["multivariate"]
  logits = numbers(form)[0]
  x = np.float32([0.3, -1.2])
  triangle = 0.5 * np.tril(square_plus(logits[:4].reshape(2, 2)))
  wanted = stats.multivariate_normal.logpdf(
      x, logits[4:], triangle @ triangle.T)
  got, _ = log_prob(form, logits, x, 0.5)
  assert got == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["per_channel", "joint", "multivariate"])
def test_what_is_drawn_has_the_density(name):
  form = FORMS[name]
  logits = numbers(form)[0]

  @jax.jit
  def draw(key):
    noise = mixtures.draw_noise(key, (20_000, form.out_dim))
    each = jnp.broadcast_to(logits[None], (20_000, *logits.shape))
    return form.density(each, temp=0.8, temp_probs=1.5).sample(noise)

  x = np.asarray(draw(jax.random.key(0)))
  # A square is as likely as the integral of the density over it.
  side = np.linspace(-0.5, 1.0, 61)
  centres = (side[1:] + side[:-1]) / 2
  grid = np.stack(np.meshgrid(centres, centres), -1).astype(np.float32)
  points = grid.reshape(-1, 2)
  each = np.broadcast_to(logits, (len(points), *logits.shape))
  _, values = log_prob(form, each, points, 0.8, 1.5)
  wanted = np.sum(np.exp(values)) * (side[1] - side[0]) ** 2
  is_inside = np.all((x > -0.5) & (x < 1.0), axis=-1)
  assert 0.05 < wanted < 0.95
  assert np.mean(is_inside) == pytest.approx(wanted, abs=0.012)


@pytest.mark.parametrize("name", FORMS)
def test_near_temperature_0_the_mode_is_drawn(name):
  form = FORMS[name]

  @jax.jit
  def draw(logits):
    # Rounding must draw no component that is not there.
    noise = mixtures.Noise(
        jnp.full((5, 2), 1 - 2**-24), jnp.ones((5, 2)))
    cold = form.density(logits, temp=1e-9, temp_probs=1e6).sample(noise)
    return cold, form.density(logits).mode()

  cold, mode = draw(numbers(form))
  np.testing.assert_allclose(cold, mode, rtol=1e-5)


def test_scales_have_a_floor():
  form = dataclasses.replace(FORMS["one"], fix_square_plus=False)
  # x + √(x² + 4) / 2 is negative here.
  logits = np.zeros(6, np.float32)
  logits[4:] = -10
  far, _ = log_prob(form, logits, np.float32([1, 1]))
  np.testing.assert_allclose(
      far, stats.norm.logpdf(1, 0, 1e-6), rtol=1e-5)


def test_several_gaussians_with_any_covariance_are_refused():
  with pytest.raises(ConfigError, match="num_mixtures = 2; .*must be 1"):
    MixtureForm(out_dim=2, multivariate=True, num_mixtures=2)
