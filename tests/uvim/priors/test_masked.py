"""The masked prior: what it learns from, and what its samples depend on."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim.priors import (
  lm_prior,
  make_prior,
  masked_sampling,
  packed_decoder,
)
from uvim.priors.masked import MaskedPrior, Masking
from uvim.registry import ConfigError

LENGTH = 6
NUM_WORDS = 9
TINY = dict(num_layers=1, num_heads=2, mlp_dim=16, emb_dim=8,
            patches={"size": (4, 4)}, vocab_size=NUM_WORDS + 1,
            input_size=(8, 8), seq_len=LENGTH)
SEEDS = np.arange(5, dtype=np.uint32) * 77
GREEDY = dict(temperature=0.0, choice_temperature=0.0)


def with_random_params(fields):
  """A prior, random parameters, and images for it."""
  prior = make_prior(fields | {"style": "masked"}, "config.model")
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(prior.init, jax.random.key(0))
  params = jax.tree.map(
      lambda x: rng.normal(0, 0.7, x.shape).astype(x.dtype), shapes)
  image = rng.uniform(-1, 1, (5, 8, 8, 3)).astype(np.float32)
  return prior, params, image


@pytest.fixture(scope="module")
def tiny():
  return with_random_params(TINY)


@pytest.fixture(scope="module")
def tiny_on_a_grid():
  return with_random_params(TINY | {"code_grid": (3, 2)})


@pytest.fixture(scope="module")
def code():
  return np.random.default_rng(1).integers(0, NUM_WORDS, (5, LENGTH))


@functools.partial(jax.jit, static_argnums=0)
def logits_of(prior, params, image, text_BL):
  variables = {"params": lm_prior.lm_params(params)}
  return prior.lm.apply(variables, image, text_BL, method="masked_logits")


@functools.partial(jax.jit, static_argnums=0)
def loss_of(prior, params, image, code, keys=None):
  return prior.loss(params, image, code, keys)


def draw(case, given=None, order=slice(None), **options):
  prior, params, image = case
  if given is not None:
    given = given[order]
  samples = prior.sample(
      params, image[order], SEEDS[order], given=given, **options)
  return np.asarray(samples.code), np.asarray(samples.logprob)


# The network.


def test_parameters_are_those_of_the_autoregressive_prior():
  masked, _, _ = with_random_params(TINY)
  other = make_prior(TINY, "config.model")
  shapes = jax.eval_shape(masked.init, jax.random.key(0))
  assert shapes == jax.eval_shape(other.init, jax.random.key(0))


def test_a_place_reads_every_word_and_no_shifted_one(tiny):
  prior, params, image = tiny
  # One row per word: the same text with that word changed.
  text = np.repeat(np.arange(1, LENGTH + 1)[None], LENGTH + 1, axis=0)
  text[range(LENGTH), range(LENGTH)] = 0
  images = np.repeat(image[:1], LENGTH + 1, axis=0)
  logits = logits_of(prior, params, images, text)
  change = np.abs(logits[:-1] - logits[-1:]).max(-1)
  assert np.all(change > 1e-6)


@pytest.mark.parametrize("fixture", ["tiny", "tiny_on_a_grid"])
def test_packed_parameters_give_the_same_logits(fixture, request):
  prior, params, image = request.getfixturevalue(fixture)
  num_samples = 2
  text_RL = np.random.default_rng(2).integers(
      0, NUM_WORDS + 1, (5 * num_samples, LENGTH))

  @jax.jit
  def packed_logits(params):
    bound = prior.lm.bind({"params": params})
    encoded_BND = bound.encode(image)
    packed = bound.packed_decoder(encoded_BND)
    memories = packed_decoder.read_image(packed, encoded_BND)
    return packed_decoder.read_words(packed, memories, text_RL)

  images = np.repeat(image, num_samples, axis=0)
  want = logits_of(prior, params, images, text_RL)
  got = packed_logits(params)
  assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


# Learning.


def test_the_loss_is_that_of_the_masked_words(tiny, code):
  prior, params, image = tiny
  keys = jax.random.split(jax.random.key(3), 5)
  loss_B, logs_B = loss_of(prior, params, image, code, keys)
  is_masked = np.asarray(jax.vmap(prior.draw_mask)(keys))
  logits = logits_of(prior, params, image, np.where(is_masked, 0, code + 1))
  logprob = np.asarray(jax.nn.log_softmax(logits[..., 1:]))
  for b in range(5):
    own = logprob[b, is_masked[b]]
    nll = -own[range(len(own)), code[b, is_masked[b]]].mean()
    assert logs_B["masked_nll"][b] == pytest.approx(nll, rel=1e-5)
    smoothed = 0.9 * nll - 0.1 * own.mean()
    assert loss_B[b] == pytest.approx(smoothed, rel=1e-5)


def test_evaluation_masks_by_the_code_alone_and_does_not_smooth(tiny, code):
  prior, params, image = tiny
  loss_B, logs_B = loss_of(prior, params, image, code)
  np.testing.assert_array_equal(loss_B, logs_B["masked_nll"])
  order = [3, 1, 1, 0, 4]
  again_B, _ = loss_of(prior, params, image[order], code[order])
  np.testing.assert_allclose(again_B, loss_B[np.array(order)], rtol=1e-5)
  assert prior.metrics(loss_B) == {}


def test_halves_of_a_batch_give_the_same_loss(tiny, code):
  prior, params, image = tiny
  in_halves = MaskedPrior(prior.lm, split_from=1)
  with jax.set_mesh(jax.make_mesh((1,), ("data",))):
    assert in_halves.is_split(4) and not prior.is_split(4)
    got, _ = loss_of(in_halves, params, image[:4], code[:4])
    want, _ = loss_of(prior, params, image[:4], code[:4])
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_training_masks_at_least_its_rate_at_every_place(tiny):
  prior, _, _ = tiny
  keys = jax.random.split(jax.random.key(0), 500)
  count_B = np.asarray(jax.vmap(prior.draw_mask)(keys)).sum(1)
  # Half of 6 words; a cosine is above one half for two thirds of its way.
  assert count_B.min() == 3 and count_B.max() == LENGTH
  assert np.mean(count_B > 3) == pytest.approx(2 / 3, abs=0.07)
  few = MaskedPrior(prior.lm, masking=Masking("pow2", 0.0))
  is_masked = np.asarray(jax.vmap(few.draw_mask)(keys))
  assert is_masked.sum(1).min() == 1
  # 1 - r² is above one half for 0.71 of its way.
  assert np.mean(is_masked.sum(1) > 3) == pytest.approx(0.5**0.5, abs=0.07)
  assert is_masked.mean(0).std() < 0.05


# Sampling.


def test_one_pass_takes_the_likeliest_word_of_every_place(tiny):
  prior, params, image = tiny
  code, logprob = draw(tiny, num_iter=1, num_samples=2, **GREEDY)
  nothing = np.zeros((5, LENGTH), int)
  logits = logits_of(prior, params, image, nothing)
  want = jax.nn.log_softmax(logits[..., 1:])
  np.testing.assert_array_equal(code[:, 0], want.argmax(-1))
  np.testing.assert_array_equal(code[:, 1], code[:, 0])
  np.testing.assert_allclose(logprob[:, 0], want.max(-1), atol=1e-5)


def test_as_many_steps_as_words_take_the_surest_word_each_time(tiny):
  prior, params, image = tiny
  code, logprob = draw(tiny, num_iter=LENGTH, **GREEDY)
  text = np.zeros((5, LENGTH), int)
  score = np.zeros(5)
  for _ in range(LENGTH):
    logits = logits_of(prior, params, image, text)
    best = np.asarray(jax.nn.log_softmax(logits[..., 1:]))
    of_place = np.where(text > 0, -np.inf, best.max(-1))
    place = of_place.argmax(1)
    rows = np.arange(5)
    text[rows, place] = best[rows, place].argmax(-1) + 1
    score += of_place[rows, place]
  np.testing.assert_array_equal(code[:, 0], text - 1)
  np.testing.assert_allclose(logprob[:, 0].sum(-1), score, rtol=1e-5)
  more, _ = draw(tiny, num_iter=500, **GREEDY)
  np.testing.assert_array_equal(more, code)


@pytest.mark.parametrize("options", [GREEDY, {}])
def test_given_words_stay_and_all_others_know_them(tiny, options):
  free, _ = draw(tiny, num_iter=4, **options)
  given = np.full((5, LENGTH), -1)
  # The last word: those before it may know it here.
  given[:, -1] = (free[:, 0, -1] + 1) % NUM_WORDS
  given[0] = np.arange(LENGTH)
  code, logprob = draw(tiny, given, num_iter=4, num_samples=2, **options)
  is_given = np.broadcast_to((given >= 0)[:, None], code.shape)
  wanted = np.broadcast_to(given[:, None], code.shape)
  np.testing.assert_array_equal(code[is_given], wanted[is_given])
  assert np.all(logprob[is_given] == 0)
  assert np.all(code >= 0) and np.all(code < NUM_WORDS)
  assert np.any(code[1:, 0, :-1] != free[1:, 0, :-1])


@pytest.mark.parametrize("options", [GREEDY, {}])
def test_a_sample_does_not_depend_on_its_batch(tiny, options):
  whole, _ = draw(tiny, num_iter=3, **options)
  for order in ([3], [4, 4, 0, 3, 3]):
    part, _ = draw(tiny, order=order, num_iter=3, **options)
    np.testing.assert_array_equal(part, whole[order])
  several, _ = draw(tiny, order=[3], num_iter=3, num_samples=4, **options)
  np.testing.assert_array_equal(several[0, 0], whole[3, 0])
  num_codes = len({sample.tobytes() for sample in several[0]})
  assert num_codes == (1 if options else 4)


def test_every_step_and_row_has_numbers_of_its_own():
  keys = jax.random.split(jax.random.key(0), 2)
  steps = [masked_sampling.draw_noise(keys, index, LENGTH) for index in (0, 1)]
  for name in ("word", "choice"):
    numbers = np.stack([getattr(noise, name) for noise in steps])
    assert len(np.unique(numbers)) == numbers.size
  assert not np.any(steps[0].word == steps[0].choice)


def test_options_compile_nothing(tiny):
  draw(tiny, num_iter=3)
  size = masked_sampling._sample._cache_size()
  draw(tiny, num_iter=5, choice_temperature=1.0, temperature=0.5)
  assert masked_sampling._sample._cache_size() == size


def test_sampling_inside_another_jit_is_the_same(tiny):
  prior, params, image = tiny
  inside = jax.jit(lambda p, i, s: prior.sample(p, i, s, num_iter=3))(
      params, image, jnp.asarray(SEEDS))
  outside, _ = draw(tiny, num_iter=3)
  np.testing.assert_array_equal(inside.code, outside)


# What is refused.


@pytest.mark.parametrize("options,words", [
    (dict(num_iter=0), "num_iter = 0"),
    (dict(choice_temperature=-1.0), "choice_temperature = -1.0"),
    (dict(temperature=float("nan")), "temperature = nan"),
    (dict(top_k=3), "no such option"),
    (dict(num_samples=0), "num_samples = 0"),
    (dict(given=np.full((5, LENGTH), NUM_WORDS)), "from 9 to 9")])
def test_options_out_of_range_are_named(tiny, options, words):
  prior, params, image = tiny
  with pytest.raises(ConfigError, match=re.escape(words)):
    prior.sample(params, image, SEEDS, **options)


@pytest.mark.parametrize("fields,words", [
    (dict(label_smoothing=1.5), "label_smoothing = 1.5"),
    (dict(min_masking_rate=-1), "min_masking_rate = -1"),
    (dict(mask_scheduling_method="cosin"), "Did you mean 'cosine'"),
    (dict(autoregressive=False), "num_iter = 1"),
    (dict(num_heads=3), "num_heads = 3")])
def test_fields_out_of_range_are_named(fields, words):
  with pytest.raises(ConfigError, match=re.escape(words)):
    make_prior(TINY | {"style": "masked"} | fields, "config.model")
