"""The language model against the released one, and what may depend on what.

Parity is to 1e-5 of the quantity's scale (shared/fixtures/README.md).
"""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from uvim.nn import positions
from uvim.priors import lm, lm_prior, make_prior
from uvim.registry import ConfigError

TINY = dict(num_layers=2, num_heads=2, mlp_dim=16, emb_dim=8,
            patches={"size": (4, 4)}, vocab_size=10, input_size=(8, 12),
            seq_len=6)
LARGE = dict(num_layers=24, num_heads=16, mlp_dim=4096, emb_dim=1024,
             patches={"size": (16, 16)}, vocab_size=4097,
             input_size=(512, 512), seq_len=256)
BASE = LARGE | dict(num_layers=12, num_heads=12, mlp_dim=3072, emb_dim=768)
SIZES = {"tiny": TINY, "base": BASE, "large": LARGE}


def random_params(model, seed=0):
  """Parameters that are all at work: a fresh model's logit head is zero."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(
      lambda r: lm_prior.init_lm(model, r), jax.random.key(0))
  return jax.tree.map(
      lambda x: rng.normal(0, 0.5, x.shape).astype(x.dtype), shapes)


def random_batch(model, batch_size=3, seed=0):
  rng = np.random.default_rng(seed)
  image = rng.uniform(-1, 1, (batch_size, *model.input_size, 3))
  text = rng.integers(1, model.vocab_size, (batch_size, model.seq_len))
  return image.astype(np.float32), text.astype(np.int32)


def nll(logits_BLV, text_BL):
  log_probs = jax.nn.log_softmax(logits_BLV)
  return -jnp.take_along_axis(log_probs, text_BL[..., None], -1)[..., 0]


def nested(path, prefix):
  flat = {k.removeprefix(prefix): v for k, v in np.load(path).items()
          if k.startswith(prefix)}
  return traverse_util.unflatten_dict(flat, sep="/")


def assert_close(got, want, name="", least_scale=0.0):
  """Equal to 1e-5 of the scale of `want`."""
  error = np.abs(np.asarray(got) - want).max()
  assert error <= 1e-5 * max(np.abs(want).max(), least_scale), (name, error)


@pytest.fixture(scope="module")
def released(fixtures):
  """(model, params, image, text, expected) of the stage II fixture."""
  config = json.loads((fixtures / "stage2.json").read_text())["config"]
  fields = {k: config[k] for k in (*TINY, "posemb_type")}
  given = np.load(fixtures / "stage2_params.npz")
  return (lm.LM(**fields), nested(fixtures / "stage2_params.npz", "params/"),
          given["image"], given["text"],
          dict(np.load(fixtures / "stage2_out.npz")))


def test_forward_equals_the_released_model(released):
  model, params, image, text, want = released

  @jax.jit
  def forward(params):
    model_ = model.bind({"params": params})
    encoded = model_.encode(image)
    return encoded, model_.logits(encoded, text), model_(image, text)

  encoded, logits, both = forward(params)
  assert_close(encoded, want["encoded"])
  assert_close(logits, want["logits"])
  np.testing.assert_array_equal(logits, both)
  loss = nll(logits, text)
  assert_close(loss.mean(), want["loss"])
  assert_close(loss.mean(1), want["loss_per_example"])
  assert_close(loss.sum(1), want["loss_sum_per_example"])


def test_gradients_equal_the_released_models(released, fixtures):
  model, params, image, text, _ = released

  @jax.jit
  @jax.grad
  def grad(params):
    return nll(model.apply({"params": params}, image, text), text).mean()

  got = traverse_util.flatten_dict(grad(params), sep="/")
  want = traverse_util.flatten_dict(
      nested(fixtures / "stage2_grad.npz", "grad/"), sep="/")
  assert got.keys() == want.keys()
  # The gradient of a key's bias is 0 (it shifts all scores of a query alike):
  # what is left of it is rounding, which depends on the compiler.
  least = 1e-2 * max(np.abs(x).max() for x in want.values())
  for name in want:
    assert_close(got[name], want[name], name, least)


@pytest.mark.parametrize("name,grid", [("4x4", (4, 4)), ("1x16", (1, 16))])
def test_fixed_position_embedding_equals_the_released_one(
    fixtures, name, grid):
  want = np.load(fixtures / "stage2_out.npz")[f"posemb_sincos2d_{name}_32"]
  assert_close(positions.sincos2d(grid, 32), want)


def test_fixed_position_embedding_is_not_a_parameter():
  names = shapes_of("tiny", posemb_type="sincos2d")
  assert not [k for k in names if "pos_embedding" in k]


@functools.cache
def shapes_of(size, **fields):
  model = lm.LM(**(SIZES[size] | fields))
  tree = jax.eval_shape(
      lambda r: lm_prior.init_lm(model, r), jax.random.key(0))
  return traverse_util.flatten_dict(tree, sep="/")


def test_parameter_names_and_shapes_are_the_published_ones(fixtures):
  lines = (fixtures / "param_tree_stage2_panoptic.txt").read_text().splitlines()
  want = {tuple(line.split("\t")) for line in lines if line.startswith("param")}
  have = {(f"params/{k}", str(v.shape), str(v.dtype))
          for k, v in shapes_of("large").items()}
  assert have == want


@pytest.mark.parametrize("fields,count", [
    (dict(size="large"), 715_729_921),
    (dict(size="large", input_size=(1280, 1280)), 721_234_945),
    (dict(size="base"), 206_275_841),
    (dict(size="base", input_size=(1280, 1280)), 210_404_609)])
def test_parameter_counts(fields, count):
  shapes = shapes_of(**fields)
  assert sum(math.prod(s.shape) for s in shapes.values()) == count


def test_large_encoder_count():
  shapes = shapes_of("large")
  assert sum(math.prod(s.shape) for k, s in shapes.items()
             if k.startswith("encoder/")) == 302_311_424


def test_a_fresh_model_is_uniform_over_the_vocabulary():
  model = lm.LM(**TINY | dict(num_layers=1))
  image, text = random_batch(model)
  params = lm_prior.init_lm(model, jax.random.key(0))
  logits_BLV = jax.jit(model.apply)({"params": params}, image, text)
  loss = nll(logits_BLV, text)
  np.testing.assert_allclose(loss, math.log(model.vocab_size), rtol=1e-6)
  # The paper's dictionary: 4096 words and the start word.
  assert math.log(LARGE["vocab_size"]) == pytest.approx(8.3180, abs=5e-5)


def test_a_logit_sees_the_words_before_it_and_no_other():
  model = lm.LM(**TINY)
  params = random_params(model)
  image, text = random_batch(model, batch_size=1)
  # One row per word: the same text with that word changed.
  length = model.seq_len
  text = np.repeat(text, length, axis=0)
  other = text.copy()
  other[range(length), range(length)] %= model.vocab_size - 1
  other[range(length), range(length)] += 1
  forward = jax.jit(lambda t: model.apply(
      {"params": params}, jnp.repeat(image, length, axis=0), t))
  change = np.abs(forward(other) - forward(text)).max(-1)
  for changed in range(length):
    assert np.all(change[changed, :changed + 1] == 0)
    assert np.all(change[changed, changed + 1:] > 1e-4)


def test_without_autoregression_no_logit_depends_on_a_word():
  model = lm.LM(**TINY, autoregressive=False)
  params = random_params(model)
  image, text = random_batch(model)
  forward = jax.jit(lambda i, t: model.apply({"params": params}, i, t))
  logits = forward(image, text)
  np.testing.assert_array_equal(logits, forward(image, text[:, ::-1]))
  assert np.abs(logits - forward(-image, text)).max() > 1e-3
  # The released ablation zeroes embeddings: word 0 itself means something.
  plain = jax.jit(lm.LM(**TINY).apply)({"params": params}, image, 0 * text)
  assert np.abs(logits - plain).max() > 1e-3


def test_bfloat16_changes_precision_only():
  model = lm.LM(**TINY)
  params = random_params(model)
  image, text = random_batch(model)
  fine = jax.jit(model.apply)({"params": params}, image, text)
  coarse_model = lm.LM(**TINY, dtype="bfloat16")
  assert shapes_of("tiny") == shapes_of("tiny", dtype="bfloat16")
  coarse = jax.jit(coarse_model.apply)({"params": params}, image, text)
  assert coarse.dtype == jnp.float32
  difference = np.abs(coarse - fine)
  assert 0 < difference.mean() < 0.03 * np.abs(fine).mean()
  # Rounded to bfloat16 somewhere, the logits would tie.
  assert np.any(coarse != coarse.astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("fields,words", [
    (dict(num_heads=3), ["num_heads = 3", "emb_dim 8"]),
    (dict(decoder_heads=3), ["decoder_heads = 3", "emb_dim 8"]),
    (dict(num_layers=0), ["num_layers = 0"]),
    (dict(seq_len=2.5), ["seq_len = 2.5"]),
    (dict(vocab_size=1), ["vocab_size = 1", "integer ≥ 2"]),
    (dict(input_size=(8, 10)), ["patches.size", "(8, 10)"]),
    (dict(input_size=64), ["input_size = 64"]),
    (dict(patches=(4, 4)), ["patches = (4, 4)", "size"]),
    (dict(patches={"size": [4]}), ["patches = {'size': [4]}"]),
    (dict(posemb_type="learned"), ["posemb_type = 'learned'", "learn"]),
    (dict(posemb_type="sincos2d", emb_dim=6), ["emb_dim = 6"]),
    (dict(dtype="float16"), ["dtype", "bfloat16"]),
    (dict(autoregressive="no"), ["autoregressive = 'no'"]),
    (dict(attention="flash"), ["model.attention = 'flash'", "fused"]),
    (dict(remat="all"), ["model.remat = 'all'", "block"]),
    (dict(scan_layers="yes"), ["scan_layers = 'yes'"]),
    (dict(style="arr"), ["model.style 'arr'", "Did you mean 'ar'"])])
def test_sizes_that_do_not_fit_are_named(fields, words):
  with pytest.raises(ConfigError) as error:
    make_prior(TINY | fields, "config.model")
  for word in words:
    assert word in str(error.value)


def test_sizes_that_fit_pass():
  make_prior(TINY, "config.model")
  make_prior(LARGE | dict(posemb_type="sincos2d", autoregressive=False,
                          dtype="bfloat16"), "config.model")


def test_a_word_on_a_grid_gets_the_image_token_at_its_place():
  sizes = TINY | {"code_grid": (2, 3)}
  model = lm.LM(**sizes)
  params = lm_prior.init_lm(model, jax.random.key(0))

  @jax.jit
  def places(encoded_BND):
    bound = model.bind({"params": params})
    return bound.packed_decoder(encoded_BND)["places"]

  encoded_BND = np.random.default_rng(0).normal(size=(2, 6, 8))
  before = places(jnp.float32(encoded_BND))
  # A change of one token of one image changes one place of that image.
  encoded_BND[1, 4] += 1
  after = places(jnp.float32(encoded_BND))
  has_changed_BL = np.any(np.asarray(before != after), axis=-1)
  assert np.argwhere(has_changed_BL).tolist() == [[1, 4]]
  with pytest.raises(ConfigError, match=r"\(2, 2\) has 4 places; seq_len = 6"):
    lm.check_lm(lm.LM(**sizes | {"code_grid": (2, 2)}))
