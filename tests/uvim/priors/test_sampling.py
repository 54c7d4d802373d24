"""Sampling: equal to the full forward pass, to the softmax, and to itself.

To itself: one image with one seed gives one code in whatever batch it comes.
"""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from uvim.priors import (
  autoregressive,
  base,
  lm,
  lm_prior,
  packed_decoder,
  sampling,
)
from uvim.registry import ConfigError

TINY = dict(num_layers=1, num_heads=2, mlp_dim=16, emb_dim=8,
            patches={"size": (4, 4)}, vocab_size=10, input_size=(8, 8),
            seq_len=5)
NUM_CODES = TINY["vocab_size"] - 1


def with_random_params(model):
  """The model, random parameters, and images for it."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(
      lambda r: lm_prior.init_lm(model, r), jax.random.key(0))
  params = jax.tree.map(
      lambda x: rng.normal(0, 0.4, x.shape).astype(x.dtype), shapes)
  image = rng.uniform(-1, 1, (5, 8, 8, 3)).astype(np.float32)
  return model, params, image


@pytest.fixture(scope="module")
def tiny():
  return with_random_params(lm.LM(**TINY))


@pytest.fixture(scope="module")
def tiny_on_a_grid():
  """Its words lie on 3 × 2 places of the image."""
  sizes = {**TINY, "seq_len": 6, "code_grid": (3, 2)}
  return with_random_params(lm.LM(**sizes))


@pytest.fixture(scope="module")
def released(fixtures):
  """(model, params, image, expected) of the stage II fixture."""
  config = json.loads((fixtures / "stage2.json").read_text())["config"]
  model = lm.LM(**{k: config[k] for k in (*TINY, "posemb_type")})
  given = np.load(fixtures / "stage2_params.npz")
  params = traverse_util.unflatten_dict(
      {k.removeprefix("params/"): v for k, v in given.items()
       if k.startswith("params/")}, sep="/")
  return model, params, given["image"], np.load(fixtures / "stage2_out.npz")


@functools.partial(jax.jit, static_argnums=0)
def log_probs_of(model, params, image, text_BL):
  logits = model.apply({"params": params}, image, text_BL)
  return jax.nn.log_softmax(logits)


def teacher_forced(model, params, image, code):
  """Full-forward log-probabilities [B, S, L, V] before each word of `code`."""
  rows = code.reshape(-1, code.shape[-1]) + 1
  images = np.repeat(image, code.shape[1], axis=0)
  return log_probs_of(model, params, images, rows).reshape(*code.shape, -1)


def picked(log_probs, code):
  return np.take_along_axis(np.asarray(log_probs), code[..., None] + 1,
                            -1)[..., 0]


def choose(logits, uniform=None, *, temperature=1.0, greedy=False, top_k=None,
           top_p=None):
  return np.asarray(sampling.choose_code(
      jnp.asarray(logits, jnp.float32), uniform, temperature=temperature,
      greedy=greedy, top_k=top_k, top_p=top_p))


def frequencies(logits, num_draws=20_000, **options):
  """How often each code comes, from a fixed stream of uniform numbers."""
  uniform = jax.random.uniform(jax.random.key(0), (num_draws,))
  logits = np.broadcast_to(logits, (num_draws, len(logits)))
  code = choose(logits, uniform, **options)
  return np.bincount(code, minlength=logits.shape[1] - 1) / num_draws


def chi_square(observed, probs, num_draws):
  return num_draws * np.sum((observed - probs) ** 2 / probs)


def softmax(x):
  return np.asarray(jax.nn.softmax(jnp.asarray(x, jnp.float32)))


# Temperature 0.


def test_greedy_codes_equal_the_released_ones(released):
  model, params, image, want = released
  got = sampling.sample(model, params, image, np.arange(3), num_samples=2)
  for s in range(2):
    np.testing.assert_array_equal(got.code[:, s] + 1, want["greedy_seqs"][:, 0])
    for have, name in ((got.logprob[:, s], "greedy_logprobs"),
                       (got.logprob[:, s].sum(-1), "greedy_scores")):
      wanted = want[name].reshape(have.shape)
      assert np.abs(have - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_temperature_0_takes_the_larger_of_two_close_logits():
  # At T = 1e-7 the released sampler takes it 98.6 % of the time.
  logits = np.full((1000, 10), -2.0)
  logits[:, 4], logits[:, 7] = 1.0, 1.0 + 1e-6
  assert np.all(choose(logits, greedy=True) == 7 - 1)
  logits[:, 4] = logits[:, 7]
  assert np.all(choose(logits, greedy=True) == 4 - 1), "ties: the lowest"


def test_temperature_0_ignores_the_seed_and_is_argmax(tiny):
  model, params, image = tiny
  first = sampling.sample(model, params, image, np.arange(5))
  other = sampling.sample(model, params, image, np.arange(5) + 99)
  np.testing.assert_array_equal(first.code, other.code)
  code = np.asarray(first.code)
  log_probs = teacher_forced(model, params, image, code)
  np.testing.assert_array_equal(code, log_probs[..., 1:].argmax(-1))


@pytest.mark.parametrize("temperature", [1e-320, 1e-45, 3e-38, 1e-31])
def test_temperatures_below_float32_are_temperature_0(tiny, temperature):
  model, params, image = tiny
  greedy = sampling.sample(model, params, image, np.arange(5))
  got = sampling.sample(
      model, params, image, np.arange(5), temperature=temperature)
  np.testing.assert_array_equal(got.code, greedy.code)


def test_the_coldest_temperature_that_is_drawn_is_argmax():
  logits = np.random.default_rng(0).normal(0, 100, (50, 10))
  uniform = np.linspace(0, 0.999, 50, dtype=np.float32)
  got = choose(logits, uniform, temperature=1e-30)
  np.testing.assert_array_equal(got, logits[:, 1:].argmax(1))


# The cache.


@pytest.mark.parametrize("fixture", ["tiny", "tiny_on_a_grid"])
def test_cached_steps_equal_the_full_forward_pass(fixture, request):
  model, params, image = request.getfixturevalue(fixture)
  num_samples = 3
  text_BSL = np.random.default_rng(1).integers(
      1, model.vocab_size, (5, num_samples, model.seq_len))
  text_RL = text_BSL.reshape(-1, model.seq_len)

  @jax.jit
  def cached(params, image, text_RL):
    bound = model.bind({"params": params})
    encoded_BND = bound.encode(image)
    packed = bound.packed_decoder(encoded_BND)
    memories = packed_decoder.read_image(packed, encoded_BND)

    def feed(caches, inputs):
      logits_RV, caches = packed_decoder.step(packed, memories, caches, *inputs)
      return caches, logits_RV

    inputs_LR = jnp.pad(text_RL[:, :-1], ((0, 0), (1, 0))).T
    caches = packed_decoder.grow_caches(
        packed, None, len(text_RL), model.seq_len)
    positions = jnp.arange(model.seq_len)
    _, logits_LRV = jax.lax.scan(feed, caches, (inputs_LR, positions))
    return jnp.swapaxes(logits_LRV, 0, 1)

  got = jax.nn.log_softmax(cached(params, image, text_RL))
  want = teacher_forced(model, params, image, text_BSL - 1)
  want = want.reshape(got.shape)
  assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def test_caches_that_grow_on_the_way_lose_nothing(tiny):
  _, params, image = tiny
  model = lm.LM(**TINY | dict(seq_len=150))  # Room for 64, 128, 150 words.
  places = np.random.default_rng(5).normal(0, 0.4, (1, 150, 8))
  params = {**params, "pos_embedding_decoder": places.astype(np.float32)}
  got = sampling.sample(model, params, image[:2], np.arange(2), temperature=1.0)
  code = np.asarray(got.code)
  want = picked(teacher_forced(model, params, image[:2], code), code)
  np.testing.assert_allclose(got.logprob, want, atol=1e-4)


def test_logprob_is_the_models_own_at_any_temperature(tiny):
  model, params, image = tiny
  got = sampling.sample(model, params, image, np.arange(5), temperature=1.7)
  code = np.asarray(got.code)
  want = picked(teacher_forced(model, params, image, code), code)
  np.testing.assert_allclose(got.logprob, want, atol=1e-5)


def test_bfloat16_samples_follow_the_bfloat16_model(tiny):
  _, params, image = tiny
  model = lm.LM(**TINY, dtype="bfloat16")
  got = sampling.sample(model, params, image, np.arange(5), temperature=1.0)
  code = np.asarray(got.code)
  want = picked(teacher_forced(model, params, image, code), code)
  np.testing.assert_allclose(got.logprob, want, atol=0.1)


# Distributions.


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_frequencies_match_the_softmax(temperature):
  logits = np.random.default_rng(3).normal(0, 1, 10)
  num_draws = 20_000
  probs = softmax(logits[1:] / temperature)
  got = frequencies(logits, num_draws, temperature=temperature)
  # Eight degrees of freedom: beyond 31.8 once in ten thousand seeds.
  assert chi_square(got, probs, num_draws) < 31.8


def test_sequences_follow_the_models_distribution(tiny):
  model, params, image = tiny
  num_samples = 4000
  got = sampling.sample(model, params, image[:1], [7], temperature=1.0,
                        num_samples=num_samples)
  code = np.asarray(got.code)
  # Word by word: the first, and the second after the commonest first.
  first = code[0, :, 0]
  likeliest = np.bincount(first).argmax()
  for words, rows in ((first, slice(None)),
                      (code[0, first == likeliest, 1], first == likeliest)):
    position = 0 if isinstance(rows, slice) else 1
    some = code[:, rows][:, :1]
    log_probs = teacher_forced(model, params, image[:1], some)
    probs = softmax(log_probs[0, 0, position, 1:])
    count = np.bincount(words, minlength=NUM_CODES)
    assert chi_square(count / len(words), probs, len(words)) < 31.8


@pytest.mark.parametrize("options,support", [
    (dict(top_k=1), [5]),
    (dict(top_k=3), [5, 0, 8]),
    # Probabilities of 5, 0, 8 …: 0.5, 0.3, 0.1, the rest 0.1 together.
    (dict(top_p=0.4), [5]),
    (dict(top_p=0.7), [5, 0]),
    (dict(top_p=0.85), [5, 0, 8]),
    # Among the three that top_k leaves, 5 has 0.56 and 0 has 0.33.
    (dict(top_k=3, top_p=0.55), [5]),
    (dict(top_k=3, top_p=0.8), [5, 0]),
    (dict(top_p=1.0), range(9))])
def test_truncation_restricts_the_support_and_keeps_proportions(
    options, support):
  probs = np.full(9, 0.1 / 6)
  probs[[5, 0, 8]] = 0.5, 0.3, 0.1
  # The start word is likeliest of all: it must not count.
  logits = np.concatenate([[9.0], np.log(probs)])
  num_draws = 20_000
  got = frequencies(logits, num_draws, **options)
  support = list(support)
  assert set(np.flatnonzero(got)) == set(support)
  want = probs[support] / probs[support].sum()
  assert chi_square(got[support], want, num_draws) < 31.8


def test_top_k_draws_as_from_its_words_alone():
  logits = np.random.default_rng(1).normal(0, 1, (5000, 40)).astype(np.float32)
  uniform = jax.random.uniform(jax.random.key(3), (5000,))
  words = logits[:, 1:]
  ranked = np.argsort(-words, axis=1, kind="stable")[:, :7]
  share = np.cumsum(softmax(np.take_along_axis(words, ranked, 1) / 0.7), 1)
  rank = (share <= np.asarray(uniform)[:, None] * share[:, -1:]).sum(1)
  want = np.take_along_axis(ranked, rank[:, None], 1)[:, 0]
  got = choose(logits, uniform, temperature=0.7, top_k=7)
  np.testing.assert_array_equal(got, want)


def test_sliders_compile_nothing(tiny):
  model, params, image = tiny
  draw = functools.partial(sampling.sample, model, params, image, np.arange(5))
  draw(temperature=1.0, top_k=3)
  before = sampling._sample._cache_size()
  for options in (dict(top_k=2), dict(top_p=0.5), dict(top_k=5, top_p=0.1)):
    draw(temperature=1.3, **options)
  assert sampling._sample._cache_size() == before


def test_extreme_uniform_numbers_stay_in_the_support():
  logits = np.random.default_rng(0).normal(0, 3, (2, 4097))
  logits[:, [1, -1]] = -200.0
  uniform = jnp.asarray([0.0, np.nextafter(np.float32(1), np.float32(0))])
  for options in ({}, dict(top_k=50), dict(top_p=0.9)):
    code = choose(logits, uniform, **options)
    assert np.all(np.take_along_axis(
        logits[:, 1:], code[:, None], 1) > -100), options


@pytest.mark.parametrize("options", [
    dict(), dict(temperature=1.0), dict(temperature=3.0, top_k=NUM_CODES,
                                        top_p=1.0)])
def test_the_start_word_is_never_drawn(tiny, options):
  model, params, image = tiny
  head = params["decoder"]["LogitsDense"]
  biased = {**params, "decoder": {**params["decoder"], "LogitsDense": {
      **head, "bias": head["bias"] + 50 * np.eye(10, dtype=np.float32)[0]}}}
  got = sampling.sample(model, biased, image, np.arange(5), **options)
  assert np.all(got.code >= 0) and np.all(got.code < NUM_CODES)
  assert np.all(got.logprob < -20), "the model itself wants the start word"


# One image, one seed, one sample.


def test_a_sample_does_not_depend_on_its_batch(tiny):
  model, params, image = tiny
  seeds = np.arange(5, dtype=np.uint32) * 77

  def draw(order, num_samples=1):
    return np.asarray(sampling.sample(
        model, params, image[order], seeds[order], temperature=1.0,
        num_samples=num_samples).code)

  whole = draw([0, 1, 2, 3, 4])
  assert len({c.tobytes() for c in whole}) == 5
  np.testing.assert_array_equal(draw([3]), whole[[3]])
  # Elsewhere among others, as when the last batch is padded.
  np.testing.assert_array_equal(draw([4, 4, 0, 3, 3]), whole[[4, 4, 0, 3, 3]])
  several = draw([3], num_samples=8)
  np.testing.assert_array_equal(several[0, 0], whole[3, 0])
  assert len({c.tobytes() for c in several[0]}) == 8


def test_a_sample_does_not_depend_on_the_number_of_devices(tiny):
  model, params, image = tiny
  mesh = jax.sharding.Mesh(jax.devices()[:2], ("data",))
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  seeds = np.arange(4, dtype=np.uint32)
  one = sampling.sample(model, params, image[:4], seeds, temperature=1.0)
  on_two = jax.device_put((image[:4], seeds), rows)
  two = sampling.sample(model, params, *on_two,
                        temperature=1.0)
  np.testing.assert_array_equal(one.code, two.code)


def test_seeds_come_from_the_id_and_the_run(tiny):
  seeds = np.asarray(base.example_seeds(np.array([4, 9, 4]), 1))
  assert seeds.dtype == np.uint32
  assert seeds[0] == seeds[2] != seeds[1]
  assert seeds[0] != base.example_seeds(np.array([4]), 2)[0]
  for cut in (-1, 2**32, 1.5):
    with pytest.raises(ConfigError, match="seed = "):
      base.example_seeds(np.array([4]), cut)
  # The same under jit, where a run's seed may be traced.
  traced = jax.jit(base.example_seeds)(np.array([4, 9, 4]), 1)
  np.testing.assert_array_equal(traced, seeds)


def test_sampling_inside_another_jit_is_the_same(tiny):
  model, params, image = tiny
  inside = jax.jit(lambda p, i, s: sampling.sample(
      model, p, i, s, temperature=1.0))(params, image, np.arange(5))
  outside = sampling.sample(model, params, image, np.arange(5), temperature=1.0)
  np.testing.assert_array_equal(inside.code, outside.code)


# The ablation that predicts all words at once.


def test_without_autoregression_words_are_drawn_independently(tiny):
  _, params, image = tiny
  model = lm.LM(**TINY, autoregressive=False)
  nothing = np.zeros((5, 1, model.seq_len), np.int32)
  log_probs = teacher_forced(model, params, image, nothing)
  greedy = sampling.sample(model, params, image, np.arange(5))
  np.testing.assert_array_equal(greedy.code, log_probs[..., 1:].argmax(-1))
  drawn = sampling.sample(model, params, image[:1], [0], temperature=1.0,
                          num_samples=800)
  code = np.asarray(drawn.code)
  want = picked(np.repeat(log_probs[:1], 800, axis=1), code)
  np.testing.assert_allclose(drawn.logprob, want, atol=1e-5)
  last = np.bincount(code[0, :, -1], minlength=NUM_CODES) / 800
  assert chi_square(last, softmax(log_probs[0, 0, -1, 1:]), 800) < 31.8


@pytest.mark.parametrize("options,words", [
    (dict(temperature=-1.0), "temperature = -1.0"),
    (dict(temperature=float("nan")), "temperature = nan"),
    (dict(temperature=float("inf")), "temperature = inf"),
    (dict(temperature=1e39), "temperature = 1e+39"),
    (dict(temperature=10**400), "must be a number in"),
    (dict(num_samples=0), "num_samples = 0"),
    (dict(num_samples=10**9), "num_samples = 1000000000"),
    (dict(top_k=0), "top_k = 0"),
    (dict(top_k=NUM_CODES + 1), "1..9"),
    (dict(top_p=0.0), "top_p = 0.0"),
    (dict(top_p=1.5), "top_p = 1.5")])
def test_options_out_of_range_are_named(tiny, options, words):
  model, params, image = tiny
  with pytest.raises(ConfigError, match=re.escape(words)):
    prior = autoregressive.AutoregressivePrior(model)
    prior.sample(params, image, np.arange(5),
                 **dict(temperature=1.0) | options)


@pytest.mark.parametrize("is_autoregressive", [True, False])
def test_given_words_stay_and_the_words_before_them_too(
    tiny, is_autoregressive):
  _, params, image = tiny
  model = lm.LM(**TINY, autoregressive=is_autoregressive)
  free = sampling.sample(model, params, image, np.arange(5), temperature=1.0)
  given = np.full((5, model.seq_len), -1)
  given[:, 2] = (np.asarray(free.code)[:, 0, 2] + 1) % NUM_CODES
  got = sampling.sample(model, params, image, np.arange(5), temperature=1.0,
                        num_samples=2, given=given)
  code = np.asarray(got.code)
  np.testing.assert_array_equal(code[:, :, 2], given[:, [2, 2]])
  # A word does not know those after it.
  np.testing.assert_array_equal(code[:, 0, :2], free.code[:, 0, :2])
  changed = (code[:, 0, 3:] != np.asarray(free.code)[:, 0, 3:]).any()
  assert changed == is_autoregressive
  # The log-probability is that of the words that were given.
  if is_autoregressive:
    want = picked(teacher_forced(model, params, image, code), code)
    np.testing.assert_allclose(got.logprob, want, atol=1e-5)


@pytest.mark.parametrize("given,words", [
    (np.zeros((5, 4), int), "(5, 4); must be (5, 5)"),
    (np.full((5, 5), NUM_CODES), "from 9 to 9"),
    (np.full((5, 5), -2), "from -2 to -2"),
    (np.zeros((5, 5)), "given has float64")])
def test_given_words_that_are_none_are_named(tiny, given, words):
  model, params, image = tiny
  prior = autoregressive.AutoregressivePrior(model)
  with pytest.raises(ConfigError, match=re.escape(words)):
    prior.sample(params, image, np.arange(5), given=given)
