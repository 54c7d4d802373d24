"""GIVT's prior: what it draws has its likelihood; beams; what it refuses."""

import dataclasses

import jax
import numpy as np
import pytest

from uvim.codes.base import CodeSpec
from uvim.priors import make_prior
from uvim.registry import ConfigError

FIELDS = dict(
    style="givt", num_layers=1, num_heads=2, mlp_dim=16, emb_dim=8,
    patches={"size": (4, 4)}, input_size=(8, 8), seq_len=5, out_dim=3,
    num_mixtures=2)


@pytest.fixture(scope="module")
def prior():
  return make_prior(FIELDS, "config.model")


@pytest.fixture(scope="module")
def params(prior):
  """Of noise: a fresh model has one density for everything."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(prior.init, jax.random.key(0))
  return jax.tree.map(
      lambda spec: 0.5 * rng.normal(size=spec.shape).astype(np.float32), shapes)


IMAGE = np.random.default_rng(1).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
SEEDS = np.array([7, 8], np.uint32)


def draw(prior, params, which=slice(None), **options):
  return jax.device_get(prior.sample(
      params, IMAGE[which], SEEDS[which], num_samples=3, **options))


@pytest.mark.parametrize("beam_size, fan_size", [(1, 1), (3, 4)])
def test_samples_have_their_likelihood_and_no_neighbours(
    prior, params, beam_size, fan_size):
  options = dict(temp=0.8, beam_size=beam_size, fan_size=fan_size)
  samples = draw(prior, params, **options)
  assert samples.code.shape == (2, 3, 5, 3)
  # Every sample is another one.
  assert len(np.unique(samples.code.reshape(6, -1), axis=0)) == 6
  score = jax.jit(prior.log_prob)
  for s in range(3):
    np.testing.assert_allclose(
        samples.logprob[:, s], score(params, IMAGE, samples.code[:, s]),
        rtol=1e-4, atol=1e-4)
  alone = draw(prior, params, slice(1, 2), **options)
  np.testing.assert_allclose(
      alone.code[0], samples.code[1], rtol=1e-4, atol=1e-4)


def test_beams_find_likelier_codes(prior, params):
  plain = draw(prior, params, temp=0.8, beam_size=1, fan_size=1)
  best = draw(prior, params, temp=0.8, beam_size=3, fan_size=4)
  assert best.logprob.sum(-1).mean() > plain.logprob.sum(-1).mean() + 2


def test_at_temperature_0_each_vector_is_the_likeliest_mean(prior, params):
  samples = draw(prior, params, temp=0.0)
  code = samples.code[:, 0]
  np.testing.assert_array_equal(code, samples.code[:, 1])

  @jax.jit
  def modes(params):
    logits = prior.lm.apply({"params": params}, IMAGE, code)
    return prior.form.density(logits).mode()

  np.testing.assert_allclose(modes(params), code, rtol=1e-4, atol=1e-5)


def test_the_loss_is_per_number(prior, params):
  code = np.random.default_rng(2).normal(size=(2, 5, 3)).astype(np.float32)
  loss_B, _ = jax.jit(prior.loss)(params, IMAGE, code)
  logprob_BL = jax.jit(prior.log_prob)(params, IMAGE, code)
  np.testing.assert_allclose(loss_B, -logprob_BL.mean(1) / 3, rtol=1e-5)


def test_what_it_refuses(prior, params):
  spec = CodeSpec(length=5, num_words=None, words_per_place=1, vector_dim=3)
  prior.check_code(spec, "config.model")
  for changes, message in (
      (dict(num_words=9), "made of words. It needs .* 'gaussian'"),
      (dict(vector_dim=4), r"out_dim = 3, .* needs 4 \(codeword_dim\)"),
      (dict(length=6), r"seq_len = 5, .* needs 6 \(code_len\)")):
    with pytest.raises(ConfigError, match=message):
      prior.check_code(dataclasses.replace(spec, **changes), "config.model")
  with pytest.raises(ConfigError, match="posemb_type = 'sincos2d'"):
    make_prior(dict(FIELDS, posemb_type="sincos2d"), "config.model")
  with pytest.raises(ConfigError, match="vocab_size"):
    make_prior(dict(FIELDS, vocab_size=9), "config.model")
  with pytest.raises(ConfigError, match="given: only words"):
    prior.sample(params, IMAGE, SEEDS, given=np.zeros((2, 5)))
  with pytest.raises(ConfigError, match="beam_size = 0"):
    prior.sample(params, IMAGE, SEEDS, beam_size=0)
