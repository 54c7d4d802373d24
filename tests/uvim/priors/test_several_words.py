"""Several words a pass: the words of one a pass, in fewer passes."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.uvim.priors.test_sampling import with_random_params
from uvim.priors import lm, make_prior, several_words
from uvim.priors.draft import NAME
from uvim.registry import ConfigError

LENGTH = 20
NUM_CODES = 9
NUM_CLASSES = 5
TINY = dict(num_layers=2, num_heads=2, mlp_dim=32, emb_dim=16,
            patches={"size": (4, 4)}, vocab_size=NUM_CODES + 1,
            input_size=(8, 8), seq_len=LENGTH)
SEEDS = np.arange(NUM_CLASSES)
CODEWORDS = np.random.default_rng(1).normal(
    size=(NUM_CODES, 3)).astype(np.float32)
GREEDY = {}
# A given word here and there, and what else a pass has to keep apart.
SAMPLED = dict(
    temperature=1.0, num_samples=2, soft_words=1.0, codewords=CODEWORDS,
    given=np.where(np.arange(LENGTH) % 7 == 3, SEEDS[:, None], -1))
MODES = {"greedy": GREEDY, "sampled": SAMPLED}


@functools.cache
def make(words_per_pass, draft=None, **fields):
  """A prior; equal ones share their compiled programs."""
  several = dict(words_per_pass=words_per_pass, draft=draft)
  return make_prior({**TINY, **several, **fields}, "config.model")


def class_images():
  """An image of each class, which its brightness tells."""
  brightness_B = np.linspace(-1, 1, NUM_CLASSES, dtype=np.float32)
  return np.broadcast_to(
      brightness_B[:, None, None, None], (NUM_CLASSES, 8, 8, 3))


@pytest.fixture(scope="module")
def fitted():
  """(parameters, images) of a model of a code that repeats its words."""
  prior = make(1, draft=32)
  image = class_images()
  code = (SEEDS[:, None] + np.arange(LENGTH) // 5) % NUM_CODES
  params = prior.init(jax.random.key(0))
  optimizer = optax.adam(0.01)

  @jax.jit
  def fit(params):
    def step(carry, _):
      params, state = carry
      gradient = jax.grad(mean_loss)(params)
      updates, state = optimizer.update(gradient, state)
      return (optax.apply_updates(params, updates), state), None

    def mean_loss(params):
      return jnp.mean(prior.loss(params, image, code)[0])

    carry = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(step, carry, length=60)
    return params

  return fit(params), image


@pytest.fixture(scope="module")
def noise():
  """(parameters, images) of a model whose words nobody can guess."""
  prior = make(1, draft=32)
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(prior.init, jax.random.key(0))
  params = jax.tree.map(
      lambda x: rng.normal(0, 0.4, x.shape).astype(x.dtype), shapes)
  image = rng.uniform(-1, 1, (NUM_CLASSES, 8, 8, 3)).astype(np.float32)
  return params, image


def draw(prior, params_and_image, options, order=SEEDS):
  params, image = params_and_image
  if prior.draft is None:
    params = {name: x for name, x in params.items() if name != NAME}
  options = dict(options)
  if "given" in options:
    options["given"] = options["given"][order]
  return prior.sample(params, image[order], SEEDS[order], **options)


def words_per_pass(samples):
  return samples.code.size / np.sum(samples.passes)


def assert_same(got, want):
  np.testing.assert_array_equal(got.code, want.code)
  np.testing.assert_allclose(got.logprob, want.logprob, atol=1e-4)
  if want.vectors is not None:
    np.testing.assert_allclose(got.vectors, want.vectors, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_words,draft", [
    (2, None), (4, None), (8, None), (4, 32)])
def test_words_are_those_of_one_word_a_pass(
    fitted, noise, mode, num_words, draft):
  options = MODES[mode]
  prior = make(num_words, draft)
  for model in (noise, fitted):
    want = draw(make(1), model, options)
    assert want.passes is None
    got = draw(prior, model, options)
    assert_same(got, want)
    assert got.passes.shape == want.code.shape[:2]
    # Each pass draws at least one word, and at most K.
    assert np.all(got.passes <= LENGTH)
    assert np.all(got.passes >= -(-LENGTH // num_words))
  # What repeats itself can be guessed.
  assert words_per_pass(got) > 1.2


def test_a_draft_that_has_learned_guesses_better(fitted):
  without = draw(make(4), fitted, GREEDY)
  with_draft = draw(make(4, 32), fitted, GREEDY)
  assert words_per_pass(with_draft) > words_per_pass(without)


@pytest.mark.parametrize("draft", [None, 32])
def test_words_that_are_all_given_take_the_fewest_passes(noise, draft):
  code = np.random.default_rng(2).integers(0, NUM_CODES, (5, LENGTH))
  got = draw(make(4, draft), noise, SAMPLED | dict(given=code))
  np.testing.assert_array_equal(got.code[:, 0], code)
  np.testing.assert_array_equal(got.passes, np.full((5, 2), LENGTH // 4))


def test_no_row_waits_for_another(noise, fitted):
  # Half of the rows are of words that are given, half can hardly be guessed.
  given = np.array(SAMPLED["given"])
  given[::2] = 0
  options = SAMPLED | dict(given=given)
  whole = draw(make(4), noise, options)
  assert np.all(whole.passes[::2] == LENGTH // 4)
  assert np.all(whole.passes[1::2] > LENGTH // 4)
  order = np.array([4, 4, 0, 3, 3])
  other = draw(make(4), noise, options, order)
  np.testing.assert_array_equal(other.code, whole.code[order])
  np.testing.assert_array_equal(other.passes, whole.passes[order])


def test_places_of_the_image_go_along():
  model = with_random_params(lm.LM(**TINY, code_grid=(5, 4)))
  _, params, image = model
  want = make(1, code_grid=(5, 4)).sample(params, image, SEEDS)
  got = make(4, code_grid=(5, 4)).sample(params, image, SEEDS)
  assert_same(got, want)


def test_a_draft_changes_nothing_that_the_language_model_learns():
  plain = make(1)
  drafting = make(1, draft=32)
  params = plain.init(jax.random.key(3))
  params_with_draft = drafting.init(jax.random.key(3))
  # Heads start from zeros, which would hide the encoder's gradient.
  params, params_with_draft = jax.tree.map(
      lambda x: x + 0.01, (params, params_with_draft))
  image = class_images()
  code = np.arange(NUM_CLASSES * LENGTH).reshape(-1, LENGTH) % NUM_CODES

  def loss_of(prior, params):
    loss_B, logs = prior.loss(params, image, code)
    return jnp.mean(loss_B), (loss_B, logs)

  @functools.partial(jax.jit, static_argnums=0)
  def learn(prior, params):
    return jax.grad(functools.partial(loss_of, prior), has_aux=True)(params)

  want, (loss_B, logs) = learn(plain, params)
  assert logs == {}
  got, (loss_with_draft_B, logs) = learn(drafting, params_with_draft)
  np.testing.assert_allclose(loss_with_draft_B, loss_B, rtol=1e-6)
  assert logs["draft_nll"].shape == (NUM_CLASSES,)
  of_draft = got.pop(NAME)
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, atol=1e-7), got, want)
  head = of_draft["decoder"]["LogitsDense"]["kernel"]
  assert np.abs(head).max() > 1e-4


def test_without_a_draft_the_parameters_are_those_of_the_language_model():
  shapes = jax.eval_shape(make(4).init, jax.random.key(0))
  assert NAME not in shapes
  with_draft = jax.eval_shape(make(4, draft=32).init, jax.random.key(0))
  assert with_draft.keys() == shapes.keys() | {NAME}


def test_cpus_draw_word_by_word_unless_told():
  assert several_words.default_words_per_pass(1) == 1


@pytest.mark.parametrize("fields,words", [
    (dict(words_per_pass=0), "words_per_pass = 0"),
    (dict(words_per_pass=65), "1..64"),
    (dict(draft=48), "a multiple of 32"),
    (dict(draft=0), "draft = 0"),
    (dict(words_per_pass=4, autoregressive=False),
     "words_per_pass = 4; with autoregressive = False"),
    (dict(style="masked", draft=32), "draft")])
def test_fields_that_no_model_can_have_are_named(fields, words):
  with pytest.raises(ConfigError, match=re.escape(words)):
    make_prior({**TINY, **fields}, "config.model")


def test_vectors_in_place_of_words_cannot_be_guessed(noise):
  with pytest.raises(ConfigError, match="soft_inputs = 1.0; .*_pass = 4"):
    draw(make(4), noise, dict(soft_inputs=1.0))
