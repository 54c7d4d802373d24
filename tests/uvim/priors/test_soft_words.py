"""Soft words: the limits that are known, and that hard results stay."""

import jax
import numpy as np
import pytest

from tests.uvim.priors.test_sampling import NUM_CODES, TINY, with_random_params
from uvim.priors import lm, sampling
from uvim.priors.autoregressive import AutoregressivePrior
from uvim.priors.soft_words import SoftWords, mean_vectors
from uvim.registry import ConfigError

CODEWORDS = np.random.default_rng(1).normal(
    size=(NUM_CODES, 3)).astype(np.float32)
SEEDS = np.arange(5)


@pytest.fixture(scope="module")
def tiny():
  return with_random_params(lm.LM(**TINY))


@pytest.fixture(scope="module")
def hard(tiny):
  return sampling.sample(*tiny, SEEDS)


def test_the_mean_of_words_that_are_equally_likely_and_of_a_certain_one():
  uniform_V = np.full(NUM_CODES + 1, 0.3, np.float32)
  uniform_V[0] = 99  # The start word has no part in it.
  np.testing.assert_allclose(
      mean_vectors(CODEWORDS, 1.0, uniform_V), CODEWORDS.mean(0), atol=1e-6)
  certain_V = np.where(np.arange(NUM_CODES + 1) == 4, 200, 0.0)
  np.testing.assert_allclose(
      mean_vectors(CODEWORDS, 1.0, certain_V), CODEWORDS[3], atol=1e-6)


def test_soft_words_change_no_word_and_become_the_words_when_cold(tiny, hard):
  assert hard.vectors is None
  soft = sampling.sample(
      *tiny, SEEDS, num_samples=2, soft=SoftWords(1.0, None, CODEWORDS))
  for s in range(2):
    np.testing.assert_array_equal(soft.code[:, s], hard.code[:, 0])
    np.testing.assert_allclose(
        soft.logprob[:, s], hard.logprob[:, 0], atol=1e-6)
  assert soft.vectors.shape == (5, 2, TINY["seq_len"], 3)
  assert not np.allclose(soft.vectors, CODEWORDS[soft.code], atol=1e-3)
  num_programs = sampling._sample._cache_size()
  cold = sampling.sample(
      *tiny, SEEDS, num_samples=2, soft=SoftWords(0.001, None, CODEWORDS))
  # Another temperature is no other program.
  assert sampling._sample._cache_size() == num_programs
  np.testing.assert_allclose(
      cold.vectors[:, 0], CODEWORDS[hard.code[:, 0]], atol=0.01)


def test_soft_vectors_are_means_under_the_full_model(tiny):
  model, params, image = tiny
  soft = sampling.sample(*tiny, SEEDS, soft=SoftWords(0.7, None, CODEWORDS))
  logits_BLV = jax.jit(model.apply)(
      {"params": params}, image, soft.code[:, 0] + 1)
  np.testing.assert_allclose(
      soft.vectors[:, 0], mean_vectors(CODEWORDS, 0.7, logits_BLV), atol=1e-5)


def test_soft_inputs_become_the_words_when_cold(tiny, hard):
  cold = sampling.sample(*tiny, SEEDS, soft=SoftWords(inputs=0.001))
  np.testing.assert_array_equal(cold.code, hard.code)
  warm = sampling.sample(*tiny, SEEDS, soft=SoftWords(inputs=1.0))
  # The first word follows from the image alone.
  np.testing.assert_allclose(
      warm.logprob[..., 0], hard.logprob[..., 0], atol=1e-5)
  assert not np.allclose(warm.logprob, hard.logprob, atol=1e-3)


def test_given_words_are_not_soft(tiny):
  given_BL = np.full((5, TINY["seq_len"]), -1)
  given_BL[:, 2] = 3
  soft = sampling.sample(
      *tiny, SEEDS, given=given_BL, soft=SoftWords(1.0, 1.0, CODEWORDS))
  assert (soft.code[:, 0, 2] == 3).all()
  np.testing.assert_array_equal(
      soft.vectors[:, 0, 2], np.tile(CODEWORDS[3], (5, 1)))


def test_a_soft_word_does_not_depend_on_the_batch(tiny):
  model, params, image = tiny
  soft = SoftWords(1.0, 1.0, CODEWORDS)
  all_of_them = sampling.sample(*tiny, SEEDS, soft=soft)
  one = sampling.sample(model, params, image[3:4], SEEDS[3:4], soft=soft)
  np.testing.assert_allclose(
      one.vectors[0], all_of_them.vectors[3], atol=1e-5)


def test_what_a_model_cannot_do(tiny):
  at_once = AutoregressivePrior(lm.LM(**TINY, autoregressive=False))
  _, params, image = tiny
  with pytest.raises(ConfigError, match="soft_inputs = 1.0; .*reads no words"):
    at_once.sample(params, image, SEEDS, soft_inputs=1.0)
  for name in ("soft_words", "soft_inputs"):
    with pytest.raises(ConfigError, match=f"{name} = 0; must be None or"):
      at_once.sample(params, image, SEEDS, **{name: 0})
  soft = at_once.sample(
      params, image, SEEDS, soft_words=1.0, codewords=CODEWORDS)
  assert soft.vectors.shape == (5, 1, TINY["seq_len"], 3)
  assert jax.tree.leaves(at_once.sample(params, image, SEEDS).vectors) == []
