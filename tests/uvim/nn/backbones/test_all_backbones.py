"""What every network of the table does, whatever it computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim.nn.backbones import BACKBONES

SIZES = dict(input_size=(16, 24), patch_size=(8, 8), depth=2, width=16,
             mlp_dim=16, num_heads=2)
ROWS, COLUMNS = 2, 3
# A softmax does not see what is added to all keys, nor does a layer norm see
# what is added to all channels of a token.
INVISIBLE = ("key/bias", "token_mixing/Dense_1/bias")
EACH = pytest.mark.parametrize("name", BACKBONES)


def make(name, **changes):
  return BACKBONES[name](**(SIZES | changes))


def random_images(batch_size=2):
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (batch_size, 16, 24, 3)).astype(np.float32)


def random_params(network):
  """Noise: some fresh parameters are zeros or ones."""
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(network.init, jax.random.key(0), random_images())
  return jax.tree.map(
      lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), shapes)


@functools.cache
def compiled(name, **changes):
  return jax.jit(make(name, **changes).apply)


def run(name, params, image, **changes):
  return np.asarray(compiled(name, **changes)(params, image))


@EACH
def test_the_check_lets_these_sizes_pass(name):
  make(name).check("config.model.backbone")


@EACH
def test_tokens_are_those_of_patches_row_by_row(name):
  # Without blocks a token knows its own patch and at most the edge of another.
  params = random_params(make(name, depth=0))
  image = random_images(1)
  before = run(name, params, image, depth=0)
  assert before.shape == (1, ROWS * COLUMNS, SIZES["width"])
  for row in range(ROWS):
    for column in range(COLUMNS):
      changed = image.copy()
      # Convolutions of stride 2 at other places do not reach this pixel.
      changed[0, 8 * row, 8 * column] += 1
      after = run(name, params, changed, depth=0)
      is_changed_N = np.any(after != before, axis=(0, 2))
      assert np.flatnonzero(is_changed_N) == row * COLUMNS + column


@EACH
def test_no_image_depends_on_another(name):
  params = random_params(make(name))
  images = random_images(2)
  both = run(name, params, images)
  for i in range(2):
    alone = run(name, params, images[i:i + 1])
    np.testing.assert_allclose(alone[0], both[i], atol=2e-5)


@EACH
def test_every_parameter_matters(name):
  network = make(name)
  images = random_images()

  def loss(params):
    return jnp.sum(jnp.sin(network.apply(params, images)))

  gradients = jax.jit(jax.grad(loss))(random_params(network))
  for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
    parameter = jax.tree_util.keystr(path, simple=True, separator="/")
    if not parameter.endswith(INVISIBLE):
      assert np.abs(gradient).max() > 1e-6, parameter


@EACH
def test_a_scan_over_layers_and_remat_change_nothing(name):
  options = {"scan_layers": True, "remat": "block"}
  images = random_images()
  params = random_params(make(name))

  def loss_and_gradients(**changes):
    network = make(name, **changes)

    def loss(params):
      return jnp.mean(jnp.square(network.apply(params, images)))

    return jax.jit(jax.value_and_grad(loss))(params)

  want = loss_and_gradients()
  got = loss_and_gradients(**options)
  jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
      got, want)
  # Fresh parameters have their names and values whatever the options are.
  fresh = jax.jit(make(name).init)(jax.random.key(0), images)
  with_options = jax.jit(make(name, **options).init)(jax.random.key(0), images)
  jax.tree.map(np.testing.assert_array_equal, with_options, fresh)


@EACH
def test_bfloat16_keeps_float32_parameters_and_stays_close(name):
  images = random_images()
  network = make(name, dtype="bfloat16")
  params = jax.jit(network.init)(jax.random.key(0), images)
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  got = compiled(name, dtype="bfloat16")(params, images)
  assert got.dtype == jnp.bfloat16
  want = run(name, params, images)
  np.testing.assert_allclose(np.float32(got), want, atol=0.15)
